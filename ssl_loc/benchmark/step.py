"""What a training step costs: CAST beside MoCo, official form, low precision; on a GPU beside supervised training.

Every figure is a ratio of steps that alternate inside one process: absolute times on shared machines mean little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_loc.benchmark import contenders
from ssl_loc.benchmark.contenders import Step
from ssl_loc.benchmark.rows import Row
from ssl_loc.engine.model import TrainingModel
from ssl_loc.losses import build_losses
from ssl_loc.modeling import build_method
from ssl_loc.structures import Views
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

# One step of CAST is 5 encoder forwards' worth (query 3, key 1, masked key 1) to MoCo's 4: 1.25 is the floor.
CAST_GOAL, BYTES_GOAL, FAST_GOAL, GPU_GOAL = 1.30, 1.02, 0.55, 0.57
# depth -> images per step of the CPU comparisons.
BATCHES = {18: 32, 50: 16}
GPU_BATCH, GPU_SIZE_PX = 256, 224


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, one entry per round."""

    wall: list[float]
    cpu: list[float]


def run(
    size: int = 112, rounds: int = 7, depths: tuple[int, ...] = (18, 50), device: str = "auto", progress: bool = True
) -> list[Row]:
    """All rows of the step benchmark.

    Args:
        size: side of the views of the CPU comparisons, px.
        rounds: timed steps of each contender, after one that warms up; the median counts.
        depths: ResNets to compare, of 18 (32 images) and 50 (16 images).
        device: "cpu", "cuda", or "auto" = CPU rows, and GPU rows too where there is a GPU.
        progress: show a bar.
    """
    unknown = sorted(set(depths) - set(BATCHES))
    if unknown or size < 32 or rounds < 1:
        raise ConfigError(
            f"step benchmark got size {size}, rounds {rounds}, depths {depths}; expected size >= 32 px, rounds >= 1, "
            f"depths out of {tuple(BATCHES)}"
        )
    rows: list[Row] = []
    if device in ("auto", "cpu"):
        for depth in depths:
            rows += cpu_rows(depth, size, rounds, progress)
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        rows += gpu_rows(rounds, progress)
    return rows


def cpu_rows(depth: int, size: int, rounds: int, progress: bool = True) -> list[Row]:
    """Ratios of steps of a ResNet on the CPU, and what they keep for the backward pass."""
    batch, cpu = BATCHES[depth], torch.device("cpu")
    views = contenders.random_batch(batch, size)
    moco, cast = (contenders.config(depth, kind, batch=batch) for kind in ("moco", "cast"))
    fast = contenders.config(depth, "cast", fast=True, batch=batch)
    steps: dict[str, Callable[[], Step]] = {
        "moco": lambda: contenders.build_step(moco, views, cpu),
        "cast": lambda: contenders.build_step(cast, views, cpu),
        "official": lambda: contenders.build_official_step(cast, views, cpu),
        "fast": lambda: contenders.build_step(fast, views, cpu),
    }
    where = f"R{depth} b{batch} {size} px"
    times = alternate({name: make() for name, make in steps.items()}, rounds, where, progress)
    rows = []
    for label, pick in (("CPU time", lambda t: t.cpu), ("wall", lambda t: t.wall)):
        seconds = {name: pick(t) for name, t in times.items()}
        rows += [
            _ratio(f"CAST step, {where}, {label}", seconds, "cast", "moco", CAST_GOAL),
            _ratio(f"CAST in the official form, {where}, {label}", seconds, "official", "moco", None),
            _ratio(f"CAST bf16 + channels_last, {where}, {label}", seconds, "fast", "cast", FAST_GOAL),
        ]
    kept = {kind: kept_bytes(cfg, views) for kind, cfg in (("moco", moco), ("cast", cast))}
    value = kept["cast"] / kept["moco"]
    baseline = f"MoCo {kept['moco'] / batch / 1e6:.1f} MB per image"
    return [*rows, Row.at_most(f"CAST bytes kept for backward, {where}", value, "x", baseline, BYTES_GOAL)]


