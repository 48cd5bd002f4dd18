"""What a detector said about one image, in plain values that any engine can give and any metric can read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, write_json

if TYPE_CHECKING:
    from ssl_loc.transfer.datasets import DetectionDataset

FORMAT = "ssl_loc.predictions"
VERSION = 1


@dataclass
class ImagePrediction:
    """Detections of one image.

    Attributes:
        image_id: identifier of the image in its dataset (COCO: number, VOC: file stem).
        boxes: float32 (n, 4) XYXY in pixels of the original image.
        scores: float32 (n,).
        classes: int64 (n,), contiguous class indices of the dataset.
        masks: one COCO run-length code ``{"size": [h, w], "counts": str}`` per detection, or None without masks.
    """

    image_id: int | str
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: list[dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        self.boxes = _array(self.boxes, np.float32).reshape(-1, 4)
        self.scores = _array(self.scores, np.float32).reshape(-1)
        self.classes = _array(self.classes, np.int64).reshape(-1)
        sizes = {len(self.boxes), len(self.scores), len(self.classes)}
        if self.masks is not None:
            self.masks = [_plain_rle(code) for code in self.masks]
            sizes.add(len(self.masks))
        if len(sizes) != 1:
            raise ValueError(
                f"image {self.image_id}: {len(self.boxes)} boxes, {len(self.scores)} scores, {len(self.classes)} "
                f"classes, {'no' if self.masks is None else len(self.masks)} masks; expected equal numbers"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for json."""
        return {
            "image_id": self.image_id,
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "classes": self.classes.tolist(),
            "masks": self.masks,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImagePrediction:
        """Inverse of :meth:`to_dict`."""
        return cls(**{key: values[key] for key in ("image_id", "boxes", "scores", "classes", "masks")})


def encode_masks(masks: ArrayLike) -> list[dict[str, Any]]:
    """Binary masks (n, H, W) -> COCO run-length codes with text counts."""
    from pycocotools import mask as coco_mask

    stack = np.asarray(masks).astype(np.uint8)
    if not len(stack):
        return []
    codes = coco_mask.encode(np.asfortranarray(stack.transpose(1, 2, 0)))
    return [_plain_rle(code) for code in codes]


def save_predictions(path: str | os.PathLike, dataset: str, predictions: Sequence[ImagePrediction]) -> None:
    """Write the predictions of one dataset as json (atomic), so that metrics and pictures can be made later."""
    images = [prediction.to_dict() for prediction in predictions]
    write_json(path, {"format": FORMAT, "version": VERSION, "dataset": dataset, "images": images})


def load_predictions(path: str | os.PathLike) -> tuple[str, list[ImagePrediction]]:
    """Read :func:`save_predictions`' file -> (dataset name, predictions)."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("version") != VERSION:
        raise DataError(f"{path} is not a file of predictions ({FORMAT}, version {VERSION}); run the evaluation again")
    return content["dataset"], [ImagePrediction.from_dict(image) for image in content["images"]]


def check_predictions(dataset: DetectionDataset, predictions: Sequence[ImagePrediction]) -> None:
    """Raise :class:`DataError` unless every prediction is for an image and for classes of ``dataset``, one per image.

    Two predictions for one image, as processes that share a test set unevenly would give, count every detection twice.
    """
    known = {record["image_id"] for record in dataset.dicts}
    strays = [p.image_id for p in predictions if p.image_id not in known]
    if strays:
        raise DataError(
            f"{len(strays)} predictions are for images that {dataset.name} does not have (first: {strays[0]}); "
            "evaluate them on the dataset they were made from"
        )
    twice = [image for image, count in Counter(p.image_id for p in predictions).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} images of {dataset.name} have more than one prediction (first: {twice[0]}); expected one "
            "per image with all of its detections"
        )
    for prediction in predictions:
        wrong = prediction.classes[(prediction.classes < 0) | (prediction.classes >= len(dataset.classes))]
        if len(wrong):
            raise DataError(
                f"the prediction for image {prediction.image_id} has class {wrong[0]}, but {dataset.name} has "
                f"{len(dataset.classes)} classes (0 to {len(dataset.classes) - 1}); set MODEL.ROI_HEADS.NUM_CLASSES "
                f"{len(dataset.classes)}"
            )
        if not np.isfinite(prediction.scores).all() or not np.isfinite(prediction.boxes).all():
            raise DataError(
                f"the prediction for image {prediction.image_id} holds NaN or infinite numbers; the detector diverged, "
                "lower SOLVER.BASE_LR"
            )


def _array(values: Any, dtype: Any) -> np.ndarray:
    # Tensors have their own way to numpy; going through it keeps this file free of torch.
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values, dtype=dtype)


def _plain_rle(code: dict[str, Any]) -> dict[str, Any]:
    counts = code["counts"]
    return {
        "size": [int(side) for side in code["size"]],
        "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
    }
