"""The alignment loss of CVSA: against slow loops and closed forms, masks, targets, off switch, wrong input."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import pytest
import torch
from helpers.batches import random_views
from helpers.ddp import run_in_processes
from torch import Tensor, nn

from ssl_loc.components import get_cfg
from ssl_loc.engine.model import TrainingModel
from ssl_loc.layers import make_norm
from ssl_loc.losses import build_losses
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.correspondence import alignment_error, correspondence
from ssl_loc.losses.cross_view_alignment import CrossViewAlignment
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.modeling import Method
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.moco import MoCo
from ssl_loc.structures import MethodOutput, Pair, Views
from ssl_loc.utils.errors import ConfigError

SLOW = {
    "raw": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)),
    "scaled": lambda a, b: sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(len(a)),
    "cosine": lambda a, b: (
        sum(x * y for x, y in zip(a, b, strict=True))
        / math.sqrt(sum(x * x for x in a))
        / math.sqrt(sum(y * y for y in b))
        / 0.25
    ),
}


def _slow_correspondence(p: Tensor, t: Tensor, logit: str) -> Tensor:
    """Equations 3 and 4 with plain numbers, one pair of positions at a time, the sigmoid before the maximum."""
    n, _, h, w = p.shape
    out = torch.zeros(n, h, w, dtype=p.dtype)
    for i in range(n):
        for y in range(h):
            for x in range(w):
                a = p[i, :, y, x].tolist()
                found = []
                for v in range(t.shape[2]):
                    for u in range(t.shape[3]):
                        found.append(1 / (1 + math.exp(-SLOW[logit](a, t[i, :, v, u].tolist()))))
                out[i, y, x] = max(found)
    return out


@pytest.mark.parametrize("logit", list(SLOW))
def test_correspondence_by_loops(logit: str) -> None:
    torch.manual_seed(0)
    p, t = torch.randn(3, 5, 2, 4, dtype=torch.float64), torch.randn(3, 5, 3, 2, dtype=torch.float64)
    found = correspondence(p, t, logit, 0.25)
    assert found.shape == (3, 2, 4)
    torch.testing.assert_close(found, _slow_correspondence(p, t, logit), rtol=1e-12, atol=1e-12)


def test_closed_forms() -> None:
    """Zero logits: C = 1/2, so the error to any 0/1 mask is 1/4. One-hot features of length s: C = sigmoid(s^2) where
    the other view has the feature, 1/2 where it has not."""
    zeros, mask = torch.zeros(2, 4, 3, 3), torch.randint(0, 2, (2, 3, 3)).float()
    c = correspondence(zeros, zeros + 1)
    assert bool((c == 0.5).all()) and float(alignment_error(c, mask, torch.ones(2))) == 0.25
    eye = 3.0 * torch.eye(4).view(1, 4, 2, 2)  # position i holds 3 e_i
    other = eye.clone()
    other[:, 0] = 0  # the first feature is not to be seen in the other view
    strong = 1 / (1 + math.exp(-9))
    torch.testing.assert_close(correspondence(eye, other), torch.tensor([[[0.5, strong], [strong, strong]]]))
    # Cosines do not see lengths: sigmoid(1 / T).
    found = correspondence(eye, 7 * other, "cosine", 0.2)
    torch.testing.assert_close(found[0, 1, 1], torch.tensor(1 / (1 + math.exp(-5))))


def test_error_counts_images_with_a_mask_only() -> None:
    torch.manual_seed(0)
    c, mask = torch.rand(4, 2, 3, dtype=torch.float64), torch.rand(4, 2, 3, dtype=torch.float64)
    valid = torch.tensor([1.0, 0.0, 1.0, 1.0])
    by_hand = [sum((m - x) ** 2 for m, x in zip(mask[i].flatten(), c[i].flatten(), strict=True)) for i in (0, 2, 3)]
    assert float(alignment_error(c, mask, valid, "sum")) == pytest.approx(float(sum(by_hand)) / 3, rel=1e-12)
    assert float(alignment_error(c, mask, valid)) == pytest.approx(float(sum(by_hand)) / 18, rel=1e-12)
    assert float(alignment_error(c, mask, 0 * valid)) == 0


def _shards(rank: int, c: Tensor, mask: Tensor, valid: Tensor) -> list[Tensor]:
    """Value and gradient of this process's half, before DDP takes the mean."""
    part = c[rank::2].clone().requires_grad_()
    value = alignment_error(part, mask[rank::2], valid[rank::2])
    value.backward()
    return [value.detach(), part.grad]


