"""The sections of a run's report, each usable on its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.grounding import Grounding
from ssl_loc.evaluation.runner import data_name, protocol_name
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.cams import cams_figure, compute_cams
from ssl_loc.visualization.curves import Run, curves_figure
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.detections import detections_figure
from ssl_loc.visualization.report import Picture, Section, Table
from ssl_loc.visualization.views import sample_views, views_caption, views_figure

logger = logging.getLogger(__name__)

# Keys a reader asks for first; the whole config stands behind a fold.
KEY_SETTINGS = (
    ("method", "MODEL.METHOD"),
    ("losses", "LOSS.NAMES"),
    ("backbone depth", "MODEL.RESNET.DEPTH"),
    ("lambda (attention weight)", "LOSS.GRAD_CAM_ATTENTION.WEIGHT"),
    ("phi (crop constraint)", "AUGMENT.CONSTRAINED_CROP.PHI"),
    ("training data", "DATA.TRAIN"),
    ("masks", "DATA.MASKS.SOURCE"),
    ("view size, px", "AUGMENT.SIZE"),
    ("batch, images", "SOLVER.IMS_PER_BATCH"),
    ("base lr", "SOLVER.BASE_LR"),
    ("epochs", "SOLVER.EPOCHS"),
    ("steps (if set)", "SOLVER.MAX_ITER"),
    ("seed", "SEED"),
)
# Metrics of which less is better; of the others more is.
LOWER_IS_BETTER = ("zero_cam_rate",)
# Metrics that describe the data, not the model: nobody wins them.
NEUTRAL = ("iou_of_full_map",)


def settings_section(folders: Sequence[Path]) -> Section:
    """The main settings of each run side by side; the rows in which runs differ are marked."""
    configs = [read_run_config(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    rows = []
    for title, key in KEY_SETTINGS:
        values = [_get(cfg, key) for cfg in configs]
        differs = len({str(v) for v in values}) > 1
        rows.append([title + (" (differs)" if differs else ""), *[_short(v) for v in values]])
    folded = {}
    for folder, name in zip(folders, names, strict=True):
        for file, what in (("config.yaml", "whole config"), ("env.txt", "environment")):
            if (folder / file).is_file():
                folded[f"{name}: {what}"] = (folder / file).read_text(encoding="utf-8")
    return Section("Settings", tables=[Table(["setting", *names], rows)], folded=folded)


def read_run_config(folder: Path) -> CfgNode:
    """The config a run was made with."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"no config.yaml in {folder}; expected the OUTPUT_DIR of a run of tools/train_net.py")
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.freeze()
    return cfg


def numbers_section(results: Sequence[dict[str, Any]]) -> Section:
    """One table per protocol, version, engine and dataset; published numbers beside the measured ones."""
    tables = []
    groups = dict.fromkeys((protocol_name(r), data_name(r)) for r in results)
    for group in groups:
        part = [r for r in results if (protocol_name(r), data_name(r)) == group]
        tables.append(_numbers_table(part, *group))
    text = "Best value of each column in bold. Differences below the spread over seeds mean nothing: repeat with other seeds."
    return Section("Numbers", text=text if tables else "", tables=tables)


def _numbers_table(part: Sequence[dict[str, Any]], protocol: str, data: str) -> Table:
    metrics = list(dict.fromkeys(m for r in part for m in r["metrics"]))
    published = [r["details"].get("published") or {} for r in part]
    columns, best = ["weights"], {}
    for m in metrics:
        columns.append(m)
        if m not in NEUTRAL:
            best[m] = "min" if m in LOWER_IS_BETTER else "max"
        if any(m in p for p in published):
            columns.append(f"{m}, published")
    rows = []
    for r, known in zip(part, published, strict=True):
        row: list[Any] = [r["details"]["label"]]
        for m in metrics:
            row.append(r["metrics"].get(m))
            if f"{m}, published" in columns:
                row.append(known[m]["value"] if m in known else None)
        rows.append(row)
    sources = dict.fromkeys(str(v["source"]) for p in published for v in p.values())
    caption = f"{protocol} on {data}" + (f"; published: {', '.join(sources)}" if sources else "")
    return Table(columns, rows, caption, best)


def curves_section(runs: Sequence[Run]) -> Section:
    text = (
        "A contrastive loss may rise first, while the queue fills with real, harder keys; once it is full, the loss "
        "should fall below the chance level. A spread near 1/sqrt(D) means that the embedding uses its whole sphere; "
        "near 0 it has collapsed."
    )
    return Section("Training curves", text, figures=[Picture(curves_figure(runs), "Numbers logged in training.", True)])


def views_section(cfg: CfgNode, count: int = 5) -> Section:
    rows = sample_views(cfg, count)
    return Section("What the network sees", figures=[Picture(views_figure(rows), views_caption(rows), wide=True)])


def cams_section(weights: Sequence[Weights], data: EvalData, protocol: Grounding, count: int = 6) -> Section:
    batch, panels = compute_cams(weights, data, protocol, count)
    caption = (
        "Grad-CAM of matching the query with the masked key (red: the match depends on it), with the IoU of its "
        "strongest part and the query's mask. Same crops for every model."
    )
    return Section("Where the models look", figures=[Picture(cams_figure(batch, panels), caption, wide=True)])


def density_section(results: Sequence[dict[str, Any]]) -> Section:
    if not any(r["protocol"] == "grounding" for r in results):
        return Section("Grounding density")
    caption = (
        "Density of the IoU over images (Gaussian kernel, Scott's bandwidth, reflected at 0 and 1). Mass further "
        "right: the Grad-CAM covers the object better."
    )
    return Section("Grounding density", figures=[Picture(density_figure(results), caption)])


def detections_section(results: Sequence[dict[str, Any]], count: int = 4) -> Section:
    """Pictures of every detection result that has its predictions beside it, grouped by dataset and engine."""
    files: dict[tuple[str, str], list[tuple[str, Path]]] = {}
    for r in results:
        if r["protocol"] != "detection":
            continue
        for path in sorted((Path(r["file"]).parent / "inference").glob("*.json")):
            files.setdefault((path.stem, r["details"].get("engine", "")), []).append((r["details"]["label"], path))
    figures = [
        Picture(detections_figure(found, count), f"Detections on {name} ({engine}) beside the ground truth.", wide=True)
        for (name, engine), found in files.items()
    ]
    return Section("Detections", figures=figures)


def _get(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
