"""The attention loss of CAST: against the official procedure, masks, off switch, precision, wrong input."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.batches import random_views
from torch import Tensor

from ssl_loc.components import get_cfg
from ssl_loc.layers import make_norm
from ssl_loc.losses import build_losses
from ssl_loc.losses.build import LossSum
from ssl_loc.losses.grad_cam_attention import GradCAMAttention
from ssl_loc.losses.info_nce import InfoNCE
from ssl_loc.modeling.backbone.resnet import ResNet
from ssl_loc.modeling.head import build_head
from ssl_loc.modeling.method.moco import MoCo
from ssl_loc.structures import Views
from ssl_loc.utils.errors import ConfigError


def _method(head: str = "linear", norm: str = "BN", seed: int = 0, layers: tuple = (), **kwargs) -> MoCo:
    torch.manual_seed(seed)
    trunk = ResNet(norm=make_norm(norm, 2), depth=18, width=8, layers=layers, stem="small")
    method = MoCo(trunk, build_head(head, trunk.out_channels, 16), dim=16, queue_size=24, **kwargs)
    # Keys that differ from queries, as after some steps.
    torch.manual_seed(seed + 1)
    for parameter in method.key_trunk.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return method


def _official(method: MoCo, views: Views, weight: float) -> Tensor:
    """One step of the official CAST code, line by line, slowly: two query forwards, Grad-CAM on layer 4 through the
    logits, min-max scaling that also hits the map, cosine over the flattened batch, convex weights."""
    mean, std = method.pixel_mean, method.pixel_std
    x_q, x_k = ((x.to(mean.dtype) - mean) / std for x in views.images)
    mask_q, mask_k = (m.to(mean.dtype) / 255 for m in views.masks)

    def embed(trunk, head, x):
        fmaps = trunk(x)["res5"]
        fmaps = fmaps if fmaps.requires_grad else fmaps.detach()
        return F.normalize(head(fmaps.mean((2, 3))), dim=1), fmaps

    def forward(x, key_images):
        q, fmaps = embed(method.query_trunk, method.query_head, x)
        with torch.no_grad():
            k, _ = embed(method.key_trunk, method.key_head, key_images)
        logits = torch.cat([torch.einsum("nc,nc->n", q, k)[:, None], q @ method.queue.features], 1)
        return logits / method.temperature, fmaps

    logits, _ = forward(x_q, x_k)
    logits_masked, fmaps = forward(x_q, x_k * mask_k)
    one_hot = torch.zeros_like(logits_masked)
    one_hot[:, 0] = 1
    (grads,) = torch.autograd.grad(logits_masked, fmaps, grad_outputs=one_hot, create_graph=True)
    gcam = (fmaps * grads.mean((2, 3), keepdim=True)).sum(1).flatten(1)
    for _ in range(2):
        gcam = gcam - gcam.min(1, keepdim=True)[0]
        gcam = gcam / (gcam.max(1, keepdim=True)[0] + 1e-7)
    size = fmaps.shape[2:]
    target = F.interpolate(mask_q, size, mode="bilinear", align_corners=True)
    loss_att = 1 - F.cosine_similarity(gcam.reshape(1, -1), target.reshape(1, -1), dim=1)[0]
    loss_ssl = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
    return loss_ssl / (1 + weight) + weight / (1 + weight) * loss_att


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_official_code_reproduced(head: str) -> None:
    """Loss to 1e-9 and gradients to 1e-6 in float64, with one query forward instead of two."""
    views = random_views(6, 64)
    ours, theirs = _method(head).double(), _method(head).double()
    attention = GradCAMAttention(norm="minmax_only", reduction="batch_flat", mask_resize="point")
    losses = LossSum([("InfoNCE", InfoNCE(), 1.0), ("GradCAMAttention", attention, 3.0)], "convex")
    terms, log = losses(views, ours(views), ours)
    total = torch.stack(list(terms.values())).sum()
    expected = _official(theirs, views, 3.0)
    assert float(log["attention_skipped_rate"]) == 0, "the comparison needs masks that survive point sampling"
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    total.backward()
    expected.backward()
    for (name, a), b in zip(ours.query_trunk.named_parameters(), theirs.query_trunk.parameters(), strict=True):
        scale = float(b.grad.abs().max()) + 1e-12
        torch.testing.assert_close(a.grad / scale, b.grad / scale, rtol=0, atol=3e-6, msg=lambda m, n=name: f"{n}: {m}")


def _loss(views: Views, method: MoCo | None = None, **options: str) -> tuple[Tensor, dict]:
    method = method or _method()
    return GradCAMAttention(**options)(views, method(views), method)


def test_paper_form_slowly() -> None:
    """Per-sample mean of 1 - cos(ReLU(sum alpha A), area-averaged mask), with alpha in closed form (linear head)."""
    views, method = random_views(4, 64), _method()
    value, _ = _loss(views, method)
    method = _method()
    with torch.no_grad():
        maps = method.query_trunk(method.normalize(views.images[0]))["res5"]
        y = method.query_head(maps.mean((2, 3)))
        method.encode_target(views.images[1])
        km = method.encode_target(method.normalize(views.images[1]) * (views.masks[1] / 255), normalized=True)
        q = F.normalize(y, dim=1)
        alpha = ((km - (q * km).sum(1, keepdim=True) * q) / y.norm(dim=1, keepdim=True)) @ method.query_head.weight
        total = 0.0
        for n in range(4):
            cam = sum(alpha[n, c] * maps[n, c] for c in range(maps.shape[1])).clamp(min=0).flatten()
            target = F.avg_pool2d(views.masks[0][n].float(), 16).flatten()
            total += 1 - float((cam @ target) / (cam.norm() * target.norm()))
    assert float(value.detach()) == pytest.approx(total / 4, rel=1e-4)


def test_intersection_masks_by_hand() -> None:
    """Both masks are emptied outside the common region, each in its own frame."""
    views = random_views(2, 60)
    views.masks = [torch.full_like(m, 255) for m in views.masks]
    # Image 0: the query sees x 0..60, the mirrored key 45..65; the second crop is empty of common ground. All y 0..60.
    views.geometry.boxes[0] = torch.tensor([[0.0, 0, 60, 60], [45, 0, 65, 60]])
    views.geometry.boxes[1] = torch.tensor([[0.0, 0, 60, 60], [60, 0, 90, 60]])
    views.geometry.flips[:] = torch.tensor([False, True])
    mask_q, mask_k = GradCAMAttention(supervision="intersection")._masks(views, _method()(views).pairs[0])
    for mask, first in ((mask_q, 45), (mask_k, 15)):
        # The common part is the query's last quarter, and the key's first three quarters, mirrored to its last.
        expected = torch.zeros(60, 60)
        expected[:, first:] = 1
        torch.testing.assert_close(mask[0, 0], expected)
        assert float(mask[1].sum()) == 0
    _, log = _loss(views, supervision="intersection")
    assert float(log["attention_skipped_rate"]) == 0.5, "crops that do not overlap have nothing to teach"


def test_images_without_masks_cost_nothing() -> None:
    views = random_views(4, 64)
    views.has_mask[1] = False
    value, log = _loss(views)
    other = random_views(4, 64)
    other.has_mask[1] = False
    other.masks[0][1] = 255 - other.masks[0][1]  # a mask that must not be read
    assert torch.equal(value, _loss(other)[0])
    assert float(log["attention_skipped_rate"]) == 0.25
    bare = random_views(4, 64, masks=False)
    value, log = _loss(bare)
    value.backward()
    assert float(value.detach()) == 0 and float(log["attention_skipped_rate"]) == 1


def test_empty_query_or_key_mask_is_skipped() -> None:
    views = random_views(4, 64)
    views.masks[0][0] = 0
    views.masks[1][1] = 0
    assert float(_loss(views)[1]["attention_skipped_rate"]) == 0.5


def test_small_object_survives_area_but_not_point() -> None:
    views = random_views(2, 64)
    for mask in views.masks:
        mask.zero_()
        mask[:, :, 30:34, 30:34] = 255  # between the sampling points 0, 21, 42, 63
    assert float(_loss(views, mask_resize="area")[1]["attention_skipped_rate"]) == 0
    assert float(_loss(views, mask_resize="point")[1]["attention_skipped_rate"]) == 1


def test_full_mask_is_legal() -> None:
    views = random_views(2, 64)
    views.masks = [torch.full_like(m, 255) for m in views.masks]
    value, _ = _loss(views)
    assert 0 <= float(value.detach()) <= 1


def test_fill_of_masked_pixels() -> None:
    views, method = random_views(2, 32), _method()
    mask, all_have = views.masks[1].float() / 255, torch.ones(2, dtype=torch.bool)
    inside = mask.bool().expand(-1, 3, -1, -1)
    x = method.normalize(views.images[1])
    mean = GradCAMAttention()._masked(method, views.images[1], mask, all_have)
    black = GradCAMAttention(mask_fill="black")._masked(method, views.images[1], mask, all_have)
    assert torch.equal(mean[inside], x[inside]) and float(mean[~inside].abs().max()) == 0
    darkest = (-method.pixel_mean / method.pixel_std).expand_as(x)
    torch.testing.assert_close(black, torch.where(inside, x, darkest))
    none = GradCAMAttention()._masked(method, views.images[1], mask, ~all_have)
    assert torch.equal(none, x), "an image without a mask stays whole"


def test_masked_key_statistics() -> None:
    views = random_views(4, 64)
    for mode, updates in (("train", 2), ("eval", 1)):
        method = _method()
        _loss(views, method, masked_key_bn=mode)
        assert int(method.key_trunk.bn1.num_batches_tracked) == updates
        assert int(method.query_trunk.bn1.num_batches_tracked) == 1, "one query forward per step"


def test_lower_level_uses_the_activation_form() -> None:
    method = _method()
    value, _ = _loss(random_views(4, 64), method, layer="res4")
    value.backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in method.query_trunk.parameters())


def test_gradient_passes_through_the_importance_too() -> None:
    """Second order: the head's weight gets a gradient, though the map holds it only inside alpha."""
    method = _method()
    _loss(random_views(4, 64), method)[0].backward()
    assert float(method.query_head.weight.grad.abs().sum()) > 0
    assert all(p.grad is None for p in method.key_trunk.parameters())


