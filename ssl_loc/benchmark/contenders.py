"""The training steps that the step benchmark compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.attention import activation_weights, grad_cam, normalize_cam
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.engine.model import TrainingModel
from ssl_loc.engine.step import TrainStep
from ssl_loc.losses import Loss, LossSum, build_losses
from ssl_loc.losses.functional import cosine_attention
from ssl_loc.modeling import build_method
from ssl_loc.solver import build_optimizer
from ssl_loc.structures import Geometry, GeometryBatch, MethodOutput, Views

if TYPE_CHECKING:
    from ssl_loc.modeling import Method

Step = Callable[[], object]
# Learning rate of the timed steps: the weights should neither blow up nor stand still.
LR = 1e-3
CLASSES = 1000


class TwoForwardAttention(Loss):
    """Attention loss in the form of the official CAST code, as a baseline.

    A second query forward, its logits against the whole queue, alpha as the gradient on the last stage's activations.
    """

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        pair, trunk = output.pairs[0], method.trunk()
        assert views.masks is not None and pair.negatives is not None
        maps = trunk(method.normalize(views.images[0]))
        q = method.embed(trunk.pooled(maps))
        masked = method.normalize(views.images[1]) * (views.masks[1].float() / 255)
        k_m = method.encode_target(masked, normalized=True)
        logits = torch.cat([(q * k_m).sum(1, keepdim=True), q @ pair.negatives], 1) / pair.temperature
        cam = grad_cam(maps["res5"], activation_weights(logits[:, 0], maps["res5"]))
        target = views.mask_at(0, (cam.shape[1], cam.shape[2]), "point")[:, 0]
        value = cosine_attention(normalize_cam(cam, "minmax_only"), target, torch.ones(len(q), device=q.device))
        return value, {}


def config(depth: int, kind: str, *, fast: bool = False, batch: int = 32, norm: str = "SplitBN") -> CfgNode:
    """Config of a contender: ``kind`` "moco" or "cast"; ``fast`` = bf16 autocast and channels_last."""
    cfg = get_cfg()
    cfg.MODEL.NORM = norm
    cfg.MODEL.RESNET.DEPTH = depth
    cfg.MODEL.CHANNELS_LAST = fast
    cfg.SOLVER.AMP.ENABLED = fast
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = batch, LR
    cfg.DATA.MASKS.SOURCE = "ground_truth"
    if kind == "cast":
        cfg.LOSS.NAMES = ["InfoNCE", "GradCAMAttention"]
    return cfg


def build_step(cfg: CfgNode, views: Views, device: torch.device, losses: LossSum | None = None) -> Step:
    """The engine's whole optimiser step (transfer, forward, losses, backward, SGD, EMA, queue) on one fixed batch."""
    torch.manual_seed(0)
    model = TrainingModel(build_method(cfg), losses or build_losses(cfg)).to(device)
    dtype = cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else None
    step = TrainStep(model, build_optimizer(cfg, model), device, amp_dtype=dtype)
    return lambda: step(views, 0, False)


def build_official_step(cfg: CfgNode, views: Views, device: torch.device) -> Step:
    """The CAST step with two query forwards; everything else as ours."""
    base = build_losses(cfg).losses["InfoNCE"]
    assert isinstance(base, Loss)
    return build_step(cfg, views, device, LossSum([("InfoNCE", base, 1.0), ("Attention", TwoForwardAttention(), 3.0)]))


def build_supervised_step(views: Views, device: torch.device, dtype: torch.dtype | None) -> Step:
    """Cross-entropy training of torchvision's ResNet-50 on one view: the yardstick of the GPU rows."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    model = resnet50(num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4, fused=True)
    target = torch.arange(views.batch_size, device=device) % CLASSES

    def step() -> object:
        images = views.images[0].to(device, non_blocking=True).float().div_(255)
        images = images.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            loss = F.cross_entropy(model(images), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def random_batch(n: int, size: int, pin: bool = False) -> Views:
    """n images of noise, two views each, a centred quarter of every one salient."""
    g = torch.Generator().manual_seed(0)
    mask = torch.zeros(n, 1, size, size, dtype=torch.uint8)
    mask[:, :, size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 255
    whole = Geometry((0.0, 0.0, float(size), float(size)), (size, size), (size, size))
    views = Views(
        images=[torch.randint(0, 256, (n, 3, size, size), generator=g, dtype=torch.uint8) for _ in range(2)],
        masks=[mask, mask.clone()],
        has_mask=torch.ones(n, 2, dtype=torch.bool),
        geometry=GeometryBatch.stack([[whole, whole] for _ in range(n)]),
        index=torch.arange(n),
        label=torch.full((n,), -1),
    )
    return views.pin_memory() if pin else views