def test_two_processes_equal_one() -> None:
    torch.manual_seed(0)
    c, mask = torch.rand(6, 2, 2, dtype=torch.float64), torch.rand(6, 2, 2, dtype=torch.float64)
    valid = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 1.0])  # 1 of 3 in the first process, 3 of 3 in the other
    whole = c.clone().requires_grad_()
    alignment_error(whole, mask, valid).backward()
    results = run_in_processes(_shards, 2, c, mask, valid)
    mean = (results[0][0] + results[1][0]) / 2
    torch.testing.assert_close(mean, alignment_error(c, mask, valid), rtol=1e-12, atol=0)
    for rank in (0, 1):
        torch.testing.assert_close(results[rank][1] / 2, whole.grad[rank::2], rtol=1e-12, atol=0)


def _method(norm: str = "BN", seed: int = 0, **kwargs) -> MoCo:
    torch.manual_seed(seed)
    trunk = ResNet(norm=make_norm(norm, 2), depth=18, width=8, layers=[1, 1, 1, 1], stem="small")
    method = MoCo(trunk, build_head("linear", trunk.out_channels, 16), dim=16, queue_size=24, **kwargs)
    torch.manual_seed(seed + 1)
    for parameter in method.key_trunk.parameters():  # keys that differ from queries, as after some steps
        parameter.data += 0.02 * torch.randn_like(parameter)
    return method


def _loss(method: Method, **kwargs) -> CrossViewAlignment:
    torch.manual_seed(7)
    loss = CrossViewAlignment(dim=12, hidden=10, **kwargs)
    loss.connect(method)
    return loss


def _both_ways(method: MoCo, views: Views) -> MethodOutput:
    """Two directed pairs, as BYOL gives them."""
    swapped = copy.copy(views)
    swapped.images = views.images[::-1]
    there, back = method(views).pairs[0], method(swapped).pairs[0]
    back.query_view, back.key_view = 1, 0
    return MethodOutput([there, back])


def _neck_by_hand(neck: nn.Module, x: Tensor) -> Tensor:
    """1x1 convolution, batch statistics, ReLU, 1x1 convolution, as matrix products over positions."""
    weights = dict(neck.named_parameters())
    n, _, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n * h * w, -1) @ weights["conv1.weight"][:, :, 0, 0].T
    rows = (rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-5).sqrt()
    rows = (rows * weights["bn1.weight"] + weights["bn1.bias"]).clamp(min=0)
    rows = rows @ weights["conv2.weight"][:, :, 0, 0].T + weights["conv2.bias"]
    return rows.reshape(n, h, w, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("stages", [[4], [3], [3, 4]])
def test_loss_by_hand(stages: list[int]) -> None:
    """Both directions and all stages of equation 5 from the modules' weights, with means of the mask over cells."""
    method, views = _method().double(), random_views(3, 32)
    loss = _loss(method, stages=stages, logit="scaled").double()
    output = _both_ways(method, views)
    value, log = loss(views, output, method)
    expected = 0.0
    for pair in output.pairs:
        for level in [{3: "res4", 4: "res5"}[stage] for stage in stages]:
            g = _neck_by_hand(loss.necks[level], pair.maps[level].detach())
            p = _neck_by_hand(loss.predictors[level], g)
            c = _slow_correspondence(p, _neck_by_hand(loss.target_necks[level], pair.target_maps[level]), "scaled")
            side = c.shape[1]
            cell = 32 // side
            mask = views.masks[pair.query_view][:, 0].double() / 255
            for i in range(3):
                for y in range(side):
                    for x in range(side):
                        m = mask[i, y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].mean()
                        expected += float((m - c[i, y, x]) ** 2) / (3 * side * side)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    assert set(log) == {
        "alignment_correspondence",
        "alignment_inside",
        "alignment_outside",
        "alignment_skipped_rate",
    }


def test_sum_is_cells_times_mean() -> None:
    method, views = _method(), random_views(3, 64)
    losses = [_loss(method, reduction=r) for r in ("mean", "sum")]
    output = method(views)
    mean, total = (loss(views, output, method)[0] for loss in losses)
    torch.testing.assert_close(total, 16 * mean)  # 64 px at stride 16


def test_gradients_reach_what_is_trained_and_no_target() -> None:
    method, views = _method(), random_views(4, 64)
    loss = _loss(method, stages=[3, 4])
    loss(views, method(views), method)[0].backward()
    trained = [*method.query_trunk.parameters(), *loss.necks.parameters(), *loss.predictors.parameters()]
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in trained)
    assert float(method.query_trunk.conv1.weight.grad.abs().sum()) > 0
    targets = [*method.key_trunk.parameters(), *loss.target_necks.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in targets)


