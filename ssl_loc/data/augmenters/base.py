"""What an augmenter is, and what it may look at besides its view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from ssl_loc.data.augmenters.summed_area import SummedArea
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View


@dataclass
class Context:
    """What the augmenters of one sample share.

    Attributes:
        sample: the decoded image with its map.
        earlier: views of this sample that are already finished, in order.
    """

    sample: Sample
    earlier: list[View] = field(default_factory=list)
    _summed_area: SummedArea | None = field(default=None, init=False, repr=False)

    def summed_area(self) -> SummedArea | None:
        """Summed-area table of the sample's map (made once for all views), or None without a map."""
        if self._summed_area is None and self.sample.saliency is not None:
            source = (self.sample.height, self.sample.width)
            self._summed_area = SummedArea(self.sample.saliency.numpy(), source)
        return self._summed_area


class Augmenter(ABC):
    """One step of a pipeline: ``(view, streams, context) -> View``.

    It draws its parameters first, all of them from ``streams(self.stream)``, and then applies them; what was drawn goes
    into ``view.geometry`` or ``view.extra``. Geometric augmenters act on image, mask and geometry alike.

    Attributes:
        needs: subset of {"saliency", "boxes", "donor"} that the sample must be loaded with.
        node: name of its config node below AUGMENT ("" = it has no keys); its keys may be overridden per view.
        stream: name of its random stream. A second augmenter with the same stream in one pipeline gets a suffix.
        records: entries of ``view.extra`` it writes, with the value that means "nothing happened".
        photometric: True if it changes colours and leaves every pixel in its place.
        deferrable: True if what it draws can be recorded now and applied on the device later.
        after_deferred: True if it may run in the worker although it comes after something deferred.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    node: ClassVar[str] = ""
    stream: str = ""
    records: Mapping[str, Tensor] = MappingProxyType({})
    photometric: ClassVar[bool] = False
    deferrable: bool = False
    after_deferred: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        """Return the augmented view; the given one is not changed."""
