"""The registry of evaluation protocols."""

from __future__ import annotations

from typing import Any, Protocol

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.registry import Registry

# name -> class with explicit ``__init__``, ``from_config(cls, options) -> dict`` (options: see evaluation/options.py),
# ``options() -> CfgNode`` (its own keys with defaults) and a class attribute ``version``. An instance is called as
# ``evaluator(weights, data) -> Result`` where ``data`` is a :class:`EvalData`; ``check_weights(weights)`` and
# ``check_data(data)`` are asked of every protocol before the first one runs. A protocol whose numbers change for the
# same weights and data raises its version: numbers of two versions never share a column. ``seeded`` (class or instance
# attribute) is False where SEED changes nothing: such a protocol runs once, however many seeds are asked for.
# ``resumable`` is False where a result depends on other weights of the same run too: it is never taken from an earlier
# run. One instance serves all weights of a run. Attributes that are not there count as True.
EVALUATOR_REGISTRY = Registry("EVALUATOR")


class Evaluator(Protocol):
    """What a registered protocol looks like."""

    version: str
    seeded: bool
    resumable: bool

    @staticmethod
    def options() -> CfgNode: ...

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]: ...

    def check_weights(self, weights: Weights) -> None:
        """Raise a UserError for weights of a kind that this protocol cannot use; computes nothing."""

    def check_data(self, data: EvalData) -> None:
        """Raise a UserError for data of a form that this protocol cannot use; reads lists, no pixels."""

    def __call__(self, weights: Weights, data: EvalData) -> Result: ...
