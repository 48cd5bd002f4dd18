"""The sum of losses of a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from ssl_loc.config import CfgNode, construct
from ssl_loc.structures import MethodOutput, Views
from ssl_loc.utils.errors import ConfigError, check_choice
from ssl_loc.utils.registry import Registry

if TYPE_CHECKING:
    from ssl_loc.modeling.method import Method

logger = logging.getLogger(__name__)
LOSS_REGISTRY = Registry("LOSS")
LOSS_REGISTRY.__doc__ = """
Losses by name: ``loss(views, output, method) -> (value, log)`` with ``value`` a scalar that carries gradient and
``log`` detached numbers by name. A class derives from :class:`Loss` and names its config node, whose ``WEIGHT``
(0 = not built) :func:`build_losses` reads; the loss itself returns the unweighted value. It uses only public calls of
the method.
"""
WEIGHTINGS = ("sum", "convex")
# Needs that a method may or may not meet (``Method.gives``), in words.
METHOD_NEEDS = {
    "negatives": "negatives",
    "drawn_negatives": "negatives drawn from a memory bank",
    "both_directions": "queries of both views",
    "map_gradient": "maps of one view inside of the trunk to differentiate with respect to",
    "target_map": "spatial maps of a target network on the key view",
}


class Loss(nn.Module):
    """Base of registered losses.

    Attributes:
        node: name of the config node under LOSS that holds WEIGHT.
        needs: what the loss reads beyond q and k: "mask" (saliency masks in the batch), what a method may give
            (``METHOD_NEEDS``), or levels of the trunk ("res5").
        double_backward: whether it differentiates a gradient through the trunk, from the embedding to its level.
        keeps_apart: what a method must give so that this loss alone does not make all embeddings equal; None = it
            always needs another one beside it.
        settings: (full config key, value) under which it needs something else than by default, so that the matrix of
            mixtures can say so.
    """

    node: ClassVar[str] = ""
    needs: frozenset[str] = frozenset()
    double_backward: ClassVar[bool] = False
    keeps_apart: ClassVar[frozenset[str] | None] = frozenset()
    settings: ClassVar[tuple[tuple[str, Any], ...]] = ()

    def connect(self, method: Method) -> None:
        """Meet the method that the loss will work on; once, before the model moves to its device and the optimiser is
        made. A loss whose parameters depend on the trunk makes them here.

        Raises:
            ConfigError: the method cannot give what the loss needs.
        """
        if problem := fit_problem(self, method):
            raise ConfigError(problem)

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """(target, source) modules of the loss; targets follow with the method's momentum after each step."""
        return []

    def forward(self, views: Views, output: MethodOutput, method: Method) -> tuple[Tensor, dict[str, Tensor | float]]:
        raise NotImplementedError


class LossSum(nn.Module):
    """Weighted losses of one run; ``__call__`` returns ``(terms, log)``.

    ``terms`` maps a loss's name to its *weighted* scalar, and their sum is what is back-propagated; ``log`` holds each
    unweighted value as ``loss/<name>`` and the losses' own numbers.

    Args:
        losses: (name, loss, weight) triples, weights > 0.
        weighting: "sum" keeps the weights, "convex" divides them by their sum (official CAST code: 1/4 and 3/4 at
            lambda = 3, which also divides the effective learning rate by 4).
    """

    def __init__(self, losses: Sequence[tuple[str, Loss, float]], weighting: str = "sum") -> None:
        super().__init__()
        check_choice("LOSS.WEIGHTING", weighting, WEIGHTINGS)
        if not losses:
            raise ConfigError("no loss has a weight above 0; give at least one of LOSS.NAMES a positive WEIGHT")
        self.losses = nn.ModuleDict({name: loss for name, loss, _ in losses})
        total = sum(weight for _, _, weight in losses) if weighting == "convex" else 1.0
        self.weights = {name: weight / total for name, _, weight in losses}

    def each(self) -> list[Loss]:
        """The losses, in order."""
        return [loss for loss in self.losses.values() if isinstance(loss, Loss)]

    def connect(self, method: Method) -> None:
        """See :meth:`Loss.connect`; warns where nothing keeps the embeddings of images apart."""
        for loss in self.each():
            loss.connect(method)
        if warning := collapse_warning(self.each(), method):
            logger.warning("%s", warning)

    def ema_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """See :meth:`Loss.ema_pairs`."""
        return [pair for loss in self.each() for pair in loss.ema_pairs()]

    def forward(
        self, views: Views, output: MethodOutput, method: Method
    ) -> tuple[dict[str, Tensor], dict[str, Tensor | float]]:
        terms: dict[str, Tensor] = {}
        log: dict[str, Tensor | float] = {}
        for name, loss in self.losses.items():
            value, numbers = loss(views, output, method)
            weight = self.weights[name]
            # x * 1.0 would be exact too, but an untouched graph makes "switched off = base" plain to see.
            terms[name] = value if weight == 1.0 else weight * value
            log[f"loss/{name}"] = value.detach()
            log.update(numbers)
        return terms, log


