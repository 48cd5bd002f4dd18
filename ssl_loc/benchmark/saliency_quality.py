"""How good the estimators are on a folder of photos with masks."""

from __future__ import annotations

from pathlib import Path

import cv2

from ssl_loc.benchmark.rows import Row
from ssl_loc.data.image_io import read_image
from ssl_loc.saliency.build import build_estimator
from ssl_loc.saliency.map_io import read_map
from ssl_loc.saliency.metrics import ImageScore, MapScores, paired_differences, score_map
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.progress import progress_bar

SHOWN = {
    "max_f": "max F",
    "adaptive_f": "adaptive F",
    "adaptive_f_per_image": "adaptive F, mean of photos",
    "iou": "IoU",
    "mae": "MAE",
}
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def quality(folder: str, names: list[str], progress: bool = True) -> list[Row]:
    """Figures of each estimator, its maps stretched to 0..1, with bootstrap standard errors.

    The last estimator is compared with the others on the same photos.

    Args:
        folder: holds images/ and masks/ (PNG; grey > 127 is the object), matched by their stems.
        names: estimators.
        progress: show a bar.

    Raises:
        DataError: a folder or a mask is missing.
    """
    photos = pairs(Path(folder))
    found: dict[str, list[tuple[str, ImageScore | None]]] = {name: [] for name in names}
    estimators = {name: build_estimator(name) for name in names}
    for image_path, mask_path in progress_bar(photos, desc="quality", unit="photo", show=progress):
        image, mask = read_image(image_path), read_map(mask_path)
        if mask.shape != image.shape[:2]:
            mask = cv2.resize(mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST)
        for name, estimator in estimators.items():
            found[name].append((image_path.stem, score_map(estimator(image), mask, stretch=True)))
    scores = {name: MapScores.collect(rows) for name, rows in found.items()}
    rows = []
    for name in names:
        rows += _figures(name, scores[name])
    for name in names[:-1]:
        rows += _differences(names[-1], name, scores)
    return rows


def pairs(folder: Path) -> list[tuple[Path, Path]]:
    """(photo, mask) of every photo in folder/images.

    Raises:
        DataError: there is no photo, or one has no mask.
    """
    photos = sorted(p for p in (folder / "images").glob("*") if p.suffix.lower() in SUFFIXES)
    found = [(photo, folder / "masks" / f"{photo.stem}.png") for photo in photos]
    missing = [str(mask) for _, mask in found if not mask.is_file()]
    if not found or missing:
        what = f"{len(missing)} masks are missing, the first is {missing[0]}" if missing else "there are no photos"
        raise DataError(f"{folder}: {what}; expected images/NAME.jpg beside masks/NAME.png")
    return found


def _figures(name: str, scores: MapScores) -> list[Row]:
    values, errors = scores.metrics(), scores.standard_errors()
    return [
        Row(f"{name}: {SHOWN[key]}", values[key], "", f"{len(scores)} photos, +- {errors[key]:.3f}") for key in SHOWN
    ]


def _differences(best: str, other: str, scores: dict[str, MapScores]) -> list[Row]:
    differences, _ = paired_differences(scores[best], scores[other])
    return [
        Row(f"{best} - {other}: {SHOWN[key]}", differences[key].value, "", f"paired, +- {differences[key].error:.3f}")
        for key in SHOWN
    ]
