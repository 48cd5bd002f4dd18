"""Everything that is wrong with a VOC folder, and where."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.datasets.voc import CLASS_FILE, VOC_CLASSES, difficult_flag, read_lines, read_xml, voc_class_names
from ssl_loc.transfer.layout_report import LayoutReport, counted
from ssl_loc.transfer.layout_sizes import compare_sizes
from ssl_loc.transfer.layout_tree import (
    VOC_PAGE,
    from_archive,
    misplaced,
    packed,
    put_right,
    splits_of_voc,
    unpack,
    voc_archive,
)
from ssl_loc.utils.errors import DataError, did_you_mean

PARTS = ("Annotations", "JPEGImages", "ImageSets/Main")


def check_voc(report: LayoutReport, devkit: Path, year: str, split: str, sizes: int | None) -> None:
    """Look at DEVKIT/VOC<YEAR>; findings go into ``report``."""
    root = devkit / f"VOC{year}"
    for text in missing_parts(devkit, year, split):
        report.problem(text)
    if not root.is_dir():
        return
    ids = _split_ids(report, root / "ImageSets" / "Main" / f"{split}.txt")
    images = {stem(name): root / "JPEGImages" / name for name in list_files(root / "JPEGImages")}
    annotations = {stem(name): root / "Annotations" / name for name in list_files(root / "Annotations", (".xml",))}
    report.images = len(ids)
    where = _source(year, split)
    for what, files, folder, suffix in (
        ("images", images, "JPEGImages", "jpg"),
        ("annotations", annotations, "Annotations", "xml"),
    ):
        lost = [f"{image_id}.{suffix}" for image_id in ids if image_id not in files]
        if lost and (root / folder).is_dir():
            every = "all of them" if len(lost) == len(ids) else f"of {len(ids)}"
            report.problem(f"{root / folder} lacks {what} of split {split}, {every}: {counted(lost)}{where}")
    _check_strays(report, root, images, annotations)
    found = _read_annotations(report, root, [i for i in ids if i in annotations], annotations)
    with_both = {i: size for i, size in found.sizes.items() if i in images}
    compare_sizes(report, [(images[i], size) for i, size in with_both.items()], sizes)


def missing_parts(devkit: Path, year: str, split: str) -> list[str]:
    """A sentence for each folder of DEVKIT/VOC<YEAR> that is missing, and for the split file."""
    root = devkit / f"VOC{year}"
    if not root.is_dir():
        return [_missing_root(devkit, year, split)]
    missing = [_missing_part(root / part, root, year, split) for part in PARTS if not (root / part).is_dir()]
    lists = root / "ImageSets" / "Main"
    if lists.is_dir() and not (lists / f"{split}.txt").is_file():
        there = ", ".join(splits_of_voc(lists)) or "none"
        missing.append(f"no split file {lists / split}.txt{_source(year, split)}; splits found there: {there}")
    return missing


def _source(year: str, split: str) -> str:
    if (year, split) == ("2012", "test"):
        return "; the annotations of VOC 2012's test split are not public, evaluate on voc_2012_val"
    return from_archive(voc_archive(year, split), VOC_PAGE.format(year=year))


def _missing_root(devkit: Path, year: str, split: str) -> str:
    """Why there is no DEVKIT/VOC<YEAR>: given a level too deep or too high, not unpacked, or not there."""
    root = devkit / f"VOC{year}"
    start = f"no folder {root}"
    if devkit.name == root.name and (devkit / "JPEGImages").is_dir():
        return f"{start}: {devkit} is the VOC{year} folder itself; give its parent, voc:{devkit.parent}:{year}:{split}"
    if (devkit / "JPEGImages").is_dir():
        return (
            f"{start}, but {devkit} holds JPEGImages itself: mkdir {root} && mv {devkit}/JPEGImages "
            f"{devkit}/Annotations {devkit}/ImageSets {root}"
        )
    near = [devkit, devkit.parent]
    nested = [path for path in misplaced(root, near) if any((path / part).is_dir() for part in PARTS)]
    if nested:
        return (
            f"{start}; {put_right(nested[0], root, devkit)} (or name the dataset voc:{nested[0].parent}:{year}:{split})"
        )
    if archives := packed([voc_archive(year, split)], near):
        # The archives hold VOCdevkit/VOC<YEAR>/...
        target = devkit.parent if devkit.name == "VOCdevkit" else devkit
        return f"{start}; {unpack(archives[0], target)}"
    return f"{start}{_source(year, split)}"


def _missing_part(path: Path, root: Path, year: str, split: str) -> str:
    found = misplaced(path, [root])
    return (
        f"no folder {path}; {put_right(found[0], path, root)}" if found else f"no folder {path}{_source(year, split)}"
    )


def _split_ids(report: LayoutReport, file: Path) -> list[str]:
    if not file.is_file():
        return []
    try:
        ids = [line.split()[0] for line in read_lines(file)]
    except DataError as error:
        report.problem(str(error))
        return []
    if not ids:
        report.problem(f"{file} is empty; expected image ids, one per line")
    with_suffix = [i for i in ids if i.lower().endswith((".jpg", ".jpeg", ".png", ".xml")) or "/" in i]
    if with_suffix:
        report.problem(f"{file} lists file names, expected ids without folder and suffix: {counted(with_suffix)}")
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        report.note(f"{file} lists images more than once, they are taken once: {counted(twice)}")
    return list(dict.fromkeys(ids))


def _check_strays(report: LayoutReport, root: Path, images: dict[str, Path], annotations: dict[str, Path]) -> None:
    without_image = sorted(set(annotations) - set(images))
    if without_image and images:
        report.note(f"{root / 'Annotations'} has annotations without an image: {counted(without_image)}")
    without_annotation = sorted(set(images) - set(annotations))
    if without_annotation and annotations:
        report.note(f"{root / 'JPEGImages'} has images without an annotation: {counted(without_annotation)}")


@dataclass
class _Found:
    """What the annotation files of a split say."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # id -> (width, height), where given
    classes: dict[str, list[str]] = field(default_factory=dict)  # class -> files of its objects
    broken: list[str] = field(default_factory=list)
    no_box: list[str] = field(default_factory=list)
    difficult: list[str] = field(default_factory=list)  # neither 0 nor 1
    flat: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    fractions: int = 0  # boxes that lie within the first pixel
    empty: int = 0


