"""The matrix method x augmenter x loss.

Nothing is listed here: a method declares what it ``gives`` and how many ``views`` it takes, a loss and an augmenter
what they ``need``, an augmenter what may come before it. The build compares the same declarations through the same
functions (:func:`~ssl_loc.losses.build.fit_problem`, :func:`~ssl_loc.data.augmenters.build.order_problem`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssl_loc.config import CfgNode, construct
from ssl_loc.data.augmenters import Augmenter
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY, build_augmenter, order_problem
from ssl_loc.losses import LOSS_REGISTRY, Loss
from ssl_loc.losses.build import collapse_warning, fit_problem
from ssl_loc.modeling import METHOD_REGISTRY, Method, build_method
from ssl_loc.utils.errors import UserError
from ssl_loc.utils.registry import Registry

# The crop that a pipeline gets whose augmenter leaves the size of the image as it is.
CROP = "RandomResizedCrop"


@dataclass(frozen=True)
class Limit:
    """A possible mixture that one value of a key makes impossible.

    Attributes:
        key: full config key.
        value: that value.
        problem: the sentence at build.
    """

    key: str
    value: Any
    problem: str


@dataclass(frozen=True)
class Cell:
    """One mixture.

    Attributes:
        method, augmenter, loss: registered names.
        problem: why it cannot be built, as a sentence; empty where it can.
        data: what the data must have: subset of {"saliency", "graded", "boxes", "donor"}.
        limits: settings under which it cannot be built although it can by default.
        caution: why the loss alone is not worth training on this method, as a sentence; empty where it is.
    """

    method: str
    augmenter: str
    loss: str
    problem: str = ""
    data: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()
    caution: str = ""

    @property
    def possible(self) -> bool:
        return not self.problem


class Matrix:
    """Every registered method with every augmenter and every loss, at the settings of one config.

    The parts are made as the config says, methods on the meta device (no memory, no numbers). A part that cannot be
    made at these settings makes its cells impossible, with its own sentence.

    Args:
        cfg: settings; MODEL.METHOD, AUGMENT.VIEWS and LOSS.NAMES do not matter. Parts of projects take part if they
            were imported before it was made.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self._cfg = cfg.clone()
        self._cfg.defrost()
        self._cfg.AUGMENT.VIEWS = [[CROP]] * 2
        self._broken: dict[tuple[str, str], str] = {}
        self._limits: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self.methods: dict[str, Method | None] = self._all(METHOD_REGISTRY, self._method)
        self.losses: dict[str, Loss | None] = self._all(LOSS_REGISTRY, self._loss)
        self.augmenters: dict[str, Augmenter | None] = self._all(AUGMENTER_REGISTRY, self._augmenter)

    def cells(self) -> Iterator[Cell]:
        """All cells, method by method."""
        for method in self.methods:
            for augmenter in self.augmenters:
                for loss in self.losses:
                    yield self.cell(method, augmenter, loss)

    def cell(self, method: str, augmenter: str, loss: str) -> Cell:
        """One mixture, its augmenter completed to a whole pipeline (:meth:`pipeline`)."""
        names = (method, augmenter, loss)
        if problem := self.problem(method, self.pipeline(augmenter), [loss]):
            return Cell(*names, problem)
        data = self.data_of_augmenter(augmenter) | self.data_of_loss(loss)
        return Cell(*names, data=data, limits=self.limits(method, loss), caution=self.caution(method, [loss]))

    def problem(self, method: str, augmenters: Sequence[str], losses: Sequence[str], views: int = 0) -> str:
        """Why ``method`` cannot train with ``losses`` on views made by ``augmenters``; empty if it can.

        ``views``: how many of each image; 0 = as many as the method usually takes.
        """
        parts = (
            ("METHOD", method),
            *(("AUGMENTER", name) for name in augmenters),
            *(("LOSS", name) for name in losses),
        )
        if broken := next((self._broken[part] for part in parts if part in self._broken), ""):
            return broken
        made = self.methods[method]
        assert made is not None
        fits = (fit_problem(loss, made) for name in losses if (loss := self.losses[name]) is not None)
        count = views or made.views[-1]
        return made.views_problem(count) or self.order_problem(augmenters) or next(filter(None, fits), "")

    def order_problem(self, augmenters: Sequence[str]) -> str:
        """Why these augmenters cannot follow each other in one view; empty if they can."""
        steps = [step for name in augmenters if (step := self.augmenters[name]) is not None]
        return order_problem(steps, "AUGMENT.VIEWS[0]")

    def pipeline(self, augmenter: str) -> list[str]:
        """Names of the smallest pipeline with this augmenter: alone if it makes views of one size, else with a crop."""
        step = self.augmenters[augmenter]
        if step is None or step.resizes:
            return [augmenter]
        return [augmenter, CROP] if step.wants_whole else [CROP, augmenter]

    def limits(self, method: str, loss: str) -> tuple[Limit, ...]:
        """Settings of either part under which the two, which fit by default, do not work together."""
        if (method, loss) not in self._limits:
            made, other = self.methods[method], self.losses[loss]
            assert made is not None and other is not None
            found = [
                Limit(key, value, fit_problem(self._loss(loss, key, value), made)) for key, value in other.settings
            ]
            for key, value in made.settings:
                found.append(Limit(key, value, fit_problem(other, self._method(method, key, value))))
            self._limits[method, loss] = tuple(limit for limit in found if limit.problem)
        return self._limits[method, loss]

    def caution(self, method: str, losses: Sequence[str]) -> str:
        """Why these losses together would collapse on the method; empty if they do not."""
        made, others = self.methods[method], [loss for name in losses if (loss := self.losses[name]) is not None]
        return "" if made is None else collapse_warning(others, made)

    def data_of_augmenter(self, name: str) -> frozenset[str]:
        """What an augmenter asks of the data."""
        step = self.augmenters[name]
        return frozenset() if step is None else step.needs

    def data_of_loss(self, name: str) -> frozenset[str]:
        """What a loss asks of the data."""
        loss = self.losses[name]
        return frozenset({"saliency"}) if loss is not None and "mask" in loss.needs else frozenset()

    def _all(self, registry: Registry, make: Callable[[str], Any]) -> dict[str, Any]:
        """Each registered part; None for one that cannot be made at these settings."""
        made: dict[str, Any] = {}
        for name in registry.names():
            try:
                made[name] = make(name)
            except UserError as error:
                self._broken[registry._name, name] = str(error)
                made[name] = None
        return made

    def _with(self, key: str, value: Any) -> CfgNode:
        cfg = self._cfg.clone()
        if key:
            cfg.merge_from_list([key, value])
        return cfg

    def _method(self, name: str, key: str = "", value: Any = None) -> Method:
        cfg = self._with(key, value)
        cfg.MODEL.METHOD, cfg.MODEL.COMPILE = name, False
        cfg.AUGMENT.VIEWS = [[CROP]] * getattr(METHOD_REGISTRY.get(name), "views", (2,))[-1]
        with torch.device("meta"):
            return build_method(cfg)

    def _loss(self, name: str, key: str = "", value: Any = None) -> Loss:
        return construct(LOSS_REGISTRY.get(name), self._with(key, value))

    def _augmenter(self, name: str) -> Augmenter:
        return build_augmenter(name, self._cfg, "AUGMENT.VIEWS[0][0]")
