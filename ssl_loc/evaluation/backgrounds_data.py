"""The folders of a Backgrounds Challenge set: eight settings of the same foregrounds, all with the same classes.

Layout of the release (Xiao et al., "Noise or Signal", 2021; github.com/MadryLab/backgrounds_challenge)::

    ROOT/<setting>/val/<class>/<image>      settings: original, mixed_same, ..., only_bg_t
    ROOT/fg_mask/val/<class>/<image>.npy    bool (H, W), True on the foreground (for the adversarial score alone)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_loc.data.background_settings import SETTINGS
from ssl_loc.data.labelled import LabelledSplit
from ssl_loc.utils.errors import DataError, check_choice


def setting_folder(root: str | Path, setting: str) -> Path:
    """Class folders of one setting."""
    return Path(root) / setting / "val"


def wanted_settings(root: str | Path, wanted: Sequence[str] = ()) -> list[str]:
    """The settings to evaluate, in the order of the table: all eight, or those of ``wanted``.

    Raises:
        ConfigError: a name that is no setting.
        DataError: a folder is missing; all missing ones are named.
    """
    for name in wanted:
        check_choice("BACKGROUNDS.SETTINGS", name, SETTINGS)
    names = [name for name in SETTINGS if name in wanted or not wanted]
    absent = [name for name in names if not setting_folder(root, name).is_dir()]
    if len(absent) == len(names):
        raise DataError(
            f"{root} has none of the settings {', '.join(names)}; expected ROOT/<setting>/val/<class>/<image> (the "
            "release of the Backgrounds Challenge, or backgrounds/ of tools/make_scenes.py)"
        )
    if absent:
        there = [name for name in names if name not in absent]
        raise DataError(
            f"{root} lacks {', '.join(f'{name}/val' for name in absent)} ({len(there)} of {len(names)} settings are "
            f"there); to evaluate a part on purpose: BACKGROUNDS.SETTINGS \"['{there[0]}', ...]\""
        )
    return names


def load_settings(root: str | Path, wanted: Sequence[str] = (), limit: int = 0) -> dict[str, LabelledSplit]:
    """Setting -> its images; all with the same sorted classes, or DataError."""
    names = wanted_settings(root, wanted)
    splits = {name: LabelledSplit.load(f"class_folder:{setting_folder(root, name)}", limit) for name in names}
    first = splits[names[0]].classes
    for name, split in splits.items():
        if split.classes != first:
            differ = sorted(set(split.classes) ^ set(first))
            raise DataError(
                f"{root}: the classes of {name} and of {names[0]} differ ({', '.join(differ[:6])}); every setting "
                "needs the same class folders, none of them empty"
            )
    return splits