def alternate(steps: dict[str, Step], rounds: int, title: str, progress: bool = True) -> dict[str, Times]:
    """Time each step once per round, in turn, after one round that warms up; the order turns around every round."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    order = list(steps)
    for _ in progress_bar(range(rounds), desc=title, unit="round", show=progress):
        for name in order:
            _synchronize()
            start_wall, start_cpu = time.perf_counter(), time.process_time()
            steps[name]()
            _synchronize()
            wall[name].append(time.perf_counter() - start_wall)
            cpu[name].append(time.process_time() - start_cpu)
        order.reverse()
    return {name: Times(wall[name], cpu[name]) for name in steps}


def kept_bytes(cfg: contenders.CfgNode, views: Views) -> int:
    """Bytes of distinct memory that the forward of a step keeps for its backward, without weights and buffers."""
    torch.manual_seed(0)
    model = TrainingModel(build_method(cfg), build_losses(cfg))
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor  # keeps the memory alive, so that no address is counted for two tensors

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward = model(views)
    total = sum(seen.values())
    del forward
    return total


def gpu_rows(rounds: int, progress: bool = True) -> list[Row]:
    """CAST with bf16 and channels_last beside a supervised ResNet-50 step, images per second and memory."""
    if not torch.cuda.is_available():
        raise ConfigError("the step benchmark was asked for GPU rows (--device cuda) but torch sees no GPU; use cpu")
    device = torch.device("cuda")
    views = contenders.random_batch(GPU_BATCH, GPU_SIZE_PX, pin=True)
    steps: dict[str, Step] = {}
    # BN is what each of 8 GPUs computes; SplitBN does the work of 8 on one.
    for name, kind, norm in (("moco", "moco", "BN"), ("cast", "cast", "BN"), ("cast with SplitBN", "cast", "SplitBN")):
        cfg = contenders.config(50, kind, fast=True, batch=GPU_BATCH, norm=norm)
        steps[name] = contenders.build_step(cfg, views, device)
    steps["supervised"] = contenders.build_supervised_step(views, device, torch.bfloat16)
    peaks = {name: _peak_bytes(step) for name, step in steps.items()}
    # Steps of a GPU are short and many are needed; they cost little.
    times = alternate(steps, 5 * rounds, f"GPU R50 b{GPU_BATCH} {GPU_SIZE_PX} px", progress)
    speed = {name: GPU_BATCH / statistics.median(t.wall) for name, t in times.items()}
    where = f"R50 b{GPU_BATCH} {GPU_SIZE_PX} px bf16 channels_last, {torch.cuda.get_device_name()}"
    baseline = f"supervised {speed['supervised']:.0f} images/s"
    rows = [Row(f"{name} images/s, {where}", value, "images/s") for name, value in speed.items()]
    share = {name: value / speed["supervised"] for name, value in speed.items() if name != "supervised"}
    rows.append(Row.at_least(f"cast speed, {where}", share.pop("cast"), "x", baseline, GPU_GOAL))
    rows += [Row(f"{name} speed, {where}", value, "x", baseline) for name, value in share.items()]
    rows += [Row(f"{name} working memory of a step, {where}", peak / 1e9, "GB") for name, peak in peaks.items()]
    return rows


def _ratio(name: str, seconds: dict[str, list[float]], which: str, base: str, goal: float | None) -> Row:
    """Median over rounds of the ratio inside a round: slow changes of the machine cancel."""
    value = statistics.median(a / b for a, b in zip(seconds[which], seconds[base], strict=True))
    baseline = f"{base} {statistics.median(seconds[base]):.2f} s"
    return Row(name, value, "x", baseline) if goal is None else Row.at_most(name, value, "x", baseline, goal)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_bytes(step: Step) -> int:
    """Most memory that a step allocates above what stays between steps (weights, optimiser state, queue)."""
    step()  # optimiser state and workspaces exist from now on
    _synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    _synchronize()
    return torch.cuda.max_memory_allocated() - before