def _step(method: MoCo, losses: LossSum, views: Views) -> None:
    optimizer = torch.optim.SGD(method.pretrain_parameters(), 0.1)
    terms, _ = losses(views, method(views), method)
    optimizer.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    method.after_step(0)


def test_weight_zero_is_plain_moco_bit_for_bit() -> None:
    cfg = get_cfg()
    cfg.DATA.MASKS.SOURCE = "folder"
    cfg.LOSS.NAMES = ["InfoNCE", "GradCAMAttention"]
    cfg.LOSS.GRAD_CAM_ATTENTION.WEIGHT = 0.0
    off = build_losses(cfg)
    assert list(off.losses) == ["InfoNCE"]
    cfg.LOSS.NAMES = ["InfoNCE"]
    states = []
    for losses in (off, build_losses(cfg)):
        method = _method(norm="SplitBN")
        for seed in range(3):
            _step(method, losses, random_views(4, 32, seed))
        states.append(method.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_attention_teaches_where_the_object_is() -> None:
    """The formula trains: on one fixed batch its loss falls."""
    method, views = _method(), random_views(4, 64)
    loss = GradCAMAttention()
    optimizer = torch.optim.SGD(method.pretrain_parameters(), 0.05, momentum=0.9)
    values = []
    for _ in range(12):
        value, _ = loss(views, method(views), method)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.6 * values[0], values


@pytest.mark.parametrize("layer", ["res5", "res4"])
def test_bf16_autocast_agrees_with_fp32(layer: str) -> None:
    views = random_views(6, 64)
    losses = LossSum([("InfoNCE", InfoNCE(), 1.0), ("GradCAMAttention", GradCAMAttention(layer=layer), 3.0)])
    totals = []
    for enabled in (False, True):
        method = _method()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = method(views)
            terms, _ = losses(views, output, method)
        if enabled:
            assert output.pairs[0].maps["res5"].dtype == torch.bfloat16, "the trunk must be under autocast"
        assert output.pairs[0].q.dtype == output.pairs[0].pooled.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in terms.values())
        sum(terms.values()).backward()
        totals.append({name: float(value.detach()) for name, value in terms.items()})
    assert totals[1]["InfoNCE"] == pytest.approx(totals[0]["InfoNCE"], rel=0.03)
    assert totals[1]["GradCAMAttention"] == pytest.approx(totals[0]["GradCAMAttention"], rel=0.06)


