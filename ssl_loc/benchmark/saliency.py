"""What saliency maps cost on one core, stage by stage, and what a whole dataset of them would take.

Everything is CPU time of one thread; contenders of a ratio take turns on the same pictures.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ssl_loc.benchmark.numpy_saliency import measure_numpy, paths_scipy, slic_numpy
from ssl_loc.benchmark.photos import draw_map, draw_photo, encode_photo
from ssl_loc.benchmark.rows import Row
from ssl_loc.benchmark.saliency_quality import quality
from ssl_loc.data.image_io import read_image
from ssl_loc.saliency import refine, regional, superpixels
from ssl_loc.saliency.build import Estimator, build_estimator
from ssl_loc.saliency.colour import to_planes
from ssl_loc.saliency.map_io import write_map
from ssl_loc.saliency.region_graph import Regions, all_paths, measure_regions
from ssl_loc.saliency.small_algebra import small_algebra
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

# ms per image of 400 x 300, one core: what must hold.
GOALS = {"gs": 12.0, "mc": 12.0, "rbd": 15.0, "fusion": 40.0}
WIDTH, HEIGHT = 400, 300
PICTURES = 6
# COCO train2017: images, and the cores that the estimate is for.
COCO_IMAGES, CORES = 118_287, 16
Call = Callable[[], object]
# RBD's two partitions; their areas in px.
COARSE, FINE = regional.REGION_PX


def run(photos: str = "", rounds: int = 9, progress: bool = True) -> list[Row]:
    """All rows of the saliency benchmark.

    Args:
        photos: folder with images/ and masks/ (PNG, same stems) to measure quality on; "" for speed only, on drawn
            pictures.
        rounds: turns of each contender after one that warms up and compiles; the median counts.
        progress: show a bar.
    """
    if rounds < 1:
        raise ConfigError(f"saliency benchmark got rounds {rounds}; expected at least 1")
    rows = quality(photos, list(GOALS), progress) if photos else []
    with _one_thread():
        pictures = [_picture(seed) for seed in range(PICTURES)]
        rows += methods(pictures, rounds, progress)
        rows += stages(pictures, rounds)
        rows += ratios(pictures, rounds)
        rows += dataset(max(1, rounds // 3))
    return rows


def methods(pictures: Sequence[np.ndarray], rounds: int, progress: bool) -> list[Row]:
    """Whole estimators, in turn."""
    calls: dict[str, Call] = {name: partial(_maps, build_estimator(name), pictures) for name in GOALS}
    times = _alternate(calls, rounds, len(pictures), progress)
    where = f"{WIDTH} x {HEIGHT}, one core"
    return [Row.at_most(f"{name}, {where}", times[name], "ms/image", "", goal) for name, goal in GOALS.items()]


def _maps(estimator: Estimator, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [estimator(picture) for picture in pictures]


def stages(pictures: Sequence[np.ndarray], rounds: int) -> list[Row]:
    """The parts of RBD and of the others, on one picture."""
    picture = pictures[0]
    small = HEIGHT // regional.REDUCE, WIDTH // regional.REDUCE
    rgb, lab = to_planes(picture, small)
    calls: dict[str, Call] = {"half size, RGB and Lab": lambda: to_planes(picture, small)}
    for px in (COARSE, FINE):
        calls |= _partition_stages(rgb, lab, round(HEIGHT * WIDTH / px))
    values = np.random.default_rng(0).random(small).astype(np.float32)
    calls["enlarging the map"] = lambda: cv2.resize(values, (WIDTH, HEIGHT))
    calls["enlarging along edges (fusion)"] = lambda: refine.guided_upsample(picture, rgb, values, 4, 3e-4)
    times = _alternate(calls, rounds, 1, False)
    return [Row(f"stage: {name}", value, "ms") for name, value in times.items()]


def _partition_stages(rgb: np.ndarray, lab: np.ndarray, count: int) -> dict[str, Call]:
    labels, found = superpixels.slic(lab, count, regional.COMPACTNESS)

    def describe() -> Regions:
        return measure_regions(rgb, labels, found, regional.BORDER_BAND // regional.REDUCE)

    def scores(name: str) -> Call:
        estimator = build_estimator(name)
        assert isinstance(estimator, regional.RegionEstimator)
        return lambda: estimator.scores(describe())

    regions = describe()
    stages: dict[str, Call] = {
        "superpixels": lambda: superpixels.slic(lab, count, regional.COMPACTNESS),
        "colours, places, neighbours": describe,
        "all shortest paths": lambda: all_paths(regions.lengths, regions.clip),
    }
    # Each builds the graph anew, as for a fresh image.
    stages |= {f"scores of {name}, with regions and graph": scores(name) for name in ("gs", "mc", "rbd")}
    return {f"{what}, {count} regions": call for what, call in stages.items()}


def ratios(pictures: Sequence[np.ndarray], rounds: int) -> list[Row]:
    """Compiled stages beside their plain forms in numpy and scipy."""
    rgb, lab = to_planes(pictures[0], (HEIGHT // regional.REDUCE, WIDTH // regional.REDUCE))
    count = round(HEIGHT * WIDTH / COARSE)
    labels, found = superpixels.slic(lab, count, regional.COMPACTNESS)
    regions = measure_regions(rgb, labels, found, 4)
    pairs: dict[str, tuple[Call, Call, str]] = {
        "superpixels": (
            lambda: superpixels.slic(lab, count, regional.COMPACTNESS),
            lambda: slic_numpy(lab, count, regional.COMPACTNESS),
            "SLIC in numpy",
        ),
        "region statistics": (
            lambda: measure_regions(rgb, labels, found, 4),
            lambda: measure_numpy(rgb, labels, found, 4),
            "the same in numpy",
        ),
        "all shortest paths": (
            lambda: all_paths(regions.lengths, regions.clip),
            lambda: paths_scipy(regions.lengths, regions.clip),
            "scipy's Dijkstra",
        ),
    }
    rows = []
    for name, (ours, plain, what) in pairs.items():
        times = _alternate({"ours": ours, "plain": plain}, rounds, 1, False)
        baseline = f"{what}: {times['plain']:.2f} ms"
        rows.append(Row(f"{name}, {found} regions: speed", times["plain"] / times["ours"], "x", baseline))
    return rows


def dataset(rounds: int) -> list[Row]:
    """From JPEG to stored map at COCO's size, and what all of train2017 takes."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        path.write_bytes(encode_photo(_large(0)))
        image = read_image(path)
        parts: dict[str, Call] = {"decode": lambda: read_image(path)}
        parts |= {name: partial(build_estimator(name), image) for name in GOALS}
        saliency = np.rint(build_estimator("rbd")(image) * 255).astype(np.uint8)
        parts["write"] = lambda: write_map(Path(folder) / "map.png", saliency)
        times = _alternate(parts, max(3, rounds), 1, False)
    around = times["decode"] + times["write"]
    rows.append(Row("640 x 480: decode a JPEG and write a map", around, "ms/image"))
    for name in GOALS:
        hours = COCO_IMAGES * (times[name] + around) / 1e3 / CORES / 3600
        rows.append(
            Row(f"COCO train2017 with {name}, {CORES} cores", hours * 60, "min", f"{times[name] + around:.1f} ms/image")
        )
    return rows


def _alternate(calls: dict[str, Call], rounds: int, images: int, progress: bool) -> dict[str, float]:
    """Median CPU time per image of each call, in ms; they take turns after a first round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in progress_bar(range(-1, rounds), desc="saliency", unit="round", show=progress):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn >= 0:
                times[name].append((time.process_time() - start) / images * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def _large(seed: int) -> np.ndarray:
    """A drawn photo with an object, uint8 (480, 640, 3)."""
    rng = np.random.default_rng(seed)
    image = draw_photo(rng)
    inside = draw_map(rng, 1) > 0
    image[inside] = np.clip(image[inside].astype(int) + rng.integers(-90, 90, 3), 0, 255)
    return image


def _picture(seed: int) -> np.ndarray:
    return cv2.resize(_large(seed), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        with small_algebra():
            yield
    finally:
        cv2.setNumThreads(threads)
