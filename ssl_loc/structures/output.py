"""What a method hands to the losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Pair:
    """One directed comparison: the query made from view ``query_view`` against the key of view ``key_view``.

    Attributes:
        query_view, key_view: indices into ``Views.images``.
        q: (N, D) float32, L2-normalised, carries gradient.
        k: (N, D) float32, L2-normalised, detached.
        negatives: (D, K) float32, unit columns, detached, or None where the method has no negatives. It may be a live
            buffer: it must not be written before the losses have been back-propagated.
        drawn: (N, K') int64 columns of ``negatives`` that are each query's own; None = all of them.
        own: (N,) int64 column of ``negatives`` that is each query's positive and not to count as negative; None = none.
        temperature: tau of the method; 1 where it has none.
        pooled: (N, C) float32 trunk vector z from which the *uncompiled* head makes q; carries gradient. Grad-CAM
            differentiates with respect to it (cast.md section 2, step 10).
        maps: spatial maps of the query trunk by level, at least "res5": (N, C, h, w); carry gradient.
        target_maps: spatial maps of the target trunk on the key view, detached, of the levels that
            ``Method.request_target_maps`` was asked for; empty otherwise.
    """

    query_view: int
    key_view: int
    q: Tensor
    k: Tensor
    temperature: float
    pooled: Tensor
    maps: dict[str, Tensor]
    negatives: Tensor | None = None
    drawn: Tensor | None = None
    own: Tensor | None = None
    target_maps: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class MethodOutput:
    """Pairs plus numbers for the log (detached scalars or floats, by name)."""

    pairs: list[Pair]
    log: dict[str, Tensor | float] = field(default_factory=dict)
