"""Everything that is wrong with a COCO folder, and where."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssl_loc.data.datasets.coco import is_category, is_polygon, is_whole
from ssl_loc.data.datasets.folder import list_files
from ssl_loc.transfer.layout_report import LayoutReport, counted
from ssl_loc.transfer.layout_sizes import compare_sizes
from ssl_loc.transfer.layout_tree import (
    COCO_PAGE,
    coco_archives,
    from_archive,
    misplaced,
    packed,
    put_right,
    splits_of_coco,
    telling,
    unpack,
)
from ssl_loc.transfer.run_lengths import check_run_lengths
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import read_json

# More boxes than this share reaching far outside of their images means that they are not x, y, width, height.
_WRONG_FORM = 0.25
# COCO's own boxes reach outside by rounding.
_TOLERANCE = 1.5


def check_coco(report: LayoutReport, root: Path, split: str, masks: bool = False, sizes: int | None = None) -> None:
    """Look at ROOT/annotations/instances_<SPLIT>.json and ROOT/<SPLIT>/; findings go into ``report``."""
    for text in missing_parts(root, split, report.kind == "scenes"):
        report.problem(text)
    json_file, folder = root / "annotations" / f"instances_{split}.json", root / split
    if not json_file.is_file():
        return
    content = _content(report, json_file)
    if content is None:
        return
    images = _check_images(report, json_file, content["images"])
    report.images, report.classes = len(content["images"]), len(content["categories"])
    if folder.is_dir():
        present = _check_files(report, folder, images, split)
        with_size = [(folder / row["file_name"], (row["width"], row["height"])) for row in present]
        compare_sizes(report, with_size, sizes)
    _check_annotations(report, json_file, content, images, masks)


def missing_parts(root: Path, split: str, scenes: bool = False) -> list[str]:
    """A sentence for the annotation file and one for the image folder, if they are missing."""
    json_file, folder = root / "annotations" / f"instances_{split}.json", root / split
    lost = [path for path, there in ((folder, folder.is_dir()), (json_file, json_file.is_file())) if not there]
    named = f"no {' and no '.join(map(str, lost))}"
    known = ", ".join(splits_of_coco(root))
    splits = f"; splits that have annotations: {known}" if known else ""
    if scenes and lost:
        return [f"{named}; draw the set with tools/make_scenes.py {root.parent}{splits}"]
    near = [root, root.parent]
    files, folders = misplaced(json_file, near, Path.is_file), misplaced(folder, near)
    if known:  # no other dataset's tree: the root is right, the split may not be
        files = telling(files, split, root)
    for tree in (path.parent.parent for path in files if lost and path.parent.name == "annotations"):
        if tree / split in folders:
            return [f"{named}, but {tree} holds both: name the dataset coco:{tree}:{split}"]
    files, folders = telling(files, split, root), telling(folders, split, root)
    pictures, annotations = coco_archives(split)
    if known and len(lost) == 2 and not (files or folders or pictures):
        return [f"{named}: there is no split '{split}'; splits that have annotations: {known}"]
    archives = {folder: (pictures, f"{split}.zip", folders), json_file: (annotations, annotations, files)}
    return [f"no {path}{_help(path, root, *archives[path])}{splits if path == json_file else ''}" for path in lost]


def _help(expected: Path, root: Path, official: str, archive: str, found: list[Path]) -> str:
    """Where a missing part is: elsewhere, in an archive that lies there, or on the official page."""
    if found:
        return f"; {put_right(found[0], expected, root)}"
    if archives := packed([archive], [root, root.parent]):
        return f"; {unpack(archives[0], root)}"
    return from_archive(official, COCO_PAGE)


def _content(report: LayoutReport, json_file: Path) -> dict[str, Any] | None:
    try:
        content = read_json(json_file)
    except DataError as error:
        report.problem(f"{error} (a download that was cut off?)")
        return None
    needed = ("images", "categories")
    wrong = [n for n in needed if not isinstance(content, dict) or not isinstance(content.get(n), list)]
    if wrong:
        report.problem(f"{json_file} is no COCO instances file: it has no list of {' and '.join(wrong)}")
        return None
    annotations = content.get("annotations")
    if isinstance(annotations, list) and not all(isinstance(row, dict) for row in annotations):
        report.problem(f"{json_file} has annotations that are no objects with keys; expected COCO instances")
        content["annotations"] = [row for row in annotations if isinstance(row, dict)]
    elif not isinstance(annotations, list):
        report.problem(
            f"{json_file} has no annotations (COCO's image_info files of test images have none); use a split with "
            "instances_<split>.json"
        )
        content["annotations"] = []
    if odd := [row for row in content["categories"] if not is_category(row)]:
        report.problem(
            f"{len(odd)} categories of {json_file} lack id or name, or have them of another type (first: {odd[0]})"
        )
        content["categories"] = [row for row in content["categories"] if isinstance(row, dict) and "id" in row]
    if not content["images"]:
        report.problem(f"{json_file} lists no images")
    return content


def _check_images(report: LayoutReport, json_file: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with all that is needed; one row per id."""
    whole = [row for row in rows if _whole(row)]
    if len(whole) < len(rows):
        odd = [row for row in rows if not _whole(row)]
        report.problem(
            f"{len(odd)} images of {json_file} lack id, file_name, height or width, or have them of another type "
            f"(first: {odd[0]})"
        )
    twice = [i for i, count in Counter(row["id"] for row in whole).items() if count > 1]
    if twice:
        report.problem(f"{json_file} gives one id to several images: {counted(twice)}")
    return whole


