"""One optimiser step: transfer, forward, backward, clip, update."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ssl_loc.data.augmenters.paste_records import DONORS_PASSED_OVER, PASTE_REFUSED, PASTED
from ssl_loc.engine.collapse import collapse_numbers
from ssl_loc.engine.model import Forward, TrainingModel
from ssl_loc.structures import Views

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class StepResult:
    """What one step leaves for the hooks: detached tensors on the device, averaged over the parts of the batch.

    Attributes:
        loss: sum of the weighted terms.
        terms: weighted losses by name.
        log: other numbers by name.
        paths: files of this process's batch.
        passed_over: corrupt images, donors included, that the loader passed over for this batch.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    log: dict[str, Tensor | float]
    paths: list[str] = field(default_factory=list)
    passed_over: int = 0


class TrainStep:
    """Callable ``(batch on the CPU, iteration, monitor) -> StepResult``.

    Args:
        model: method + losses on their device; wrapped in DDP here where there are several processes.
        optimizer: its learning rate is set from outside.
        device: of the model.
        accumulate: cut the batch into this many parts, one forward and backward each. The gradient is the mean over
            the parts, hence that of the whole batch wherever samples do not see each other; layers that do look across
            the batch (BatchNorm) see one part, and a loss normalised by a count (images with a mask) counts per part.
        clip_norm: clip the global gradient norm to this; 0 = off.
        amp_dtype: "bf16", "fp16" or None for float32.
        photometric: batched colour operations on the device, or None.
    """

    def __init__(
        self,
        model: TrainingModel,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        amp_dtype: str | None = None,
        photometric: Callable[[Views], Views] | None = None,
        distributed: bool = False,
    ) -> None:
        self.model, self.optimizer, self.device = model, optimizer, device
        self.accumulate, self.clip_norm, self.photometric = accumulate, clip_norm, photometric
        self.amp_dtype = DTYPES[amp_dtype] if amp_dtype else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype == "fp16")
        self.wrapped: Any = wrap_ddp(model) if distributed else model
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Views, iteration: int, monitor: bool) -> StepResult:
        views = batch.to(self.device, non_blocking=True)
        if self.photometric is not None:
            views = self.photometric(views)
        self.optimizer.zero_grad(set_to_none=True)
        forwards = [
            self._forward_backward(part, last=i == self.accumulate - 1)
            for i, part in enumerate(cut(views, self.accumulate))
        ]
        result = _average(forwards)
        result.paths = batch.paths
        counts = [batch.extra[name].sum() for name in ("passed_over", DONORS_PASSED_OVER) if name in batch.extra]
        result.passed_over = int(sum(counts))
        if monitor:
            features = (torch.cat([f.q for f in forwards]), torch.cat([f.pooled for f in forwards]))
            result.log.update(collapse_numbers(*features))
        norm = self._gradient_norm(monitor)
        if norm is not None:
            result.log["grad_norm"] = norm
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if monitor and self.scaler.is_enabled():
            result.log["loss_scale"] = self.scaler.get_scale()
        self.model.after_step(iteration)
        result.log.update(crop_numbers(batch))
        return result

    def _forward_backward(self, part: Views, last: bool) -> Forward:
        # Gradients travel between processes once, with the last part.
        held = nullcontext() if last or self.wrapped is self.model else self.wrapped.no_sync()
        with held:
            with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
                forward: Forward = self.wrapped(part)
            total = forward.total if self.accumulate == 1 else forward.total / self.accumulate
            self.scaler.scale(total).backward()
        forward.total = forward.total.detach()
        return forward

    def _gradient_norm(self, monitor: bool) -> Tensor | None:
        """Global gradient norm before clipping, where clipping or the log needs it; clips."""
        if not self.clip_norm and not monitor:
            return None
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        if self.clip_norm:
            return torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        norms = [torch.linalg.vector_norm(p.grad) for p in self.parameters if p.grad is not None]
        return torch.linalg.vector_norm(torch.stack(norms))


def wrap_ddp(model: nn.Module) -> DistributedDataParallel:
    """DDP around a whole model. Every trained parameter is used in every step; buffers are the layers' business."""
    device = next(model.parameters()).device
    # Newer torch renamed the switch for sending buffers round before every forward.
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    keep_buffers: Any = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
        **{keep_buffers: False},  # type: ignore[arg-type]
    )


def cut(views: Views, parts: int) -> list[Views]:
    """``parts`` contiguous, equal parts of a batch."""
    if parts == 1:
        return [views]
    size = views.batch_size // parts
    return [views.rows(i * size, (i + 1) * size) for i in range(parts)]


def crop_numbers(batch: Views) -> dict[str, Tensor | float]:
    """Rates of the batch as it was loaded: crops that missed their constraint, views that carry a mask, and, where an
    augmenter exchanges backgrounds, views with another background and views that had to keep theirs."""
    numbers: dict[str, Tensor | float] = {
        "crop_unmet_rate": 1 - batch.geometry.met.float().mean(),
        "has_mask_rate": batch.has_mask.float().mean(),
    }
    for record in (PASTED, PASTE_REFUSED):
        if record in batch.extra:
            numbers[f"{record}_rate"] = batch.extra[record].mean()
    return numbers


def _average(forwards: list[Forward]) -> StepResult:
    if len(forwards) == 1:
        (one,) = forwards
        return StepResult(one.total, one.terms, one.log)
    count = len(forwards)
    terms = {name: torch.stack([f.terms[name] for f in forwards]).mean() for name in forwards[0].terms}
    log: dict[str, Tensor | float] = {n: sum(f.log[n] for f in forwards) / count for n in forwards[0].log}
    return StepResult(torch.stack([f.total for f in forwards]).mean(), terms, log)
