"""The folders of a Backgrounds Challenge set: eight settings of the same foregrounds, all with the same classes.

Layout of the release (Xiao et al., "Noise or Signal", 2021; github.com/MadryLab/backgrounds_challenge)::

    ROOT/<setting>/val/<class>/<image>      settings: original, mixed_same, ..., only_bg_t
    ROOT/fg_mask/val/<class>/<image>.npy    bool (H, W), True on the foreground (for the adversarial score alone)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.data.datasets.scenes.variants import VARIANTS
from ssl_loc.evaluation.data import LabelledSplit
from ssl_loc.evaluation.features import state_digest
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import DataError, check_choice
from ssl_loc.utils.progress import progress_bar

# Folder names in the order of the columns of CAST Table 3.
SETTINGS = VARIANTS


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


def square(images: Tensor, size: int) -> Tensor:
    """Shorter side to ``size`` (bilinear, antialiased), then the central square.

    uint8 (3, H, W) or (N, 3, H, W) -> (..., 3, size, size). What is ``size`` x ``size`` already, as the release at side
    224, stays as it is, bit for bit.
    """
    h, w = images.shape[-2:]
    if (h, w) == (size, size):
        return images
    scale = size / min(h, w)
    new = (max(size, round(h * scale)), max(size, round(w * scale)))
    batch = images.reshape(-1, *images.shape[-3:]).float()
    x = F.interpolate(batch, new, mode="bilinear", antialias=True, align_corners=False)
    top, left = (new[0] - size) // 2, (new[1] - size) // 2
    x = x[..., top : top + size, left : left + size].round().clamp(0, 255).to(torch.uint8)
    return x.reshape(*images.shape[:-2], size, size)


def square_features(weights: Weights, split: LabelledSplit, size: int, batch_size: int) -> tuple[Tensor, Tensor]:
    """Frozen features float32 (N, D) of :func:`square` pictures, and labels int64 (N,)."""
    key = ("square", split.name, len(split), size)
    if key not in weights.cache:
        trunk = weights.trunk()
        before = state_digest(trunk.backbone)
        parts, images = [], []
        for image in progress_bar(split.images(), total=len(split), desc=f"features of {split.name}", unit="image"):
            images.append(square(image, size))
            if len(images) == batch_size:
                parts.append(trunk.features(torch.stack(images)))
                images = []
        if images:
            parts.append(trunk.features(torch.stack(images)))
        assert state_digest(trunk.backbone) == before, "the frozen trunk changed while its features were taken"
        weights.cache[key] = torch.cat(parts)
    return weights.cache[key], split.labels()