def test_alpha_is_not_scaled_down_in_fp16() -> None:
    """The head's part runs in float32 inside fp16 autocast: gradients of 1/49 size would underflow there."""
    method, views = _method(), random_views(4, 64)
    pair = method(views).pairs[0]
    key = pair.k
    full = GradCAMAttention()._map(pair, method, key)
    half = copy.copy(pair)
    half.maps = {name: value.half() for name, value in pair.maps.items()}
    torch.testing.assert_close(GradCAMAttention()._map(half, method, key), full, rtol=2e-3, atol=1e-4)


def test_single_image_batch() -> None:
    views = random_views(1, 64)
    value, _ = _loss(views)
    assert value.shape == ()


def _cfg(**changes: object):
    cfg = get_cfg()
    cfg.LOSS.NAMES = ["InfoNCE", "GradCAMAttention"]
    cfg.DATA.MASKS.SOURCE = "folder"
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_errors_name_the_key() -> None:
    with pytest.raises(ConfigError, match="DATA.MASKS.SOURCE is 'none'"):
        build_losses(_cfg(DATA__MASKS__SOURCE="none"))
    with pytest.raises(ConfigError, match="LOSS.GRAD_CAM_ATTENTION.NORM is 'rellu'; did you mean relu"):
        build_losses(_cfg(LOSS__GRAD_CAM_ATTENTION__NORM="rellu"))
    with pytest.raises(ConfigError, match="WEIGHT is -1.0"):
        build_losses(_cfg(LOSS__GRAD_CAM_ATTENTION__WEIGHT=-1.0))
    with pytest.raises(ConfigError, match="lists InfoNCE twice"):
        build_losses(_cfg(LOSS__NAMES=["InfoNCE", "InfoNCE"]))
    with pytest.raises(ConfigError, match="no loss has a weight above 0"):
        build_losses(_cfg(LOSS__NAMES=["InfoNCE"], LOSS__INFO_NCE__WEIGHT=0.0))
    with pytest.raises(ConfigError, match="MODEL.COMPILE False"):
        build_losses(_cfg(LOSS__GRAD_CAM_ATTENTION__LAYER="res4", MODEL__COMPILE=True))
    with pytest.raises(ConfigError, match="LOSS.WEIGHTING is 'convx'; did you mean convex"):
        build_losses(_cfg(LOSS__WEIGHTING="convx"))


