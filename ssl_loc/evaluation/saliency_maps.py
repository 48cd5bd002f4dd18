"""Saliency maps against masks: the measures of the salient-object benchmark, with bootstrap errors.

1. images are those with a mask; maps are matched by name without suffix; images without a map are named and left out;
2. maps of another size than their mask are resized (bilinear) and counted; those of another shape (turned, cropped,
   squeezed) are named and left out;
3. F-measure (beta^2 = .3), MAE and IoU as in ``ssl_loc/saliency/metrics.py``; images with an empty mask are left out;
4. several folders: each is compared with the first on the images that both have, resampled together.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ssl_loc.config import CfgNode
from ssl_loc.data.image_io import read_map
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.map_folders import Masks, open_masks, pictures_by_stem, same_shape
from ssl_loc.evaluation.weights import Weights
from ssl_loc.saliency.metrics import SAMPLES, ImageScore, MapScores, match_size, paired_differences, score_map
from ssl_loc.saliency.store import first_names
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.progress import progress_bar

logger = logging.getLogger(__name__)
PROTOCOL = "saliency"
# Behind the name of a folder that lacks maps.
MARK = "*"


@EVALUATOR_REGISTRY.register(name=PROTOCOL)
class SaliencyMaps:
    """F-measure, MAE and IoU of folders of saliency maps against masks (takes --maps, no weights)."""

    version = "2"
    seeded = False
    resumable = False  # differences to the first folder need its scores

    def __init__(self, *, stretch: bool = False, samples: int = SAMPLES, seed: int = 0) -> None:
        if samples < 2:
            raise ConfigError(f"SALIENCY.BOOTSTRAP is {samples}; expected at least 2 resamples")
        self.stretch, self.samples, self.seed = stretch, samples, seed
        # The folder that the others are compared with: the first one scored.
        self.reference: tuple[str, MapScores] | None = None

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # Move each map's minimum to 0 and its maximum to 1 first (the benchmark's habit; constant maps stay).
        node.STRETCH = False
        # Resamples of the images behind the standard errors.
        node.BOOTSTRAP = SAMPLES
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        return {"stretch": options.SALIENCY.STRETCH, "samples": options.SALIENCY.BOOTSTRAP, "seed": options.SEED}

    def check_weights(self, weights: Weights) -> None:
        """A folder of maps."""
        weights.require_maps()

    def check_data(self, data: EvalData) -> None:
        """Masks."""
        open_masks(data)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        masks = open_masks(data)
        rows, details = self.score(weights, masks)
        scores = MapScores.collect(rows)
        precision, recall = scores.curve()
        errors = scores.standard_errors(self.samples, self.seed)
        details |= {
            "data": data.spec or data.masks,
            "images": len(scores),
            "images_empty_mask": len(scores.without_object),
            "options": {"stretch": self.stretch, "bootstrap": self.samples},
            "standard_errors": errors,
            "differences": self.differences(weights.label, scores),
            "curve": {"precision": _short(precision), "recall": _short(recall)},
            "per_image": {
                "name": scores.names,
                **{key: _short(getattr(scores, key)) for key in ("adaptive_f", "iou", "mae")},
            },
        }
        # Every table shows how many photos the numbers are about.
        metrics = {**scores.metrics(), "images": float(len(scores))}
        return Result(PROTOCOL, self.version, metrics, seed=self.seed, details=details)

    def score(self, weights: Weights, masks: Masks) -> tuple[list[tuple[str, ImageScore | None]], dict[str, Any]]:
        """Scores of every image with a map, and what was missing, unfit or resized."""
        files = pictures_by_stem(weights.path)
        there = [name for name in masks.names if name in files]
        missing = [name for name in masks.names if name not in files]
        if not there:
            raise DataError(
                f"{weights.path} has no map for any of {len(masks.names)} masks ({first_names(masks.names)}); expected "
                "the same names, suffixes aside"
            )
        if missing:
            logger.warning("%s: %d images have no map: %s", weights.label, len(missing), first_names(missing))
        rows: list[tuple[str, ImageScore | None]] = []
        resized, unfit = 0, []
        for name in progress_bar(there, desc=f"maps of {weights.label}", unit="map"):
            mask, grey = masks.read(name), read_map(files[name])
            size = mask.shape[0], mask.shape[1]
            if not same_shape((grey.shape[0], grey.shape[1]), size):
                unfit.append(name)
                continue
            grey, changed = match_size(grey, size)
            resized += changed
            rows.append((name, score_map(grey, mask, stretch=self.stretch)))
        if unfit:
            what = f"{len(unfit)} maps have another shape than their masks: {first_names(unfit)}"
            if not rows:
                raise DataError(
                    f"{weights.path}: all {what}; expected maps of the size of the photos, or smaller in proportion: "
                    "turn or resize them first"
                )
            logger.warning("%s: %s; they are left out", weights.label, what)
        if resized:
            logger.info("%s: %d maps were resized to their masks", weights.label, resized)
        found = {"masks": len(masks.names), "images_missing": missing, "images_unfit": unfit, "images_resized": resized}
        return rows, found

    def differences(self, label: str, scores: MapScores) -> dict[str, Any] | None:
        """This folder minus the first one, on the images that both have; None for the first."""
        if self.reference is None:
            self.reference = (label, scores)
            return None
        to, first = self.reference
        found, images = paired_differences(scores, first, self.samples, self.seed)
        return {"to": to, "images": images, **{key: [d.value, d.error] for key, d in found.items()}}


def _short(values: Any) -> list[float]:
    return [round(float(value), 5) for value in values]


def errors_table(results: Sequence[dict[str, Any]]) -> str:
    """Every number with its standard error, and the difference to the first folder, of results of this protocol.

    Folders that lack maps are marked: their rows are about other photos than those of the complete ones.
    """
    from tabulate import tabulate

    results = [r for r in results if r["protocol"] == PROTOCOL]
    rows: list[list[str]] = []
    columns = ("max_f", "adaptive_f", "mean_f", "iou", "mae")
    for r in results:
        errors, details = r["details"]["standard_errors"], r["details"]
        numbers = (f"{r['metrics'][key]:.4f} +- {errors[key]:.4f}" for key in columns)
        rows.append([details["label"] + MARK * incomplete(details), *counts(details), *numbers])
        difference = details["differences"]
        if difference:
            values = (f"{difference[key][0]:+.4f} +- {difference[key][1]:.4f}" for key in columns)
            rows.append([f"  minus {difference['to']}", str(difference["images"]), "", "", "", *values])
    table = tabulate(rows, headers=["maps", "photos", "missing", "unfit", "resized", *columns], disable_numparse=True)
    marked = [r["details"]["label"] for r in results if incomplete(r["details"])]
    if not marked:
        return table
    return (
        f"{table}\n{MARK} {', '.join(marked)}: scored on a part of the masks only; compare with other folders by the "
        "'minus' rows, which are about the photos that both have"
    )


def incomplete(details: dict[str, Any]) -> bool:
    """True if a folder was scored on fewer photos than there are masks."""
    return bool(details["images_missing"] or details.get("images_unfit"))


def counts(details: dict[str, Any]) -> list[str]:
    """Photos scored, without a map, with a map of another shape, and with a map that was resized."""
    unfit = details.get("images_unfit", ())  # version 1 scored them
    there = (details["images"], len(details["images_missing"]), len(unfit), details["images_resized"])
    return list(map(str, there))
