"""From AUGMENT.VIEWS to one pipeline per view."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ssl_loc.config import CfgNode, construct
from ssl_loc.data.augmenters.base import Augmenter, Context
from ssl_loc.data.augmenters.color_chain import ColorChain, LinearColor
from ssl_loc.data.augmenters.deferred import DeferredDraw, DevicePhotometric, check_deferred, neutral_records
from ssl_loc.data.donors import Donors
from ssl_loc.data.rng import Streams
from ssl_loc.structures import Sample, View
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.registry import Registry

_LOGGER = logging.getLogger(__name__)
AUGMENTER_REGISTRY = Registry("AUGMENTER")
AUGMENTER_REGISTRY.__doc__ = """
Registered: a subclass of ``Augmenter``, made by ``construct(target, cfg)`` and called as ``(view: View, streams:
Streams, context: Context) -> View``. It never changes the given view and never replaces a sample.
"""

PLACES = ("worker", "device")


class Pipeline:
    """The augmenters of one view, in order.

    Args:
        steps: augmenters.
        neutral: entries that ``view.extra`` starts with, so that all views of a batch carry the same names.
    """

    def __init__(self, steps: Sequence[Augmenter], neutral: dict[str, Any] | None = None) -> None:
        self.steps = list(steps)
        self.neutral = dict(neutral or {})

    @property
    def needs(self) -> frozenset[str]:
        """Subset of {"saliency", "graded", "boxes", "donor"} that samples must be loaded with."""
        return frozenset().union(*(step.needs for step in self.steps))

    @property
    def donor_sets(self) -> frozenset[str]:
        """Where donors are taken from."""
        return frozenset().union(*(step.donor_sets for step in self.steps))

    @property
    def donor_boxes(self) -> bool:
        """True if donors of other datasets must come with their annotated boxes."""
        return any(step.donor_boxes for step in self.steps)

    def __call__(self, view: View, streams: Streams, context: Context) -> View:
        view = View(view.image, view.mask, view.geometry, {**self.neutral, **view.extra})
        for step in self.steps:
            view = step(view, streams, context)
        return view


def augment(
    sample: Sample, pipelines: Sequence[Pipeline], streams: Streams, donors: Donors | None = None
) -> list[View]:
    """All views of one sample; a later view may look at the earlier ones through the context they share."""
    context = Context(sample, donors=donors)
    whole = View.whole(sample)
    for number, pipeline in enumerate(pipelines):
        context.earlier.append(pipeline(whole, streams.for_view(number), context))
    return context.earlier


def build_pipelines(cfg: CfgNode) -> list[Pipeline]:
    """One pipeline per entry of AUGMENT.VIEWS."""
    place = _place(cfg)
    if not cfg.AUGMENT.VIEWS:
        raise ConfigError("AUGMENT.VIEWS is empty; expected one list of augmenters per view")
    views, drawn = [], False
    for number, entries in enumerate(cfg.AUGMENT.VIEWS):
        where = f"AUGMENT.VIEWS[{number}]"
        if not isinstance(entries, (list, tuple)):
            raise ConfigError(f"{where} is {entries!r}; expected a list of augmenters (one list per view)")
        steps = [build_augmenter(entry, cfg, f"{where}[{i}]") for i, entry in enumerate(entries)]
        if problem := order_problem(steps, where):
            raise ConfigError(problem)
        _separate_streams(steps)
        drawn = drawn or any(step.random for step in steps)
        steps = _join(_fuse_colors(steps))
        views.append(_defer(steps, where) if place == "device" else steps)
    if len(views) > 1 and not drawn:
        _LOGGER.warning(
            "AUGMENT.VIEWS is %s, where nothing is drawn at random: the %d views of an image are the same picture, and "
            "matching a picture with itself teaches nothing; list augmenters that draw, for example "
            "[[RandomResizedCrop, RandomFlip], [RandomResizedCrop, RandomFlip]]",
            cfg.AUGMENT.VIEWS,
            len(views),
        )
    neutral = neutral_records(views)
    return [Pipeline(steps, neutral) for steps in views]


def build_device_photometric(cfg: CfgNode) -> DevicePhotometric | None:
    """What applies the deferred operations to a batch on its device; None unless PHOTOMETRIC_ON is "device"."""
    if _place(cfg) == "worker":
        return None
    return DevicePhotometric(sorted({name for pipeline in build_pipelines(cfg) for name in pipeline.neutral}))


def build_augmenter(entry: Any, cfg: CfgNode, where: str) -> Augmenter:
    """Make one augmenter from ``Name`` or ``{Name: {KEY: value}}``; the keys change AUGMENT.<node> for it alone."""
    overrides: Any = None
    if isinstance(entry, str):
        name = entry
    elif isinstance(entry, dict) and len(entry) == 1:
        ((name, overrides),) = entry.items()
    else:
        raise ConfigError(f"{where} is {entry!r}; expected a name or {{Name: {{KEY: value}}}}")
    target = AUGMENTER_REGISTRY.get(name)
    if overrides:
        if not isinstance(overrides, dict):
            raise ConfigError(f"{where} gives {name} {overrides!r}; expected a mapping {{KEY: value}}")
        node = getattr(target, "node", "")
        if not node:
            raise ConfigError(f"{where} gives {name} the keys {', '.join(overrides)}, but it has none; drop them")
        cfg = cfg.clone()
        cfg.defrost()
        cfg.merge_from_dict({"AUGMENT": {node: dict(overrides)}}, source=where)
    return construct(target, cfg)


def _place(cfg: CfgNode) -> str:
    place = cfg.AUGMENT.PHOTOMETRIC_ON
    if place not in PLACES:
        raise ConfigError(f"AUGMENT.PHOTOMETRIC_ON is '{place}'; expected {' or '.join(PLACES)}")
    return place


def _separate_streams(steps: list[Augmenter]) -> None:
    """Two augmenters with one stream name would draw the same numbers: the second gets "name#2"."""
    seen: dict[str, int] = {}
    for step in steps:
        seen[step.stream] = seen.get(step.stream, 0) + 1
        if seen[step.stream] > 1:
            step.stream = f"{step.stream}#{seen[step.stream]}"


def order_problem(steps: Sequence[Augmenter], where: str) -> str:
    """Why these augmenters cannot follow each other in one view, as a sentence; empty where they can.

    One that needs the whole image cannot come after one that cuts or moves it.
    """
    moved = ""
    for step in steps:
        name = type(step).__name__
        if step.wants_whole and moved:
            because = f" (as {step.whole_because})" if step.whole_because else ""
            return f"{where} has {name} after {moved}; {name} needs the whole image{because}, so put it first"
        if not (step.photometric or step.in_place):
            moved = moved or name
    return ""


def _join(steps: list[Augmenter]) -> list[Augmenter]:
    """Let each step do the work of the one after it where it offers to."""
    done: list[Augmenter] = []
    for step in reversed(steps):
        both = step.joined(done[-1] if done else None)
        if both is None:
            done.append(step)
        else:
            done[-1] = both
    return done[::-1]


def _fuse_colors(steps: list[Augmenter]) -> list[Augmenter]:
    """Neighbouring linear colour operations become one chain."""
    fused: list[Augmenter] = []
    for step in steps:
        if not (isinstance(step, LinearColor) and step.linear):
            fused.append(step)
        elif fused and isinstance(fused[-1], ColorChain):
            fused[-1].members.append(step)
        else:
            fused.append(ColorChain([step]))
    return fused


def _defer(steps: list[Augmenter], where: str) -> list[Augmenter]:
    """Replace photometric augmenters by their draws; refuse what cannot be deferred."""
    deferred: list[Augmenter] = []
    names: list[str] = []
    for step in steps:
        name = type(step).__name__
        if step.deferrable:
            names += step.records
            deferred.append(DeferredDraw(step))
        elif step.photometric:
            raise ConfigError(
                f"{where} has {name}, which cannot run on the device as configured; set AUGMENT.PHOTOMETRIC_ON "
                "'worker' (or use ColorJitter with AUGMENT.COLOR_JITTER.MODE 'matrix')"
            )
        elif names and not step.after_deferred:
            raise ConfigError(
                f"{where} has {name} after a colour operation that is deferred to the device; put {name} first, or set "
                "AUGMENT.PHOTOMETRIC_ON 'worker'"
            )
        else:
            deferred.append(step)
    check_deferred(names, where)
    return deferred
