"""One step: accumulation, clipping, precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import cast_keys, tiny_cfg

from ssl_loc.data.build import build_pretrain_loader
from ssl_loc.engine import setup
from ssl_loc.engine.run import build_step
from ssl_loc.engine.step import TrainStep
from ssl_loc.structures import Views
from ssl_loc.utils.errors import ConfigError

Data = tuple[Path, Path]
CPU = torch.device("cpu")


def make(data: Data, *keys: Any) -> tuple[TrainStep, Views]:
    """A step with the weights of seed 0, and the first batch."""
    cfg = tiny_cfg(data, "unused", *keys)
    setup.seed_everything(0)
    step = build_step(cfg, CPU, dataset_size=1000)
    step.model.train()
    return step, next(iter(build_pretrain_loader(cfg)))


def gradients(step: TrainStep) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in step.parameters])


@pytest.mark.parametrize("norm", ["FrozenBN", "SplitBN"])
def test_accumulated_gradient_is_that_of_the_whole_batch(drawn: Data, norm: str) -> None:
    """FrozenBN: samples do not see each other. SplitBN with as many groups per part as the whole has per half: neither
    do the groups, once keys are not shuffled."""
    keys = ["MODEL.NORM", norm, "MODEL.NORM_GROUPS", 4, "MODEL.MOCO.SHUFFLE_BN", False]
    whole, batch = make(drawn, *keys)
    parts, _ = make(drawn, *keys, "SOLVER.ACCUMULATE", 2)
    a, b = whole(batch, 0, True), parts(batch, 0, True)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(b.loss, a.loss)
    torch.testing.assert_close(parts.model.method.queue.features, whole.model.method.queue.features)
    assert a.log.keys() == b.log.keys()
    for name in ("feature_std", "effective_rank", "trunk_std", "trunk_effective_rank", "pos_similarity"):
        assert float(b.log[name]) == pytest.approx(float(a.log[name]), rel=1e-4)


def test_clipping_scales_the_gradient_to_the_norm(drawn: Data) -> None:
    free, batch = make(drawn)
    clipped, _ = make(drawn, "SOLVER.CLIP_NORM", 0.25)
    norm = free(batch, 0, True).log["grad_norm"]
    assert norm == pytest.approx(gradients(free).norm().item(), rel=1e-5)
    result = clipped(batch, 0, False)
    assert result.log["grad_norm"] == pytest.approx(float(norm), rel=1e-5), "the norm before clipping is what is logged"
    torch.testing.assert_close(gradients(clipped), gradients(free) * (0.25 / norm), rtol=1e-4, atol=1e-7)


def test_bf16_is_close_to_float32_and_keeps_float32_weights(drawn: Data) -> None:
    keys = cast_keys(drawn)
    full, batch = make(drawn, *keys)
    half, _ = make(drawn, *keys, "SOLVER.AMP.ENABLED", True, "MODEL.CHANNELS_LAST", True)
    a, b = full(batch, 0, True), half(batch, 0, True)
    assert float(a.loss) != float(b.loss), "bf16 was not switched on"
    # bf16 has 8 significant bits: 2^-8 = 0.4 % per operation.
    assert float(b.loss) == pytest.approx(float(a.loss), rel=0.05)
    assert torch.cosine_similarity(gradients(full), gradients(half), dim=0) > 0.9
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert all(term.dtype == torch.float32 for term in b.terms.values())


def test_channels_last_changes_no_result(drawn: Data) -> None:
    plain, batch = make(drawn)
    last, _ = make(drawn, "MODEL.CHANNELS_LAST", True)
    torch.testing.assert_close(last(batch, 0, False).loss, plain(batch, 0, False).loss)
    torch.testing.assert_close(gradients(last), gradients(plain), rtol=1e-3, atol=1e-4)
    weight = last.model.method.trunk().layer4[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_fp16_on_the_cpu_is_refused(drawn: Data) -> None:
    with pytest.raises(ConfigError, match="SOLVER.AMP.DTYPE is 'fp16' on the CPU.*set SOLVER.AMP.DTYPE bf16"):
        make(drawn, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "fp16")
    with pytest.raises(ConfigError, match="SOLVER.AMP.DTYPE is 'fp8'.*choices: bf16, fp16"):
        make(drawn, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "fp8")


def test_deferred_colour_trains(drawn: Data) -> None:
    views = [["RandomResizedCrop", "ColorJitter", "RandomFlip"]] * 2
    step, batch = make(drawn, "AUGMENT.VIEWS", views, "AUGMENT.PHOTOMETRIC_ON", "device")
    assert step.photometric is not None
    assert torch.isfinite(step(batch, 0, False).loss)


def test_rates_of_crops_and_masks_come_from_the_batch(drawn: Data) -> None:
    step, batch = make(drawn, *cast_keys(drawn))
    batch.geometry.met[:2, 0] = False
    batch.has_mask[:4] = False
    log = step(batch, 0, False).log
    assert float(log["crop_unmet_rate"]) == pytest.approx(2 / 16)
    assert float(log["has_mask_rate"]) == pytest.approx(0.5)
    assert float(log["attention_skipped_rate"]) >= 0.5
