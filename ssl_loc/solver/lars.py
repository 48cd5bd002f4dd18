"""LARS: one learning rate per weight tensor (You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks",
2017), in the form that SimCLR and BYOL use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssl_loc.config import CfgNode, register_config
from ssl_loc.solver.build import OPTIMIZER_REGISTRY, check_trainable
from ssl_loc.utils.errors import ConfigError

_STATE = "momentum_buffer"


@register_config("SOLVER.LARS")
def lars_config() -> CfgNode:
    node = CfgNode()
    # Trust coefficient eta: a weight moves by lr * eta of its own length per step (SimCLR and BYOL code: .001).
    node.ETA = 0.001
    # Leave norm layers' scales and shifts and all biases (one-dimensional tensors) to plain SGD: no adaptation, and no
    # weight decay unless SOLVER.WEIGHT_DECAY_NORM asks for one (SimCLR paper, appendix B; BYOL paper, section 3.3).
    node.EXCLUDE_NORM_AND_BIAS = True
    return node


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum.

    Per tensor w with gradient g, in the order of the SimCLR code (the learning rate stays outside of the momentum
    buffer; with a varying rate the other order gives another trajectory)::

        g' = g + weight_decay * w
        r  = eta * ||w|| / ||g'||        1 where either length is 0, or the group says adapt=False
        v  = momentum * v + r * g'
        w  = w - lr * v                  nesterov: w - lr * (r * g' + momentum * v)

    All tensors of a group move together by multi-tensor kernels. Lengths are float32, whatever the parameters are.

    Args:
        params: parameters, or groups; a group's "adapt" (default True) switches r on.
        lr: overwritten by the schedule at every step.
        momentum, weight_decay, nesterov: as in torch.optim.SGD.
        eta: trust coefficient > 0.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        eta: float = 0.001,
        nesterov: bool = False,
    ) -> None:
        if not eta > 0:
            raise ConfigError(f"SOLVER.LARS.ETA is {eta}; expected a number > 0")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        super().__init__(params, {**defaults, "nesterov": nesterov, "adapt": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [w.grad for w in weights if w.grad is not None]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            gradients = list(torch._foreach_mul(gradients, trust_ratios(weights, gradients, group["eta"])))
        momentum = group["momentum"]
        if momentum:
            for w in weights:
                if _STATE not in self.state[w]:
                    self.state[w][_STATE] = torch.zeros_like(w)
            buffers = [self.state[w][_STATE] for w in weights]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            gradients = list(torch._foreach_add(gradients, buffers, alpha=momentum)) if group["nesterov"] else buffers
        torch._foreach_add_(weights, gradients, alpha=-group["lr"])


def trust_ratios(weights: list[Tensor], gradients: list[Tensor], eta: float) -> list[Tensor]:
    """eta * ||w|| / ||g|| of each pair, 1 where either length is 0; float32 scalars on the tensors' device."""
    lengths = [torch.stack(list(torch._foreach_norm(t, 2, dtype=torch.float32))) for t in (weights, gradients)]
    defined = (lengths[0] > 0) & (lengths[1] > 0)
    ratio = eta * lengths[0] / torch.where(defined, lengths[1], torch.ones_like(lengths[1]))
    return list(torch.where(defined, ratio, torch.ones_like(ratio)).unbind())


def lars_groups(model: nn.Module, cfg: CfgNode) -> list[dict[str, Any]]:
    """Groups of the trainable parameters of ``model``: tensors of more than one dimension are adapted, the others are
    not (``SOLVER.LARS.EXCLUDE_NORM_AND_BIAS``)."""
    solver = cfg.SOLVER
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    excluded = solver.LARS.EXCLUDE_NORM_AND_BIAS
    # -1 stands for the optimiser's custom, which here is: none.
    plain_decay = max(solver.WEIGHT_DECAY_NORM, 0.0) if excluded else solver.WEIGHT_DECAY
    groups = []
    for adapt, decay in ((True, solver.WEIGHT_DECAY), (False, plain_decay)):
        part = [(name, p) for name, p in named if (p.ndim > 1 or not excluded) == adapt]
        if part:
            names, params = zip(*part, strict=True)
            groups.append({"params": list(params), "names": list(names), "weight_decay": decay, "adapt": adapt})
    return groups


@OPTIMIZER_REGISTRY.register(name="LARS")
def lars(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """LARS with momentum, for the large batches of SimCLR and BYOL."""
    groups = lars_groups(model, cfg)
    check_trainable(cfg, groups)
    solver = cfg.SOLVER
    return LARS(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, eta=solver.LARS.ETA, nesterov=solver.NESTEROV)
