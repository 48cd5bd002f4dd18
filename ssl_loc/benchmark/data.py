"""What two views and their masks cost, beside the torchvision pipeline of MoCo-style code bases.

All contenders read the same 640 x 480 JPEGs, take turns inside one process with one thread, and are compared by CPU
time. Absolute times depend on the machine; the ratios are what counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import cv2
import torch
from torch import Tensor

from ssl_loc.benchmark.photos import write_photos
from ssl_loc.benchmark.rows import Row
from ssl_loc.benchmark.torchvision_pipeline import TorchvisionMoCoV2
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters import Context, build_device_photometric
from ssl_loc.data.augmenters.constrained_crop import SaliencyConstrainedCrop
from ssl_loc.data.augmenters.recipes import recipe
from ssl_loc.data.augmenters.summed_area import SummedArea
from ssl_loc.data.build import build_mapper
from ssl_loc.data.collate import collate
from ssl_loc.data.image_io import read_image
from ssl_loc.data.mapper import Mapper
from ssl_loc.data.rng import Streams
from ssl_loc.layers.normalize_pixels import normalize_pixels
from ssl_loc.structures import View, Views
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

SIZE_PX, REDUCE = 224, 4
CPU_GOAL, DEFERRED_GOAL, CROP_GOAL_MS = 3.7, 4.4, 0.15
# Images per batch: small, so that the memory of a batch is not what is measured (both sides make batches).
BATCH = 8
# Repetitions of the crop pair inside one timing: it is far shorter than the clock's own cost would allow.
CROP_REPEATS = 200
STAGE_NAMES = {
    "SaliencyConstrainedCrop": "constrained crop: draw, test, cut and resize image and mask",
    "ColorChain": "colour jitter and grey as one matrix",
    "GaussianBlur": "blur",
    "RandomFlip": "flip",
}


def run(images: int = 24, rounds: int = 9, progress: bool = True) -> list[Row]:
    """All rows of the data benchmark.

    Args:
        images: pictures drawn, and read by each contender per round.
        rounds: turns of each contender after one that warms up; the median ratio counts.
        progress: show a bar.
    """
    if images < 2 or rounds < 1:
        raise ConfigError(f"data benchmark got images {images} and rounds {rounds}; expected at least 2 and 1")
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        root = Path(folder)
        size = write_photos(root, images, REDUCE)
        rows = [Row("JPEG 640 x 480, mean size", size / 1000, "kB")]
        configs = {place: config(root, place) for place in ("worker", "device")}
        mappers = {place: build_mapper(cfg) for place, cfg in configs.items()}
        rows += compare(mappers, configs["worker"], rounds, progress)
        rows += stages(mappers, configs["device"], rounds, progress)
        return rows


def config(root: Path, place: str) -> CfgNode:
    """MoCo v2 views with the saliency-constrained crop; ``place`` is AUGMENT.PHOTOMETRIC_ON."""
    cfg = get_cfg()
    cfg.DATA.TRAIN = f"folder:{root / 'images'}"
    cfg.DATA.MASKS.SOURCE, cfg.DATA.MASKS.ROOT, cfg.DATA.MASKS.REDUCE = "folder", str(root / "maps"), REDUCE
    cfg.AUGMENT.VIEWS, cfg.AUGMENT.SIZE = recipe("moco_v2", "SaliencyConstrainedCrop"), SIZE_PX
    cfg.AUGMENT.PHOTOMETRIC_ON = place
    return cfg


def compare(mappers: dict[str, Mapper], cfg: CfgNode, rounds: int, progress: bool) -> list[Row]:
    """Whole pipelines, from files to batches, in turn."""
    records = mappers["worker"].records
    paths = [records[i].path for i in range(len(records))]
    peer = TorchvisionMoCoV2(SIZE_PX)
    mean, std = pixel_statistics(cfg)
    contenders: dict[str, Callable[[int], Any]] = {
        "torchvision": lambda turn: [peer(paths[i : i + BATCH]) for i in range(0, len(paths), BATCH)],
        "worker": lambda turn: [normalize(views, mean, std) for views in load(mappers["worker"], turn)],
        "device": lambda turn: list(load(mappers["device"], turn)),
    }
    times: dict[str, list[float]] = defaultdict(list)
    order = list(contenders)
    for turn in progress_bar(range(-1, rounds), desc="two views + mask", unit="round", show=progress):
        for name in order:
            start = time.process_time()
            contenders[name](turn + 1)
            if turn >= 0:  # the first round warms up
                times[name].append((time.process_time() - start) / len(paths) * 1e3)
        order.reverse()
    ratios = {
        name: statistics.median(a / b for a, b in zip(times["torchvision"], times[name], strict=True))
        for name in ("worker", "device")
    }
    best = {name: min(values) for name, values in times.items()}
    baseline = f"torchvision PIL MoCo v2, no mask: {best['torchvision']:.2f} ms/image"
    where = f"two {SIZE_PX} px views + mask"
    return [
        Row.at_least(f"{where}, all on CPU, normalised: speed", ratios["worker"], "x", baseline, CPU_GOAL),
        Row.at_least(f"{where}, colour deferred, uint8 out: speed", ratios["device"], "x", baseline, DEFERRED_GOAL),
        Row(f"{where}, all on CPU, normalised", best["worker"], "ms/image"),
        Row(f"{where}, colour deferred, uint8 out", best["device"], "ms/image"),
    ]


def load(mapper: Mapper, epoch: int) -> Iterator[Views]:
    """All images in batches, through the mapper and the collation that training uses."""
    for start in range(0, len(mapper), BATCH):
        yield collate([mapper[(epoch, index)] for index in range(start, min(start + BATCH, len(mapper)))])


def pixel_statistics(cfg: CfgNode) -> tuple[Tensor, Tensor]:
    """Mean and deviation, each (1, 3, 1, 1)."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    return mean, std