def _read_annotations(report: LayoutReport, root: Path, ids: list[str], files: dict[str, Path]) -> _Found:
    found = _Found()
    for image_id in ids:
        try:
            top = read_xml(files[image_id])
        except DataError:
            found.broken.append(files[image_id].name)
            continue
        size = _numbers(top, "size/width", "size/height")
        if size and min(size) > 0:
            found.sizes[image_id] = (int(size[0]), int(size[1]))
        objects = top.findall("object")
        found.empty += not objects
        for node in objects:
            _read_object(found, files[image_id].name, node, found.sizes.get(image_id))
    report.objects = sum(len(names) for names in found.classes.values())
    _report_objects(report, root, found)
    _report_classes(report, root, found.classes)
    return found


def _read_object(found: _Found, file: str, node: ElementTree.Element, size: tuple[int, int] | None) -> None:
    name = (node.findtext("name") or "").strip()
    found.classes.setdefault(name, []).append(file)
    text = (node.findtext("difficult") or "").strip()
    if difficult_flag(text) is None:
        found.difficult.append(f"{file} '{name}' {text}")
    box = _numbers(node, "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
    if box is None:
        found.no_box.append(f"{file} '{name}'")
        return
    xmin, ymin, xmax, ymax = box
    where = f"{file} '{name}' {xmin:g} {ymin:g} {xmax:g} {ymax:g}"
    found.fractions += max(box) <= 1
    # 1-based and inclusive: xmax == xmin is one pixel.
    if xmax < xmin or ymax < ymin:
        found.flat.append(where)
    elif size and (xmin < 1 or ymin < 1 or xmax > size[0] or ymax > size[1]):
        found.outside.append(where)


def _report_objects(report: LayoutReport, root: Path, found: _Found) -> None:
    folder = root / "Annotations"
    if found.broken:
        report.problem(f"{folder} has files that are not valid xml: {counted(found.broken)}")
    if found.no_box:
        report.problem(
            f"{folder} has objects without four numbers bndbox/xmin, ymin, xmax, ymax: {counted(found.no_box)}"
        )
    if found.difficult:
        report.problem(f"{folder} has objects whose <difficult> is neither 0 nor 1: {counted(found.difficult)}")
    if found.fractions and found.fractions == report.objects - len(found.no_box):
        report.problem(f"every box in {folder} lies within 0..1; expected pixels, counted from 1")
        return
    if found.flat:
        report.note(
            f"{folder} has boxes that end before they begin; training leaves them out, the evaluation counts them as "
            f"objects that nobody finds: {counted(found.flat)}"
        )
    if found.outside:
        report.note(
            f"{folder} has boxes that reach outside of their image; training clips them: {counted(found.outside)}"
        )
    if found.empty:
        report.note(f"{found.empty} images have no object; training leaves them out")
    if found.empty and not report.objects:
        report.problem(
            f"none of the {found.empty} annotations in {folder} has an object; nothing to train on or to find"
        )


def _report_classes(report: LayoutReport, root: Path, classes: dict[str, list[str]]) -> None:
    listed = (root / CLASS_FILE).is_file()
    try:
        known = voc_class_names(root)
    except DataError as error:
        report.problem(str(error))
        return
    unknown = {name: files for name, files in classes.items() if name not in known}
    if not unknown:
        report.classes = len(known)
        return
    if not listed and len(unknown) > len(classes) - len(unknown):
        report.classes = len(classes)
        report.note(
            f"{root} has classes of its own and no {CLASS_FILE}: they are taken from all annotations, sorted by name; "
            f"write {CLASS_FILE}, one name per line, to fix names and order"
        )
        return
    report.classes = len(known)
    for name, files in unknown.items():
        source = f"{root / CLASS_FILE}" if listed else f"the {len(VOC_CLASSES)} of VOC"
        report.problem(
            f"class '{name}' is not among {source}{did_you_mean(name, known) or ';'} {len(files)} objects, in "
            f"{counted(sorted(set(files)))}"
        )


def _numbers(node: ElementTree.Element, *paths: str) -> list[float] | None:
    try:
        numbers = [float(node.findtext(path) or "missing") for path in paths]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
