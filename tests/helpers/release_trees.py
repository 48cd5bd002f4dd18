"""Small trees with the exact layout of published datasets: names, columns, counting from 1, folders of the archives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def picture(path: Path, size: tuple[int, int] = (40, 32)) -> None:
    """A photo of ``size`` (width, height) whose rows have the grey value of their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (np.arange(size[1]) % 256).astype(np.uint8)[:, None, None]
    Image.fromarray(np.broadcast_to(rows, (size[1], size[0], 3)).copy()).save(path, quality=95)


def lines(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def cub(folder: Path) -> Path:
    """CUB_200_2011: ids are numbers that do not sort as text, labels count from 1, 2 classes."""
    root = folder / "CUB_200_2011"
    birds = {1: "001.Albatross/A_0046_18.jpg", 2: "001.Albatross/A_0009_34.jpg", 10: "002.Auklet/B_0001_1.jpg"}
    for name in birds.values():
        picture(root / "images" / name)
    lines(root / "images.txt", *(f"{i} {name}" for i, name in birds.items()))
    lines(root / "image_class_labels.txt", "1 1", "2 1", "10 2")
    lines(root / "train_test_split.txt", "1 0", "2 1", "10 1")
    lines(root / "classes.txt", "1 001.Albatross", "2 002.Auklet")
    lines(root / "bounding_boxes.txt", "1 60.0 27.0 325.0 304.0", "2 1.5 2.0 10.0 20.5", "10 0.0 0.0 40.0 32.0")
    return root


def nabirds(folder: Path) -> Path:
    """nabirds: ids are uuids, classes are nodes of a tree of which some have images; two of them share a name."""
    root = folder / "nabirds"
    birds = {"ff10-aa": ("0817", 817), "0b20-bb": ("0299", 299), "77c0-cc": ("0817", 817), "a1d0-dd": ("1010", 1010)}
    for uuid, (place, _) in birds.items():
        picture(root / "images" / place / f"{uuid.replace('-', '')}.jpg")
    lines(root / "images.txt", *(f"{u} {place}/{u.replace('-', '')}.jpg" for u, (place, _) in birds.items()))
    lines(root / "image_class_labels.txt", *(f"{u} {label}" for u, (_, label) in birds.items()))
    lines(root / "train_test_split.txt", "ff10-aa 1", "0b20-bb 1", "77c0-cc 0", "a1d0-dd 0")
    names = ["0 Birds", "22 Ducks, Geese, and Swans", "299 Snow Goose (White)", "817 Oak Titmouse", "1010 Oak Titmouse"]
    lines(root / "classes.txt", *names)
    lines(root / "bounding_boxes.txt", *(f"{u} 3 4 20 10" for u in birds))
    return root


def _annotations(rows: list[dict]) -> np.ndarray:
    table = np.zeros(len(rows), dtype=[(name, object) for name in rows[0]])
    for i, row in enumerate(rows):
        table[i] = tuple(row.values())
    return table


def _car(x1: int, y1: int, x2: int, y2: int, label: int, **more: object) -> dict:
    return {**dict(zip(CORNERS, (x1, y1, x2, y2), strict=True)), "class": np.uint8(label), **more}


def cars_kit(folder: Path, labelled: str = "cars_test_annos_withlabels.mat") -> Path:
    """The development kit of Stanford Cars, with three classes; ``labelled`` is where the test labels lie."""
    root = folder / "stanford_cars"
    (root / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Sedan 2012"], dtype=object)
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
    train = [_car(39, 116, 569, 375, 3, fname="00002.jpg"), _car(1, 1, 40, 32, 1, fname="00001.jpg")]
    savemat(root / "devkit" / "cars_train_annos.mat", {"annotations": _annotations(train)})
    savemat(root / labelled, {"annotations": _annotations([_car(30, 52, 246, 147, 2, fname="00001.jpg")])})
    for name in ("cars_train/00001.jpg", "cars_test/00001.jpg"):
        picture(root / name)
    picture(root / "cars_train/00002.jpg", (600, 400))
    return root


def cars_flat(folder: Path) -> Path:
    """The single list of Stanford Cars."""
    rows = [
        _car(112, 7, 853, 717, 1, relative_im_path="car_ims/000001.jpg", test=0),
        _car(48, 24, 441, 202, 2, relative_im_path="car_ims/000002.jpg", test=1),
        _car(7, 4, 277, 180, 2, relative_im_path="car_ims/000003.jpg", test=0),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": _annotations(rows), "class_names": names})
    for i in (1, 2, 3):
        picture(folder / "car_ims" / f"00000{i}.jpg")
    return folder


def aircraft(folder: Path) -> Path:
    """fgvc-aircraft-2013b: variants with spaces and slashes, pixels counted from 1."""
    root = folder / "fgvc-aircraft-2013b"
    data = root / "data"
    for name in ("0034309", "0034958", "1025794"):
        picture(data / "images" / f"{name}.jpg", (60, 50))
    lines(data / "variants.txt", "707-320", "F-16A/B", "Falcon 2000")
    lines(data / "images_variant_train.txt", "1025794 Falcon 2000")
    lines(data / "images_variant_val.txt", "0034309 F-16A/B")
    lines(data / "images_variant_trainval.txt", "1025794 Falcon 2000", "0034309 F-16A/B")
    lines(data / "images_variant_test.txt", "0034958 707-320")
    lines(data / "images_box.txt", "0034309 3 4 50 28", "0034958 1 1 60 50", "1025794 10 5 20 15")
    return root


def inat2018(folder: Path) -> Path:
    """iNaturalist 2018: a category without images in val, categories not in order of their ids."""
    place = "train_val2018/Aves"
    names = {"train": [f"{place}/2820/a.jpg", f"{place}/2761/b.jpg", "train_val2018/Plantae/7477/c.jpg"]}
    names["val"] = [f"{place}/2820/v.jpg", "train_val2018/Plantae/7477/w.jpg"]
    classes = {"train": [7, 3, 0], "val": [7, 0]}
    categories = [{"id": 7, "name": "Anas crecca"}, {"id": 0, "name": "Acer rubrum"}, {"id": 3, "name": "Anas acuta"}]
    for split, files in names.items():
        images = [{"id": 90 - i, "file_name": name, "width": 40, "height": 32} for i, name in enumerate(files)]
        marks = [{"id": i, "image_id": 90 - i, "category_id": c} for i, c in enumerate(classes[split])]
        content = {"images": images, "annotations": marks, "categories": categories}
        lines(folder / f"{split}2018.json", json.dumps(content))
        for name in files:
            picture(folder / name)
    return folder


def imagenet(folder: Path) -> Path:
    for split, count in (("train", 2), ("val", 1)):
        for wnid in ("n02086240", "n01440764"):
            for i in range(count):
                picture(folder / split / wnid / f"{wnid}_{i}.JPEG")
    return folder


def places_lists(folder: Path) -> Path:
    rows = {"train": ["a/abbey/gsun_1.jpg 0", "o/office/gsun_2.jpg 2", "h/hotel/outdoor/gsun_3.jpg 1"]}
    rows["val"] = ["o/office/gsun_4.jpg 2", "a/abbey/gsun_5.jpg 0", "h/hotel/outdoor/gsun_6.jpg 1"]
    for split, found in rows.items():
        lines(folder / "trainvalsplit_places205" / f"{split}_places205.csv", *found)
        for row in found:
            picture(folder / "data/vision/torralba/deeplearning/images256" / row.split()[0])
    return folder
