"""Fine-tuning folders as tools/finetune_det.py leaves them, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.detection_recipe import tiny_recipe
from ssl_loc.transfer.datasets import get_detection_dataset
from ssl_loc.transfer.detection_scores import save_scores
from ssl_loc.transfer.metrics import evaluate
from ssl_loc.transfer.predictions import ImagePrediction, encode_masks, save_predictions
from ssl_loc.transfer.run import RECIPE_FILE, RESULT_FILE, inference_file
from ssl_loc.utils.file_io import write_json, write_text


def noisy_predictions(dataset: Any, seed: int, noise: float, with_masks: bool) -> list[ImagePrediction]:
    """Every object found, its box moved by about ``noise`` px, and one false detection per image."""
    generator = np.random.default_rng(seed)
    predictions = []
    for record in dataset.dicts:
        boxes = [np.array(a["bbox"], dtype=float) for a in record["annotations"]] + [np.array([1.0, 1.0, 9.0, 9.0])]
        classes = [a["category_id"] for a in record["annotations"]] + [0]
        moved = np.stack(boxes) + generator.normal(0, noise, (len(boxes), 4))
        scores = np.append(generator.uniform(0.4, 1, len(boxes) - 1), 0.35)
        masks = np.zeros((len(boxes), record["height"], record["width"]))
        for mask, (x1, y1, x2, y2) in zip(masks, moved.round().astype(int).clip(0), strict=True):
            mask[y1:y2, x1:x2] = 1
        codes = encode_masks(masks) if with_masks else None
        predictions.append(ImagePrediction(record["image_id"], moved, scores, np.array(classes), codes))
    return predictions


def write_detection_run(
    folder: Path,
    names: dict[str, str],
    *,
    kind: str = "FPN",
    seed: int = 0,
    noise: float = 1.0,
    weights: str = "backbone.pth",
    engine: str = "torchvision",
    overrides: tuple[Any, ...] = (),
) -> Path:
    """A folder with result.json, recipe, losses, predictions and scores; returns it.

    Args:
        names: of ``draw_detection_data``.
        kind: "C4", "FPN" (VOC) or "mask" (COCO).
    """
    recipe = tiny_recipe(kind, names, folder, "SEED", seed, *overrides)
    metrics: dict[str, float] = {}
    for name in recipe.DATASETS.TEST:
        dataset = get_detection_dataset(name)
        predictions = noisy_predictions(dataset, seed, noise, recipe.MODEL.MASK_ON)
        scores = evaluate(dataset, predictions, recipe.MODEL.MASK_ON)
        save_predictions(inference_file(folder, name, ".json"), name, predictions)
        save_scores(inference_file(folder, name, "_scores.json"), scores)
        prefix = f"{name}/" if len(recipe.DATASETS.TEST) > 1 else ""
        metrics.update({f"{prefix}{key}": value for key, value in scores.metrics.items()})
    details = {
        "engine": engine,
        "engine_version": "9.9",
        "recipe": recipe.to_dict(),
        "trunk": {"method": "MoCo", "dataset": "folder:photos", "mask_source": "rbd", "uses_labels": False},
        "seconds": {"training": 4000.0, "prediction": 12.0},
        "processes": 1,
        "environment": {"version/torch": "8.8.8"},
    }
    value: dict[str, Any] = {"protocol": "detection", "version": "1", "metrics": metrics, "seed": seed}
    write_json(
        folder / RESULT_FILE, {**value, "weights": weights, "digest": f"digest of {weights}", "details": details}
    )
    write_text(folder / RECIPE_FILE, recipe.dump_yaml())
    losses = ("total_loss", "loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc")
    rows = [{"iteration": i, **dict.fromkeys(losses, 1.0 / i), "lr": 0.1} for i in (1, 2, 3)]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder
