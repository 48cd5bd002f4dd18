"""Finding scene sets on disk, with the command that makes a missing one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_loc.data.catalog import Dataset, register_path_form, register_scheme
from ssl_loc.data.datasets.coco import load_coco
from ssl_loc.data.records import RecordTable
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json

INFO_NAME = "scenes.json"
SPLITS = ("train", "val")


def read_info(root: str | Path) -> dict[str, Any]:
    """Parameters and plan of a complete set; :class:`DataError` names the command that draws it otherwise."""
    info = Path(root) / INFO_NAME
    if not info.exists():
        raise DataError(f"no scenes in {Path(root).absolute()}; draw them: python tools/make_scenes.py {root}")
    values = read_json(info)
    if not values.get("complete"):
        raise DataError(
            f"the scenes in {root} are unfinished (their drawing was stopped); finish them with the same "
            f"tools/make_scenes.py command as before (its parameters are in {info})"
        )
    return values


def scene_folders(root: str | Path, split: str) -> dict[str, Path]:
    """Where a split lies: ``coco`` (as in coco:DIR:SPLIT), ``images``, ``json``, ``labels``, ``saliency`` (MASKS.ROOT).

    ``split`` is "train" or "val".
    """
    plan = read_info(root)["plan"]
    if split not in SPLITS or not plan.get(split):
        drawn = ", ".join(name for name in SPLITS if plan.get(name)) or "none"
        raise DataError(f"no split '{split}' in the scenes of {root}; drawn there: {drawn}")
    base = Path(root)
    return {
        "coco": base / "coco",
        "images": base / "coco" / split,
        "json": base / "coco" / "annotations" / f"instances_{split}.json",
        "labels": base / "coco" / "annotations" / f"labels_{split}.json",
        "saliency": base / "saliency" / split,
    }


def load_scenes(directory: str, split: str, *, annotations: bool = False) -> Dataset:
    """``scenes:DIR:SPLIT`` -> scenes labelled with their main class; ``metadata`` has classes, saliency_root and
    backgrounds (key -> index of the background drawn)."""
    folders = scene_folders(directory, split)
    dataset = load_coco(str(folders["coco"]), split, annotations=annotations)
    drawn = read_json(folders["labels"])
    labels = drawn["label"]
    if len(labels) != len(dataset.records):
        raise DataError(
            f"{folders['images']} holds {len(dataset.records)} images, but {len(labels)} scenes were drawn; pictures "
            "were added or deleted: delete the folder and draw it again"
        )
    records = RecordTable.pack(replace(r, label=int(n)) for r, n in zip(dataset.records, labels, strict=True))
    metadata = {**dataset.metadata, "kind": "scenes", "classes": read_info(directory)["classes"]}
    metadata["saliency_root"] = str(folders["saliency"])
    # Which background each scene stands on, by key: does a network group scenes by it?
    metadata["backgrounds"] = {r.key: int(n) for r, n in zip(records, drawn["background"], strict=True)}
    return Dataset(f"scenes:{directory}:{split}", records, metadata)


register_scheme("scenes", load_scenes, arguments=("DIR", "SPLIT"))
register_path_form("scenes_train", "scenes:{root}/scenes:train")
register_path_form("scenes_val", "scenes:{root}/scenes:val")
