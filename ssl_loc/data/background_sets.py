"""Writes a Backgrounds Challenge set from photos and masks, in the release's layout (see ``background_settings``).

::

    ROOT/backgrounds.json                         what it was made from; refuses to be mixed with others
    ROOT/<setting>/val/<class>/<photo>.jpg        eight settings; mixed ones lie on only_bg_t of another photo
    ROOT/fg_mask/val/<class>/<photo>.npy          bool (side, side)

A background of class "same" is another photo of the class, "rand" a photo of any class (drawn first, then the photo),
"next" one of the class after it in alphabetical order.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_loc.data.background_settings import MASKS, SETTINGS, box_of, paste, without_partner
from ssl_loc.data.foregrounds import Foreground, Masks, find_foregrounds, read_foreground
from ssl_loc.data.image_io import encode_image
from ssl_loc.data.rng import Streams
from ssl_loc.saliency.store import first_names
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.file_io import atomic_write, read_json, write_json
from ssl_loc.utils.progress import progress_bar

_LOGGER = logging.getLogger(__name__)

INFO_NAME = "backgrounds.json"
# Raised when the same photos and settings give other pictures than before.
VERSION = 1
FORMATS = ("jpg", "png")
# The release's side.
SIDE = 224
# A mask of less than this share of the square is no object worth recognising.
LEAST_MASK = 0.01
# A box above this share of the square leaves no strip worth repeating: the picture would have no background.
MOST_BOX = 0.9
# Each class needs a second photo: mixed_same takes its background.
LEAST_PHOTOS = 2


@dataclass(frozen=True)
class SetOptions:
    """What the pictures depend on besides photos and masks.

    Attributes:
        side: side of the square pictures in px; a photo's shorter side is brought to it and its middle cut out.
        per_class: at most so many photos of a class, evenly spread (0 = all).
        seed: another seed draws other backgrounds.
        image_format: "jpg" or "png".
    """

    side: int = SIDE
    per_class: int = 0
    seed: int = 0
    image_format: str = "jpg"

    def __post_init__(self) -> None:
        if self.image_format not in FORMATS:
            raise DataError(f"format is '{self.image_format}'; choose {' or '.join(FORMATS)}")
        if self.side < 8:
            raise DataError(f"side is {self.side} px; expected 8 or more")
        if self.per_class < 0 or self.per_class == 1:
            raise DataError(f"{self.per_class} photos per class; expected {LEAST_PHOTOS} or more, or 0 for all")


@dataclass
class Report:
    """What was made, and which photos could not be used.

    Attributes:
        classes: class -> number of foregrounds.
        left_out: reason -> photos.
        grounds: "<class>/<photo>" -> setting -> the photo whose background it got.
    """

    classes: dict[str, int]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    grounds: dict[str, dict[str, str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """One line per reason, with the first names."""
        return [f"{len(names)} {reason}: {first_names(names)}" for reason, names in self.left_out.items()]


def write_background_set(
    root: str | Path, spec: str, masks: Masks, options: SetOptions | None = None, progress: bool = True
) -> Report:
    """Make a set below ``root``; the same call goes on where an interrupted one stopped.

    Raises:
        DataError: ``root`` holds something else, or fewer than two classes have two usable photos.
    """
    options = options or SetOptions()
    found = find_foregrounds(spec, masks)
    base = Path(root)
    identity = {
        "version": VERSION,
        "dataset": spec,
        "masks": asdict(masks),
        "options": asdict(options),
        "photos": _digest(found, masks),
    }
    _claim(base, identity)
    usable, report = usable_foregrounds(found, masks, options, progress)
    report.classes = {name: len(members) for name, members in usable.items()}
    for index, foreground in progress_bar(
        list(enumerate(f for members in usable.values() for f in members)), desc=f"{base}", unit="photo", show=progress
    ):
        grounds = draw_grounds(foreground, usable, Streams(options.seed, 0, index))
        report.grounds[_name(foreground)] = {setting: _name(g) for setting, g in grounds.items()}
        if not _mask_file(base, foreground).exists():
            _write(base, foreground, grounds, masks, options)
    write_json(base / INFO_NAME, {**identity, "complete": True, **asdict(report)})
    return report


def usable_foregrounds(
    found: list[Foreground], masks: Masks, options: SetOptions, progress: bool = True
) -> tuple[dict[str, list[Foreground]], Report]:
    """Class -> its foregrounds whose mask can be used, sorted; the others are named in the report."""
    report = Report({})
    usable: dict[str, list[Foreground]] = {}
    for foreground in progress_bar(found, desc="masks", unit="photo", show=progress):
        reason = _why_not(foreground, masks, options.side)
        if reason:
            report.left_out.setdefault(reason, []).append(_name(foreground))
        else:
            usable.setdefault(foreground.label, []).append(foreground)
    for label in [label for label, members in usable.items() if len(members) < LEAST_PHOTOS]:
        lone = [_name(f) for f in usable.pop(label)]
        report.left_out.setdefault("alone in their class", []).extend(lone)
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} classes have {LEAST_PHOTOS} usable photos; expected two or more classes "
            f"({'; '.join(report.lines()) or 'nothing was left out'})"
        )
    if options.per_class:
        usable = {label: _evenly(members, options.per_class) for label, members in usable.items()}
    for line in report.lines():
        _LOGGER.warning("left out: %s", line)
    return usable, report


def draw_grounds(foreground: Foreground, usable: dict[str, list[Foreground]], random: Streams) -> dict[str, Foreground]:
    """Mixed setting -> the photo whose background is taken, never the foreground's own photo."""
    labels = list(usable)

    def another(label: str, rng: np.random.Generator) -> Foreground:
        others = [f for f in usable[label] if f is not foreground]
        return others[int(rng.integers(len(others)))]

    rng = random("mixed_rand")
    following = labels[(labels.index(foreground.label) + 1) % len(labels)]
    return {
        "mixed_same": another(foreground.label, random("mixed_same")),
        "mixed_rand": another(labels[int(rng.integers(len(labels)))], rng),
        "mixed_next": another(following, random("mixed_next")),
    }