@pytest.mark.parametrize("norm", ["FrozenBN", "SplitBN"])
def test_target_maps_belong_to_the_keys(norm: str) -> None:
    """Through shuffling too: the head on their average is the key of the same row, and nothing else changed."""
    views = random_views(4, 64)
    plain, asked = _method(norm), _method(norm)
    asked.request_target_maps(["res5", "res4"])
    without, pair = plain(views).pairs[0], asked(views).pairs[0]
    assert without.target_maps == {} and torch.equal(pair.k, without.k)
    assert {k: v.shape for k, v in pair.target_maps.items()} == {k: pair.maps[k].shape for k in ("res4", "res5")}
    again = nn.functional.normalize(asked.key_head(pair.target_maps["res5"].mean((2, 3))), dim=1)
    torch.testing.assert_close(again, pair.k)
    assert not any(m.requires_grad for m in pair.target_maps.values())
    if norm == "FrozenBN":
        for level, found in pair.target_maps.items():
            torch.testing.assert_close(found, asked.key_trunk(asked.normalize(views.images[1]))[level])


def test_target_necks_follow_with_the_methods_momentum() -> None:
    method = _method(momentum=0.75, momentum_updates=2)
    model = TrainingModel(method, LossSum([("CrossViewAlignment", CrossViewAlignment(dim=6, hidden=5), 1.0)]))
    loss = model.losses.each()[0]
    assert isinstance(loss, CrossViewAlignment)
    with torch.no_grad():
        for parameter in loss.necks.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in loss.target_necks.parameters()]
    model.after_step(0)
    for target, old, source in zip(loss.target_necks.parameters(), before, loss.necks.parameters(), strict=True):
        torch.testing.assert_close(target, 0.75**2 * old + (1 - 0.75**2) * source)
        assert torch.equal(source - 1.0, old) or bool((target != old).any())
    # The target is part of the checkpoint, not of what is trained.
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    prefix = "losses.losses.CrossViewAlignment."
    assert {n.split(".")[3] for n in names if n.startswith(prefix)} == {"necks", "predictors"}
    assert any(name.startswith(f"{prefix}target_necks.res5.") for name in model.state_dict())


def test_images_without_a_mask_have_no_weight() -> None:
    """No mask, an empty mask of the query or of the key: not in the mean, counted in the log."""
    method, views = _method("FrozenBN"), random_views(5, 64)
    loss = _loss(method, logit="scaled")
    loss.norm = make_norm("FrozenBN")
    loss.connect(method)  # without batch statistics, so that images do not see each other
    views.has_mask[1, 0] = False
    views.masks[0][2] = 0
    views.masks[1][3] = 0
    value, log = loss(views, method(views), method)
    kept = views.rows(0, 1), views.rows(4, 5)
    parts = [loss(one, method(one), method)[0] for one in kept]
    torch.testing.assert_close(value, torch.stack(parts).mean())
    assert float(log["alignment_skipped_rate"]) == pytest.approx(3 / 5)


def test_batch_without_any_mask() -> None:
    """The loss is exactly 0, with a graph, so that every process still takes part in the step."""
    method, views = _method(), random_views(4, 32, masks=False)
    loss = _loss(method)
    value, log = loss(views, method(views), method)
    value.backward()
    assert float(value.detach()) == 0 and float(log["alignment_skipped_rate"]) == 1
    assert all(bool((p.grad == 0).all()) for p in loss.necks.parameters())


def test_area_keeps_thin_masks_that_bilinear_loses() -> None:
    method, views = _method(), random_views(2, 64)
    for mask in views.masks:
        mask.zero_()
        mask[:, :, :, 15:17] = 255  # on the border of two of the 16 px cells
    rates = {}
    for resize in ("area", "bilinear"):
        loss = _loss(method, mask_resize=resize)
        rates[resize] = float(loss(views, method(views), method)[1]["alignment_skipped_rate"])
    assert rates == {"area": 0.0, "bilinear": 1.0}