def normalize(views: Views, mean: Tensor, std: Tensor) -> list[Tensor]:
    """What methods do with a batch first (channels-last, as the views come)."""
    return [normalize_pixels(x, mean, std, torch.channels_last) for x in views.images]


def stages(mappers: dict[str, Mapper], cfg: CfgNode, rounds: int, progress: bool) -> list[Row]:
    """CPU time of each stage for one image (both views), the fastest round of each."""
    found: dict[str, list[float]] = defaultdict(list)
    for turn in progress_bar(range(rounds), desc="stages", unit="round", show=progress):
        for name, value in _stage_round(mappers["worker"], mappers["device"], cfg, turn).items():
            found[name].append(value)
    best = {name: min(values) for name, values in found.items()}
    pair = best.pop("pair")
    rows = [Row(f"stage: {name}", value, "ms/image") for name, value in best.items()]
    return [Row.at_most("constrained crop, both views: table, draw, test, choose", pair, "ms", "", CROP_GOAL_MS), *rows]


def _stage_round(mapper: Mapper, deferred: Mapper, cfg: CfgNode, turn: int) -> dict[str, float]:
    """One pass over the images with a clock around every stage -> ms per image."""
    spent: dict[str, float] = defaultdict(float)
    clock = _Clock(spent)
    rows = []
    for index in range(len(mapper)):
        record = mapper.records[index]
        with clock("decode JPEG"):
            image = read_image(record.path, record.trim_bottom)
        with clock("decode map (1-bit PNG at 1/4)"):
            mapper.masks.load(index, record, (image.shape[0], image.shape[1]))
        rows.append(mapper[(turn, index)])
        sample = mapper.sample(index)
        context = Context(sample)
        for number, pipeline in enumerate(mapper.pipelines):
            view, streams = View.whole(sample), Streams(0, turn, index, number)
            for step in pipeline.steps:
                with clock(STAGE_NAMES[type(step).__name__]):
                    view = step(view, streams, context)
    with clock("collate"):
        batches = [collate(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    mean, std = pixel_statistics(cfg)
    with clock("normalise"):
        for views in batches:
            normalize(views, mean, std)
    photometric = build_device_photometric(cfg)
    assert photometric is not None
    for views in load(deferred, turn):
        with clock("deferred: colour and blur of the batch, on this CPU"):
            photometric(views)
    per_image = {name: seconds / len(mapper) * 1e3 for name, seconds in spent.items()}
    return {**per_image, "pair": _crop_pair(mapper)}


def _crop_pair(mapper: Mapper) -> float:
    """CPU time of choosing both crops of an image, without the pixel work -> ms."""
    crop = cast(SaliencyConstrainedCrop, mapper.pipelines[0].steps[0])
    samples = [mapper.sample(index) for index in range(min(len(mapper), 8))]
    maps = [sample.saliency.numpy() for sample in samples if sample.saliency is not None]
    start = time.process_time()
    for repeat in range(CROP_REPEATS):
        sample = samples[repeat % len(samples)]
        area = SummedArea(maps[repeat % len(maps)], (sample.height, sample.width))
        for view in range(2):
            crop.choose(Streams(0, 0, repeat, view)("crop"), sample.height, sample.width, area)
    return (time.process_time() - start) / CROP_REPEATS * 1e3


class _Clock:
    """``with clock(name)`` adds the CPU time of the block to ``spent[name]``."""

    def __init__(self, spent: dict[str, float]) -> None:
        self.spent = spent

    @contextmanager
    def __call__(self, name: str) -> Any:
        start = time.process_time()
        yield
        self.spent[name] += time.process_time() - start


@contextmanager
def _one_thread() -> Any:
    """Like a loader worker: one thread in torch and OpenCV."""
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)