def _why_not(foreground: Foreground, masks: Masks, side: int) -> str:
    """Why a photo cannot be used, "" if it can."""
    _, mask = read_foreground(foreground, masks, side)
    if mask.mean() < LEAST_MASK:
        return f"without a foreground of {LEAST_MASK:.0%} of the picture"
    x0, y0, x1, y1 = box_of(mask)
    if (x1 - x0) * (y1 - y0) > MOST_BOX * mask.size:
        return f"with a foreground whose box fills more than {MOST_BOX:.0%} of the picture"
    return ""


def _write(
    base: Path, foreground: Foreground, grounds: dict[str, Foreground], masks: Masks, options: SetOptions
) -> None:
    image, mask = read_foreground(foreground, masks, options.side)
    pictures = without_partner(image, mask)
    for setting, other in grounds.items():
        behind = without_partner(*read_foreground(other, masks, options.side))["only_bg_t"]
        pictures[setting] = paste(image, mask, behind)
    for setting in SETTINGS:
        file = base / setting / "val" / foreground.label / f"{foreground.name}.{options.image_format}"
        with atomic_write(file) as stream:
            stream.write(encode_image(pictures[setting], file.suffix))
    # Written last: a mask that is there says that the foreground is done.
    with atomic_write(_mask_file(base, foreground)) as stream:
        np.save(stream, mask)


def _mask_file(base: Path, foreground: Foreground) -> Path:
    return base / MASKS / "val" / foreground.label / f"{foreground.name}.npy"


def _claim(base: Path, identity: dict[str, Any]) -> None:
    """Say what the folder is being made into, or compare with what it says."""
    info = base / INFO_NAME
    if info.exists():
        there = read_json(info)
        other = [key for key, value in identity.items() if there.get(key) != value]
        if other:
            raise DataError(
                f"{base} holds a set made otherwise ({', '.join(f'{k}: there {there.get(k)}' for k in other)}); give "
                "another folder, or delete this one"
            )
    elif base.is_dir() and any(base.iterdir()):
        raise DataError(f"{base} is not empty and holds no {INFO_NAME}; give a new folder for the set")
    else:
        write_json(info, {**identity, "complete": False})


def _digest(found: list[Foreground], masks: Masks) -> str:
    """Digest of the photos and maps: names, sizes and times of change."""
    digest = hashlib.sha256()
    for f in found:
        digest.update(_name(f).encode())
        for file in (Path(f.record.path), masks.file(f.record)):
            if file is not None and file.is_file():
                stat = file.stat()
                digest.update(f"|{file.absolute()}|{stat.st_size}:{stat.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _name(foreground: Foreground) -> str:
    return f"{foreground.label}/{foreground.name}"


def _evenly(members: list[Foreground], count: int) -> list[Foreground]:
    if count >= len(members):
        return members
    return [members[int(i)] for i in np.linspace(0, len(members) - 1, count).round()]
