"""One evaluated number set, as it is written to json."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Result:
    """Result of one protocol on one set of weights.

    Attributes:
        protocol: name, e.g. "grounding".
        version: protocol version; numbers of two versions are not compared.
        metrics: name -> number (percent where the field uses percent).
        seed: random seed of the evaluation.
        weights: path of the weights, for reading.
        digest: digest of the weight file.
        details: plain values a report may draw (curves, histograms, per-class numbers, environment).
    """

    protocol: str
    version: str
    metrics: dict[str, float]
    seed: int = 0
    weights: str = ""
    digest: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
