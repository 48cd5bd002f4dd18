"""What a set of scenes looks like; written beside the set and compared when a drawing is resumed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ssl_loc.data.datasets.scenes.shapes import FAMILIES, KINDS_PER_FAMILY
from ssl_loc.utils.errors import DataError

# Below this the smallest objects have no visible texture; above it a scene takes seconds.
_MIN_SIDE, _MAX_SIDE = 32, 2048


@dataclass(frozen=True)
class SceneParams:
    """Parameters of a scene set.

    Attributes:
        width, height: image size in px.
        objects_min, objects_max: number of objects per scene, both included.
        object_size: smallest and largest object diameter as a share of the shorter image side.
        families: shape families in use (fish, mushroom, beetle, flower, butterfly, mug).
        kinds: fine-grained classes per family; they share the shape and differ in texture, parts and colour.
        correlation: 0..1, probability that a scene's background is the one that belongs to its main class (the class
            of the first object); otherwise it is drawn from all backgrounds alike.
        same_class: 0..1, probability that a further object of a scene has the main class; otherwise any class.
        clutter: 0..1, number of distractors (twigs, pebbles, blades; not annotated) and contrast of the background.
        seed: every picture is a function of (seed, split, index) and the parameters above.
    """

    width: int = 128
    height: int = 128
    objects_min: int = 1
    objects_max: int = 3
    object_size: tuple[float, float] = (0.3, 0.55)
    families: int = 4
    kinds: int = 3
    correlation: float = 0.8
    same_class: float = 0.75
    clutter: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            _check(name, getattr(self, name), _MIN_SIDE, _MAX_SIDE)
        _check("objects_min", self.objects_min, 1, 20)
        _check("objects_max", self.objects_max, self.objects_min, 20)
        _check("object_size[0]", self.object_size[0], 0.05, 0.95)
        _check("object_size[1]", self.object_size[1], self.object_size[0], 0.95)
        _check("families", self.families, 1, len(FAMILIES))
        _check("kinds", self.kinds, 1, KINDS_PER_FAMILY)
        for name in ("correlation", "same_class", "clutter"):
            _check(name, getattr(self, name), 0.0, 1.0)

    @property
    def classes(self) -> list[str]:
        """Class names in label order, e.g. ``fish_striped``."""
        return [f"{f.name}_{kind}" for f in FAMILIES[: self.families] for kind in f.kinds[: self.kinds]]

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values["object_size"] = list(self.object_size)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SceneParams:
        known = {f.name for f in fields(cls)}
        kept = {name: value for name, value in values.items() if name in known}
        kept["object_size"] = tuple(kept["object_size"])
        return cls(**kept)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DataError(f"scene parameter {name} is {value}; expected {low} to {high}")