def test_weighting() -> None:
    assert build_losses(_cfg()).weights == {"InfoNCE": 1.0, "GradCAMAttention": 3.0}
    assert build_losses(_cfg(LOSS__WEIGHTING="convex")).weights == {"InfoNCE": 0.25, "GradCAMAttention": 0.75}


def test_compiled_trunk_gives_the_same_loss_and_gradient() -> None:
    views, results = random_views(4, 64), []
    for compiled in (False, True):
        method = _method(norm="SplitBN", layers=(1, 1, 1, 1))
        if compiled:
            method.compile_trunks(backend="aot_eager")
        value, _ = _loss(views, method)
        value.backward()
        results.append((value.detach(), method.query_trunk.conv1.weight.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("reduction", ["per_sample", "batch_flat"])
def test_zero_queries_leave_loss_and_gradients_finite(head: str, reduction: str) -> None:
    """q = 0 where the head's output is 0: F.normalize's second derivative is NaN there."""
    method = _method(head)
    last = [m for m in method.query_head.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
    views = random_views(4, 64)
    output = method(views)
    assert (output.pairs[0].q == 0).all()
    loss, log = GradCAMAttention(reduction=reduction)(views, output, method)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(torch.as_tensor(v)) for v in log.values())
    gradients = [p.grad for p in method.pretrain_parameters() if p.grad is not None]
    assert gradients and all(torch.isfinite(g).all() for g in gradients)
