"""The step benchmark's instruments (never its times)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ssl_loc.benchmark import contenders, step
from ssl_loc.losses import LossSum
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.utils.errors import ConfigError

CPU = torch.device("cpu")


def _configs() -> tuple:
    configs = [contenders.config(18, kind, batch=8) for kind in ("moco", "cast")]
    for cfg in configs:
        cfg.merge_from_list(["MODEL.RESNET.WIDTH", 8, "MODEL.MOCO.K", 64])
    return tuple(configs)


def test_cast_keeps_what_moco_keeps_and_the_official_form_twice_as_much() -> None:
    moco, cast = _configs()
    views = contenders.random_batch(8, 64)
    base = step.kept_bytes(moco, views)
    # Lower bound: the output of the first convolution and of its norm layer, float32.
    assert base > 2 * 8 * 8 * 32 * 32 * 4
    assert step.kept_bytes(cast, views) <= step.BYTES_GOAL * base


def test_kept_bytes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """y = (x * w).exp().exp(): exp keeps its output, twice; the product keeps x; w is a weight and does not count."""

    class Model(nn.Module):
        def __init__(self, *_: object) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1000))

        def forward(self, views: object) -> Tensor:
            x = torch.ones(1000)
            return (x * self.w).exp().exp()

    monkeypatch.setattr(step, "TrainingModel", Model)
    assert step.kept_bytes(_configs()[0], contenders.random_batch(2, 32)) == 3 * 4000


def test_official_form_is_the_same_loss() -> None:
    """The baseline is honest: with batch statistics its attention value is ours, min-max scaled and point sampled."""
    from ssl_loc.losses.grad_cam_attention import GradCAMAttention
    from ssl_loc.modeling import build_method

    _, cfg = _configs()
    cfg.MODEL.NORM = "BN"
    values = []
    for loss in (contenders.TwoForwardAttention(), GradCAMAttention(norm="minmax_only", mask_resize="point")):
        torch.manual_seed(0)
        method, views = build_method(cfg), contenders.random_batch(8, 128)
        losses = LossSum([("InfoNCE", InfoNCE(), 1.0), ("Attention", loss, 3.0)])
        terms, _ = losses(views, method(views), method)
        values.append(float(terms["Attention"].detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-4) and values[0] > 0


def test_steps_train_and_alternate() -> None:
    moco, cast = _configs()
    views = contenders.random_batch(8, 64)
    calls: list[str] = []
    steps = {
        "moco": contenders.build_step(moco, views, CPU),
        "official": contenders.build_official_step(cast, views, CPU),
    }
    counted = {name: (lambda n=name, s=one: (calls.append(n), s())) for name, one in steps.items()}
    times = step.alternate(counted, 2, "test", progress=False)
    # Warm-up, then rounds in alternating order.
    assert calls == ["moco", "official"] + ["moco", "official"] + ["official", "moco"]
    assert all(len(t.wall) == len(t.cpu) == 2 and min(t.wall) > 0 for t in times.values())


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match="depths .*34.*expected"):
        step.run(depths=(34,))
