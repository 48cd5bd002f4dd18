"""DenseCL: the loss against loops over positions, the true positions by hand, one step of both heads and queues."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from ssl_loc.components import setup_cfg
from ssl_loc.losses import LOSS_REGISTRY, build_losses
from ssl_loc.modeling import build_method
from ssl_loc.structures import Geometry, GeometryBatch, Views
from ssl_loc.utils.errors import ConfigError

HERE = Path(__file__).parent
TINY = ["MODEL.RESNET.WIDTH", 8, "MODEL.MOCO.DIM", 6, "MODEL.MOCO.K", 8, "MODEL.DENSE_CL.HIDDEN", 5]


def _cfg(*keys):
    return setup_cfg(str(HERE / "dense_cl_quick.yaml"), [*TINY, "MODEL.DENSE_CL.K", 7, *keys])


def _views(flip: bool = False) -> Views:
    """Four images; the second view starts half a view further to the right."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator) for _ in range(2)]
    row = [Geometry((x, 0, x + 64, 64), (64, 64), (64, 96), flip) for x in (0, 32)]
    none = torch.zeros(4, 2, dtype=torch.bool)
    return Views(images, None, none, GeometryBatch.stack([row] * 4), torch.arange(4), torch.full((4,), -1))


def test_loss_is_the_papers_sum_over_positions() -> None:
    """Equations 2 and 4 in loops over images and positions, in float64."""
    torch.manual_seed(0)
    method, losses = build_method(_cfg()).double(), build_losses(_cfg())
    losses.connect(method)
    views = _views()
    (pair,) = (output := method(views)).pairs
    terms, log = losses(views, output, method)
    cells = [(j, i) for j in range(4) for i in range(4)]
    unit = torch.nn.functional.normalize
    total, near, count = 0.0, 0, 0
    for n in range(4):
        f, g = pair.maps["res5"][n], pair.target_maps["res5"][n]
        q, k = method.dense_head(f[None])[0], method.key_dense_head(g[None])[0]
        for y, x in cells:
            similarity = [unit(f[:, y, x], dim=0) @ unit(g[:, j, i], dim=0) for j, i in cells]
            j, i = cells[int(torch.stack(similarity).argmax())]
            r, t = unit(q[:, y, x], dim=0), unit(k[:, j, i], dim=0)
            logits = torch.stack([r @ t, *(r @ key for key in method.dense_queue.features.t())]) / pair.temperature
            total += (torch.logsumexp(logits, 0) - logits[0]).item()
            if x >= 2:  # the right half of the first view is the left half of the second
                near, count = near + (max(abs(i - (x - 2)), abs(j - y)) <= 1), count + 1
    assert 0 < near < count
    assert float(terms["DenseContrast"]) == pytest.approx(0.5 * total / 64, rel=1e-6)
    assert float(log["dense_match_rate"]) == pytest.approx(near / count)


def test_keys_follow_and_are_queued() -> None:
    """After a step: key head = m old + (1 - m) new; the queue holds the pooled keys of the step; no key is trained."""
    torch.manual_seed(0)
    method, losses = build_method(_cfg("MODEL.MOCO.M", 0.75)), build_losses(_cfg())
    losses.connect(method)
    views = _views(flip=True)
    output = method(views)
    sum(losses(views, output, method)[0].values()).backward()
    assert all(p.grad is None for p in method.key_dense_head.parameters())
    assert all(p.grad is not None and p.grad.any() for p in method.dense_head.parameters())
    keys = method.key_dense_head(output.pairs[0].target_maps["res5"]).mean((2, 3))
    before = method.key_dense_head[0].weight.clone()
    with torch.no_grad():
        method.dense_head[0].weight += 1.0
    method.after_step(0)
    torch.testing.assert_close(method.key_dense_head[0].weight, 0.75 * before + 0.25 * (before + 1.0))
    expected = keys / keys.norm(dim=1, keepdim=True)
    torch.testing.assert_close(method.dense_queue.features[:, :4], expected.t())
    assert int(method.dense_queue.pointer) == 4


def test_equal_keys_cost_the_logarithm_of_their_number() -> None:
    """Closed form: where positive and negatives are the same vector, the loss is ln(K + 1)."""
    method = build_method(_cfg())
    views = _views()
    (pair,) = (output := method(views)).pairs
    one = torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None]
    pair.dense_negatives[:], pair.t[:] = one, one[..., None]
    value, _ = LOSS_REGISTRY.get("DenseContrast")()(views, output, method)
    assert float(value) == pytest.approx(math.log(8), rel=1e-5)


def test_other_methods_are_refused_with_a_sentence() -> None:
    losses = build_losses(_cfg())
    with pytest.raises(ConfigError, match="DenseContrast needs embeddings of every position .* MoCo has none"):
        losses.connect(build_method(_cfg("MODEL.METHOD", "MoCo")))