def _check_files(report: LayoutReport, folder: Path, rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Rows whose file exists."""
    files = set(list_files(folder))
    present = [row for row in rows if os.path.normpath(row["file_name"]) in files]
    lost = [row["file_name"] for row in rows if os.path.normpath(row["file_name"]) not in files]
    if lost:
        every = "all of them" if len(lost) == len(rows) else f"of {len(rows)}"
        report.problem(
            f"{folder} lacks images that the json lists, {every}: {counted(lost)}{_why(folder, lost, split)}"
        )
    known = {os.path.normpath(row["file_name"]) for row in rows}
    extra = sorted(files - known)
    if extra and not lost:
        report.note(f"{folder} has images that the json does not list; they are not used: {counted(extra)}")
    return present


def _why(folder: Path, lost: list[str], split: str) -> str:
    inner = folder / folder.name
    if inner.is_dir():
        return f"; there is {inner}, one level too deep: mv {inner}/* {folder}"
    first = Path(lost[0])
    if len(first.parts) > 1 and (folder / first.name).is_file():
        return f"; file_name holds a folder ('{lost[0]}'), expected a path below {folder} ('{first.name}')"
    if archives := packed([f"{split}.zip"], [folder, folder.parent, folder.parent.parent]):
        return f"; {unpack(archives[0], folder.parent)}"
    return from_archive(coco_archives(split)[0], COCO_PAGE)


@dataclass
class _Found:
    """What the annotations say, by number of the annotation."""

    strays: list[Any] = field(default_factory=list)
    no_category: list[Any] = field(default_factory=list)
    no_box: list[Any] = field(default_factory=list)
    flat: list[Any] = field(default_factory=list)
    outside: list[Any] = field(default_factory=list)
    no_mask: list[Any] = field(default_factory=list)
    run_length: list[Any] = field(default_factory=list)
    broken_mask: list[Any] = field(default_factory=list)
    boxes: int = 0
    crowds: int = 0
    with_objects: set[Any] = field(default_factory=set)


def _check_annotations(
    report: LayoutReport, json_file: Path, content: dict[str, Any], images: list[dict[str, Any]], masks: bool
) -> None:
    rows, categories = {row["id"]: row for row in images}, [c.get("id") for c in content["categories"]]
    # Images that lack something else are a finding of their own.
    declared = {row["id"] for row in content["images"] if isinstance(row, dict) and "id" in row}
    found = _Found()
    for annotation in content["annotations"]:
        if annotation.get("image_id") not in declared:
            found.strays.append(annotation.get("id", "?"))
        elif row := rows.get(annotation["image_id"]):
            _read_annotation(found, annotation, row, set(categories))
    report.objects = len(content["annotations"]) - found.crowds
    if twice := _repeated(categories):
        report.problem(f"{json_file} gives one id to several categories: {counted(twice)}")
    if twice := _repeated(a["id"] for a in content["annotations"] if "id" in a):
        report.problem(f"{json_file} gives one id to several annotations: {counted(twice)}")
    for numbers, what in (
        (found.strays, "belong to image ids that the file does not declare"),
        (found.no_category, "have category ids that the file does not declare"),
        (found.no_box, "have no bbox of four numbers [x, y, width, height]"),
    ):
        if numbers:
            report.problem(f"annotations of {json_file} {what}: {counted(numbers)}")
    _report_boxes(report, json_file, found)
    if masks and found.no_mask:
        report.problem(
            f"MODEL.MASK_ON needs a mask for every object, but annotations of {json_file} have no segmentation: "
            f"{counted(found.no_mask)}"
        )
    if masks and found.broken_mask:
        report.problem(
            f"annotations of {json_file} have a damaged run-length mask, or one of another size than the image: "
            f"{counted(found.broken_mask)}"
        )
    if masks and found.run_length:
        report.note(
            f"objects of {json_file} have run-length masks instead of polygons (INPUT.MASK_FORMAT bitmask reads them): "
            f"{counted(found.run_length)}"
        )
    empty = [row["file_name"] for row in images if row["id"] not in found.with_objects]
    if empty and len(empty) == len(images):
        report.problem(f"no image of {json_file} has an object; nothing to train on or to find")
    elif empty:
        report.note(f"{len(empty)} of {len(images)} images have no object; training leaves them out")


def _read_annotation(found: _Found, annotation: dict[str, Any], row: dict[str, Any], known: set) -> None:
    number = annotation.get("id", "?")
    if annotation.get("category_id") not in known:
        found.no_category.append(number)
    _read_mask(found, annotation, row, number)
    if annotation.get("iscrowd", 0):
        found.crowds += 1
        return
    found.with_objects.add(row["id"])
    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
        if not all(map(math.isfinite, (x, y, width, height))):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        found.no_box.append(number)
        return
    found.boxes += 1
    if width <= 0 or height <= 0:
        found.flat.append(number)
    elif min(x, y) < -_TOLERANCE or x + width > row["width"] + _TOLERANCE or y + height > row["height"] + _TOLERANCE:
        found.outside.append(number)


def _read_mask(found: _Found, annotation: dict[str, Any], row: dict[str, Any], number: Any) -> None:
    shape = annotation.get("segmentation")
    if isinstance(shape, dict):
        try:
            check_run_lengths(shape, row)
        except DataError:
            found.broken_mask.append(number)
        else:
            found.run_length += [] if annotation.get("iscrowd", 0) else [number]  # crowds are always written so
    elif not isinstance(shape, list) or not any(map(is_polygon, shape)):
        found.no_mask.append(number)


def _report_boxes(report: LayoutReport, json_file: Path, found: _Found) -> None:
    if found.boxes and len(found.outside) > _WRONG_FORM * found.boxes:
        report.problem(
            f"of {found.boxes} boxes in {json_file}, {len(found.outside)} reach outside of their image; bbox is "
            f"[x, y, width, height] there, not [x1, y1, x2, y2]; annotations {counted(found.outside)}"
        )
    elif found.outside:
        report.note(
            f"{json_file} has boxes that reach outside of their image; training clips them: {counted(found.outside)}"
        )
    if found.flat:
        report.note(
            f"{json_file} has boxes without width or height; training leaves them out, the evaluation counts them as "
            f"objects that nobody finds: {counted(found.flat)}"
        )


def _whole(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("id"), (int, str))
        and isinstance(row.get("file_name"), str)
        and all(is_whole(row.get(side)) for side in ("height", "width"))
    )


def _repeated(values: Iterable[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]
