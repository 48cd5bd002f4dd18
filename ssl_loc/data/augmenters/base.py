"""What an augmenter is, and what it may look at besides its view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ssl_loc.data.augmenters.summed_area import SummedArea
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View

if TYPE_CHECKING:
    from ssl_loc.data.donors import Donors


@dataclass
class Context:
    """What the augmenters of one sample share.

    Attributes:
        sample: the decoded image with its map.
        earlier: views of this sample that are already finished, in order.
        donors: the other images that an augmenter with "donor" in its ``needs`` may ask for.
        memo: what augmenters computed of the sample once for all its views, by name.
    """

    sample: Sample
    earlier: list[View] = field(default_factory=list)
    donors: Donors | None = None
    memo: dict[str, Any] = field(default_factory=dict)
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
        needs: subset of {"saliency", "graded", "boxes", "donor"} that the sample must be loaded with; an object may
            need more or less than its class. "graded" is the map before it was made binary.
        donor_sets: where its donors come from: "train", "windows:FILE" or "dataset:NAME".
        donor_boxes: True if donors of other datasets must come with their annotated boxes.
        node: name of its config node below AUGMENT ("" = it has no keys); its keys may be overridden per view.
        stream: name of its random stream. A second augmenter with the same stream in one pipeline gets a suffix.
        records: entries of ``view.extra`` it writes, with the value that means "nothing happened".
        photometric: True if it changes colours and leaves every pixel in its place.
        deferrable: True if what it draws can be recorded now and applied on the device later.
        after_deferred: True if it may run in the worker although it comes after something deferred.
        in_place: True if it leaves every pixel in its place, like the photometric ones.
        wants_whole: True if it must be given the whole image, so that only such steps may come before it.
        whole_because: the setting that makes it so, for messages; "" = it always does.
        random: False if it does the same to an image every time.
        resizes: True if its views have one size whatever the image's; photos of several sizes need such a step.
    """

    needs: frozenset[str] = frozenset()
    donor_sets: tuple[str, ...] = ()
    donor_boxes: bool = False
    node: ClassVar[str] = ""
    stream: str = ""
    records: Mapping[str, Tensor] = MappingProxyType({})
    photometric: ClassVar[bool] = False
    deferrable: bool = False
    after_deferred: ClassVar[bool] = False
    in_place: ClassVar[bool] = False
    wants_whole: bool = False
    whole_because: str = ""
    random: ClassVar[bool] = True
    resizes: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        """Return the augmented view; the given one is not changed."""

    def joined(self, following: Augmenter | None) -> Augmenter | None:
        """One augmenter that does this step and the ``following`` one in less time, or None.

        Raises:
            ConfigError: this step cannot do without another one after it.
        """
        return None
