"""Whole scene sets on disk, in the forms other code already reads.

::

    ROOT/scenes.json                                   parameters; refuses to be mixed with others
    ROOT/coco/{train,val}/000000.jpg                   scenes; in coco/annotations: instances_{train,val}.json (objects)
                                                       and labels_{train,val}.json (main class, background)
    ROOT/VOCdevkit/VOC2007/{JPEGImages,Annotations,ImageSets/Main}   the same scenes; trainval = train, test = val
    ROOT/saliency/{train,val}/000000.png + manifest.json             255 on any object
    ROOT/objects/{train,val}/CLASS/000000.jpg          one object, background independent of the class
    ROOT/backgrounds/VARIANT/val/CLASS/000000.jpg      and backgrounds/fg_mask/val/CLASS/000000.npy
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssl_loc.data.datasets.scenes.annotations import coco_annotations, coco_file, voc_xml
from ssl_loc.data.datasets.scenes.draw import Scene, draw_scene
from ssl_loc.data.datasets.scenes.load import INFO_NAME
from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.variants import draw_single, draw_variants
from ssl_loc.data.image_io import encode_image
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json, write_json, write_text
from ssl_loc.utils.progress import progress_bar

# Raised when the same parameters give other pictures than before.
VERSION = 1

# Scenes per unit of work; a finished unit is not drawn again by a resumed command.
_CHUNK = 64
_PARTS = ".parts"


@dataclass(frozen=True)
class SetPlan:
    """How much is drawn and in which files.

    Attributes:
        train, val: number of scenes.
        objects_train, objects_val: number of one-object pictures over all classes.
        backgrounds: number of foregrounds of the backgrounds challenge over all classes.
        image_format: "jpg" or "png" of coco/, objects/ and backgrounds/ (VOC is always jpg).
        segmentation: "polygon" (COCO's own, along pixel edges) or "rle" (exact also under occlusion).
    """

    train: int = 2000
    val: int = 300
    objects_train: int = 600
    objects_val: int = 600
    backgrounds: int = 120
    image_format: str = "jpg"
    segmentation: str = "polygon"

    def __post_init__(self) -> None:
        if self.image_format not in ("jpg", "png"):
            raise DataError(f"image format '{self.image_format}' is not drawn; choose jpg or png")
        if self.segmentation not in ("polygon", "rle"):
            raise DataError(f"segmentation '{self.segmentation}' is not written; choose polygon or rle")
        for name in ("train", "val", "objects_train", "objects_val", "backgrounds"):
            if getattr(self, name) < 0:
                raise DataError(f"number of {name} pictures is {getattr(self, name)}; expected 0 or more")


@dataclass(frozen=True)
class _Unit:
    """One unit of work: pictures ``start`` to ``stop`` of ``split``."""

    root: str
    params: SceneParams
    plan: SetPlan
    split: str
    start: int
    stop: int

    @property
    def part(self) -> Path:
        return Path(self.root) / _PARTS / f"{self.split}_{self.start:06d}_{self.stop:06d}.json"


def write_scenes(root: str | Path, params: SceneParams, plan: SetPlan, workers: int = 0, progress: bool = True) -> Path:
    """Draw a set under ``root`` (resuming an interrupted drawing of the same set) and return ``root``.

    The files do not depend on ``workers``. A folder that holds anything else, or a set with other parameters, is
    refused with :class:`DataError`.
    """
    base = Path(root)
    if _claim(base, params, plan):
        return base
    units = [u for u in _units(base, params, plan) if not u.part.exists()]
    drawn = sum(u.stop - u.start for u in units)
    with progress_bar(total=drawn, desc=f"drawing {base}", unit="image", show=progress) as bar:
        for count in _run(units, workers):
            bar.update(count)
    _finish(base, params, plan)
    return base


def _claim(base: Path, params: SceneParams, plan: SetPlan) -> bool:
    """Write or compare the parameters; True if the set is complete already."""
    wanted = {"version": VERSION, "params": params.to_dict(), "plan": asdict(plan), "classes": params.classes}
    info = base / INFO_NAME
    if info.exists():
        found = read_json(info)
        complete = found.pop("complete", False)
        if found != wanted:
            raise DataError(
                f"{base} already holds scenes with other parameters ({_difference(found, wanted)}); give another "
                "folder, or delete this one"
            )
        return bool(complete)
    if base.is_dir() and any(base.iterdir()):
        raise DataError(f"{base} is not empty and holds no {INFO_NAME}; give a new folder for the scenes")
    write_json(info, {**wanted, "complete": False})
    return False


def _difference(found: dict, wanted: dict) -> str:
    """The values that differ, "name found/wanted"."""
    rows = []
    for group in ("params", "plan"):
        a, b = found.get(group, {}), wanted[group]
        rows += [f"{k}: there {a.get(k)}, asked for {v}" for k, v in b.items() if a.get(k) != v]
    return ", ".join(rows) or f"version: there {found.get('version')}, this is {VERSION}"


def _units(base: Path, params: SceneParams, plan: SetPlan) -> list[_Unit]:
    units = []
    for split in _DRAWERS:
        total = getattr(plan, split)
        units += [_Unit(str(base), params, plan, split, i, min(i + _CHUNK, total)) for i in range(0, total, _CHUNK)]
    return units


def _run(units: list[_Unit], workers: int) -> Iterator[int]:
    """Draw the units, in this process or in ``workers``; yields the number of pictures done."""
    if workers < 1:
        yield from map(_draw_unit, units)
        return
    # Forked children would inherit the thread pools of torch and OpenCV; spawned ones start clean.
    with get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_draw_unit, units)


def _draw_unit(unit: _Unit) -> int:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # pictures are small; threads only cost here
    try:
        rows = [_DRAWERS[unit.split](unit, index) for index in range(unit.start, unit.stop)]
    finally:
        cv2.setNumThreads(threads)
    write_text(unit.part, json.dumps(rows))
    return unit.stop - unit.start


def _draw_scene(unit: _Unit, index: int) -> dict[str, Any]:
    """Draw and write one scene in every form; returns its rows of the annotation files."""
    base, params, plan = Path(unit.root), unit.params, unit.plan
    scene = draw_scene(params, unit.split, index)
    stem = f"{index:06d}"
    image_file = base / "coco" / unit.split / f"{stem}.{plan.image_format}"
    write_image(image_file, scene.image)
    write_image(base / "saliency" / unit.split / f"{stem}.png", scene.saliency)
    voc, voc_name = base / "VOCdevkit" / "VOC2007", f"{unit.split}_{stem}"
    _link_or_write(image_file, voc / "JPEGImages" / f"{voc_name}.jpg", scene)
    write_bytes(voc / "Annotations" / f"{voc_name}.xml", voc_xml(scene, f"{voc_name}.jpg", params.classes))
    h, w = scene.image.shape[:2]
    return {
        "image": {"id": index + 1, "file_name": image_file.name, "width": w, "height": h},
        "annotations": coco_annotations(scene, index + 1, plan.segmentation),
        "label": scene.label,
        "background": scene.background,
        "voc": voc_name,
    }


def _link_or_write(source: Path, target: Path, scene: Scene) -> None:
    """VOC's copy of a scene: a hard link where the format and the disk allow, else a file of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if source.suffix != ".jpg":
        write_image(target, scene.image)
        return
    try:
        os.link(source, target)
    except OSError:  # other file systems refuse hard links; a copy is the same to every reader
        shutil.copyfile(source, target)


def _draw_single(unit: _Unit, index: int) -> dict[str, Any]:
    scene = draw_single(unit.params, unit.split, index)
    folder = Path(unit.root) / "objects" / unit.split.removeprefix("objects_") / unit.params.classes[scene.label]
    write_image(folder / f"{index:06d}.{unit.plan.image_format}", scene.image)
    return {"label": scene.label, "background": scene.background}


def _draw_variants(unit: _Unit, index: int) -> dict[str, Any]:
    drawn = draw_variants(unit.params, index)
    base, name = Path(unit.root) / "backgrounds", unit.params.classes[drawn.label]
    for variant, image in drawn.images.items():
        write_image(base / variant / "val" / name / f"{index:06d}.{unit.plan.image_format}", image)
    mask_file = base / "fg_mask" / "val" / name / f"{index:06d}.npy"
    mask_file.parent.mkdir(parents=True, exist_ok=True)
    np.save(mask_file, drawn.mask)
    return {"label": drawn.label}


_DRAWERS: dict[str, Callable[[_Unit, int], dict[str, Any]]] = {
    "train": _draw_scene,
    "val": _draw_scene,
    "objects_train": _draw_single,
    "objects_val": _draw_single,
    "backgrounds": _draw_variants,
}


def _finish(base: Path, params: SceneParams, plan: SetPlan) -> None:
    """Gather the parts into annotation files, then mark the set complete."""
    from ssl_loc.saliency.manifest import write_manifest

    for split in ("train", "val"):
        rows = _rows(base, split)
        if not rows:
            continue
        annotations = [a for row in rows for a in row["annotations"]]
        data = coco_file([row["image"] for row in rows], annotations, params.classes)
        write_text(base / "coco" / "annotations" / f"instances_{split}.json", json.dumps(data))
        labels = {"label": [row["label"] for row in rows], "background": [row["background"] for row in rows]}
        write_text(base / "coco" / "annotations" / f"labels_{split}.json", json.dumps(labels))
        _write_voc_lists(base / "VOCdevkit" / "VOC2007", split, rows, params.classes)
        write_manifest(
            base / "saliency" / split, estimator="ground_truth", preset="scenes", uses_labels=True, version=str(VERSION)
        )
    info = read_json(base / INFO_NAME)
    write_json(base / INFO_NAME, {**info, "complete": True})
    shutil.rmtree(base / _PARTS, ignore_errors=True)


def _rows(base: Path, split: str) -> list[dict[str, Any]]:
    return [row for part in sorted((base / _PARTS).glob(f"{split}_[0-9]*.json")) for row in read_json(part)]


def _write_voc_lists(voc: Path, split: str, rows: list[dict[str, Any]], classes: list[str]) -> None:
    """ImageSets/Main: train is VOC's train and trainval, val is VOC's val and test; class lists hold 1 or -1."""
    names = [row["voc"] for row in rows]
    present = [{a["category_id"] - 1 for a in row["annotations"]} for row in rows]
    for set_name in {"train": ("train", "trainval"), "val": ("val", "test")}[split]:
        folder = voc / "ImageSets" / "Main"
        write_text(folder / f"{set_name}.txt", "".join(f"{name}\n" for name in names))
        for label, class_name in enumerate(classes):
            lines = [f"{n} {1 if label in p else -1:2d}\n" for n, p in zip(names, present, strict=True)]
            write_text(folder / f"{class_name}_{set_name}.txt", "".join(lines))
    write_text(voc / "classes.txt", "".join(f"{name}\n" for name in classes))


def write_image(path: Path, image: np.ndarray) -> None:
    """Encode uint8 RGB (H, W, 3) or grey (H, W) by the suffix of ``path``."""
    write_bytes(path, encode_image(image, path.suffix))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file of an unfinished unit of work; the unit's part file, not each picture, is what is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