def build_losses(cfg: CfgNode) -> LossSum:
    """Build LOSS.NAMES; a loss whose WEIGHT is 0 is not built, so it costs nothing.

    Raises:
        ConfigError: unknown or repeated name, negative weight, nothing left, or masks needed in a run without.
    """
    built: list[tuple[str, Loss, float]] = []
    for name in cfg.LOSS.NAMES:
        cls = LOSS_REGISTRY.get(name)
        weight = float(cfg.LOSS[cls.node].WEIGHT)
        if weight < 0:
            raise ConfigError(f"LOSS.{cls.node}.WEIGHT is {weight}; expected a number >= 0 (0 switches {name} off)")
        if any(name == other for other, _, _ in built):
            raise ConfigError(f"LOSS.NAMES lists {name} twice; expected each loss once")
        if weight == 0:
            continue
        loss = construct(cls, cfg)
        _check_needs(name, loss, cfg)
        built.append((name, loss, weight))
    return LossSum(built, cfg.LOSS.WEIGHTING)


def _check_needs(name: str, loss: Loss, cfg: CfgNode) -> None:
    if "mask" in loss.needs and cfg.DATA.MASKS.SOURCE == "none":
        raise ConfigError(
            f"{name} needs saliency masks but DATA.MASKS.SOURCE is 'none'; set it to 'folder' with DATA.MASKS.ROOT "
            "(maps made by tools/make_saliency.py) or to 'ground_truth', or switch the loss off with "
            f"LOSS.{loss.node}.WEIGHT 0"
        )
    levels = _levels(loss)
    if cfg.MODEL.COMPILE and loss.double_backward and any(level != "res5" for level in levels):
        raise ConfigError(
            f"{name} differentiates through the trunk at {', '.join(levels)}, which torch.compile does not allow; set "
            f"MODEL.COMPILE False, or take the map at res5 (LOSS.{loss.node}.LAYER res5)"
        )


def _levels(loss: Loss) -> list[str]:
    return sorted(need for need in loss.needs if need.startswith("res"))


def collapse_warning(losses: Sequence[Loss], method: Method) -> str:
    """Why these losses together would let the method give every image the same embedding; empty if one prevents it."""
    if any(loss.keeps_apart is not None and loss.keeps_apart <= method.gives for loss in losses):
        return ""
    lacks = sorted({word for loss in losses for word in (loss.keeps_apart or ()) if word not in method.gives})
    without = f" ({type(method).__name__} has no {' and no '.join(lacks)})" if lacks else ""
    names = " and ".join(type(loss).__name__ for loss in losses)
    return (
        f"{names} alone {'does' if len(losses) == 1 else 'do'} not keep the embeddings of different images apart"
        f"{without}, so expect a collapse; add a loss that does to LOSS.NAMES"
    )


def fit_problem(loss: Loss, method: Method) -> str:
    """Why the method cannot give what the loss needs, as a sentence; empty where it can."""
    name, kind = type(loss).__name__, type(method).__name__
    off = f"take {name} out of LOSS.NAMES, or set LOSS.{loss.node}.WEIGHT 0"
    lacks = sorted((loss.needs & set(METHOD_NEEDS)) - method.gives)
    if lacks:
        if type(loss).needs.isdisjoint(lacks) and loss.settings:
            off = f"leave {' and '.join(sorted({key for key, _ in loss.settings}))} at the default, or {off}"
        return f"{name} needs {METHOD_NEEDS[lacks[0]]}, but the method {kind} has none; {off}"
    trunk = method.trunk()
    if missing := [level for level in _levels(loss) if level not in trunk.channels]:
        return (
            f"{name} reads the trunk at {', '.join(missing)}, but {type(trunk).__name__} has the levels "
            f"{', '.join(trunk.channels)}; choose one of these in LOSS.{loss.node}, or {off}"
        )
    # What a loss reads at a frozen level teaches the trunk nothing, even if it reads a trained level too.
    if frozen := [level for level in _levels(loss) if level in trunk.frozen_levels]:
        return (
            f"{name} needs the gradient at {', '.join(frozen)}, which MODEL.FREEZE_AT {len(trunk.frozen_levels)} "
            f"freezes; set MODEL.FREEZE_AT {list(trunk.channels).index(frozen[0])} or less, or {off}"
        )
    return ""