def test_weight_zero_is_the_base_bit_for_bit() -> None:
    cfg = get_cfg()
    cfg.DATA.MASKS.SOURCE = "folder"
    cfg.LOSS.CROSS_VIEW_ALIGNMENT.WEIGHT = 0.0
    states = []
    for names in (["InfoNCE"], ["InfoNCE", "CrossViewAlignment"]):
        cfg.LOSS.NAMES = names
        model = TrainingModel(_method("SplitBN"), build_losses(cfg))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
        for seed in range(3):
            optimizer.zero_grad()
            model(random_views(4, 32, seed)).total.backward()
            optimizer.step()
            model.after_step(seed)
        states.append(model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_building_the_loss_leaves_the_methods_start_alone() -> None:
    """The necks are drawn after the method, so both runs start from the same trunk."""
    alone, beside = (copy.deepcopy(_method().state_dict()) for _ in range(2))
    method = _method()
    TrainingModel(method, LossSum([("CrossViewAlignment", CrossViewAlignment(), 1.0)]))
    assert all(torch.equal(alone[k], v) and torch.equal(beside[k], v) for k, v in method.state_dict().items())


def test_large_features_under_autocast() -> None:
    """Logits beyond half precision's 65504 stay finite: everything is float32 inside."""
    method, views = _method(), random_views(3, 32)
    loss = _loss(method)
    with torch.autocast("cpu", torch.bfloat16):
        output = method(views)
        pair = output.pairs[0]
        pair.maps = {k: v * 1000 for k, v in pair.maps.items()}
        value, _ = loss(views, output, method)
    assert value.dtype == torch.float32 and bool(torch.isfinite(value))
    huge = torch.full((1, 256, 2, 2), 1000.0, dtype=torch.float16)
    assert bool((correspondence(huge, huge) == 1).all())


def test_it_learns_where_the_foreground_is() -> None:
    """On one fixed batch the loss falls and correspondence comes to differ inside and outside of the mask."""
    method, views = _method(), random_views(6, 64)
    loss = _loss(method, logit="scaled")
    optimizer = torch.optim.SGD([p for m in (method, loss) for p in m.parameters() if p.requires_grad], 0.2, 0.9)
    values, log = [], {}
    for _ in range(25):
        value, log = loss(views, method(views), method)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[0], values
    assert float(log["alignment_inside"]) > float(log["alignment_outside"]) + 0.2


class _Alone(Method):
    """A method without a target."""

    def __init__(self) -> None:
        super().__init__()
        self.net = ResNet(depth=18, width=8)

    def trunk(self) -> ResNet:
        return self.net


def test_methods_that_cannot_give_it_stop_at_build() -> None:
    losses = LossSum([("CrossViewAlignment", CrossViewAlignment(), 1.0)])
    with pytest.raises(ConfigError, match="needs spatial maps of a target network.*method _Alone has none.*WEIGHT 0"):
        TrainingModel(_Alone(), losses)
    with pytest.raises(ConfigError, match="InfoNCE needs negatives, but the method _Alone has none"):
        TrainingModel(_Alone(), LossSum([("InfoNCE", InfoNCE(), 1.0)]))
    method = _method()
    method.query_trunk.channels = OrderedDict(res5=64)
    with pytest.raises(ConfigError, match="reads the trunk at res4, but ResNet has the levels res5"):
        CrossViewAlignment(stages=[3, 4]).connect(method)
    for stages, count in (([3], 3), ([3, 4], 3), ([4], 4)):
        method = _method()
        method.query_trunk.freeze(count)
        level = f"res{stages[0] + 1}"
        with pytest.raises(ConfigError, match=f"needs the gradient at {level}, which MODEL.FREEZE_AT {count} freezes"):
            CrossViewAlignment(stages=stages).connect(method)
        method.query_trunk.freeze(count - 1)
        CrossViewAlignment(stages=stages).connect(method)
    with pytest.raises(RuntimeError, match="connect"):
        CrossViewAlignment()(random_views(2), MethodOutput([]), method)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("STAGES", [2], r"STAGES is \[2\]; choices: \[4\], \[3\], \[3, 4\]"),
        ("STAGES", [4, 4], r"STAGES is \[4, 4\]"),
        ("STAGES", [], r"STAGES is \[\]"),
        ("STAGES", ["a", 4], r"STAGES is \['a', 4\]; choices"),
        ("STAGES", [[3], 4], r"STAGES is \[\[3\], 4\]; choices"),
        ("LOGIT", "scale", "LOGIT is 'scale'; did you mean scaled"),
        ("LOGIT_T", 0.0, "LOGIT_T is 0.0; expected a number > 0"),
        ("REDUCTION", "avg", "REDUCTION is 'avg'; choices: mean, sum"),
        ("MASK_RESIZE", "point", "MASK_RESIZE is 'point'"),
        ("DIM", 0, "DIM is 0"),
        ("HIDDEN", -1, "HIDDEN is -1"),
    ],
)
def test_wrong_keys(key: str, value: object, message: str) -> None:
    cfg = get_cfg()
    cfg.DATA.MASKS.SOURCE, cfg.LOSS.NAMES = "folder", ["CrossViewAlignment"]
    cfg.LOSS.CROSS_VIEW_ALIGNMENT[key] = value
    with pytest.raises(ConfigError, match=message):
        build_losses(cfg)


def test_masks_are_needed() -> None:
    cfg = get_cfg()
    cfg.LOSS.NAMES = ["InfoNCE", "CrossViewAlignment"]
    with pytest.raises(ConfigError, match="CrossViewAlignment needs saliency masks but DATA.MASKS.SOURCE is 'none'"):
        build_losses(cfg)


def test_pair_without_maps_of_the_target() -> None:
    pair = Pair(0, 1, torch.zeros(1, 2), torch.zeros(1, 2), 1.0, torch.zeros(1, 2), {})
    assert pair.target_maps == {} and pair.negatives is None
