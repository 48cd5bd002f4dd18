"""The adversarial score of the Backgrounds Challenge: which foregrounds are recognised on every background there is.

As the release's challenge_eval.py: each foreground (its mask in fg_mask, its pixels in original) is put in front of
every picture of only_bg_t, those of its own class included; one wrong answer makes it vulnerable. Robust accuracy is
the share of foregrounds that no background fools ("challenge accuracy" in the release's table), vulnerable is the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ssl_loc.data.background_settings import MASKS
from ssl_loc.data.datasets.folder import list_files, stem
from ssl_loc.data.eval_transforms import whole
from ssl_loc.data.image_io import read_image
from ssl_loc.data.labelled import even_sample
from ssl_loc.evaluation.backgrounds_data import setting_folder
from ssl_loc.utils.errors import DataError
from ssl_loc.utils.progress import progress_bar

PIXELS, GROUNDS = "original", "only_bg_t"

# uint8 pictures (N, 3, size, size) -> class of each, int64 (N,).
Classifier = Callable[[Tensor], Tensor]


@dataclass
class Foreground:
    """A cut-out: pixels uint8 (3, H, W), mask bool (H, W)."""

    name: str
    label: int
    image: Tensor
    mask: Tensor


@dataclass
class Challenge:
    """Who survived: names of all foregrounds -> the background that fooled it ("" for none)."""

    fooled_by: dict[str, str]
    backgrounds: int

    @property
    def robust(self) -> float:
        """Percent of foregrounds that every background left recognised."""
        return 100.0 * sum(not name for name in self.fooled_by.values()) / len(self.fooled_by)


def run_challenge(
    root: str | Path, classes: list[str], classify: Classifier, size: int, batch_size: int = 64, most: int = 0
) -> Challenge:
    """Put every foreground of ROOT/fg_mask in front of every picture of ROOT/only_bg_t.

    A foreground is given up at its first wrong answer; backgrounds that fooled most foregrounds so far come first,
    which changes the time alone. ``most`` takes an even sample of so many foregrounds and backgrounds (0 = all).
    """
    names, grounds = load_grounds(root, most)
    fools = torch.zeros(len(names), dtype=torch.int64)
    fooled_by: dict[str, str] = {}
    masks = _sample(mask_files(root, classes), most)
    foregrounds = load_foregrounds(root, masks, classes, (grounds.shape[-2], grounds.shape[-1]))
    for fg in progress_bar(foregrounds, total=len(masks), desc="adversarial backgrounds", unit="foreground"):
        fooled_by[fg.name] = ""
        for part in fools.argsort(descending=True, stable=True).split(batch_size):
            mixed = torch.where(fg.mask, fg.image, grounds[part])
            wrong = (classify(torch.stack([whole(image, size) for image in mixed])) != fg.label).nonzero()
            if len(wrong):
                first = int(part[int(wrong[0, 0])])
                fools[first] += 1
                fooled_by[fg.name] = names[first]
                break
    return Challenge(fooled_by, len(names))


def check_challenge(root: str | Path, classes: list[str]) -> None:
    """Raise DataError where masks, their pictures or the backgrounds are missing; reads lists, no pixels."""
    pixels = _pictures(root)
    for name in mask_files(root, classes):
        _picture_of(root, name, pixels)
    ground_files(root)


def mask_files(root: str | Path, classes: list[str]) -> list[str]:
    """Masks "<class>/<image>.npy", sorted; a class that the settings do not have is an error."""
    folder = setting_folder(root, MASKS)
    files = list_files(folder, (".npy",)) if folder.is_dir() else []
    if not files:
        raise DataError(f"the adversarial score needs {folder}/<class>/<image>.npy (bool masks); there are none")
    strange = [name for name in files if PurePosixPath(name).parent.name not in classes]
    if strange:
        raise DataError(f"{folder}/{strange[0]} belongs to no class of the settings ({', '.join(classes)})")
    return files


def load_foregrounds(
    root: str | Path, masks: list[str], classes: list[str], shape: tuple[int, int]
) -> Iterator[Foreground]:
    """The cut-outs of ``masks``; each as large as the backgrounds (``shape``)."""
    pixels = _pictures(root)
    for name in masks:
        file = setting_folder(root, MASKS) / name
        mask = _read_mask(file)
        image = read_image(_picture_of(root, name, pixels))
        if mask.shape != shape or image.shape[:2] != shape:
            raise DataError(
                f"{file} is {mask.shape}, its picture {image.shape[:2]}, the backgrounds {shape}; all must be equal"
            )
        label = classes.index(PurePosixPath(name).parent.name)
        yield Foreground(stem(name), label, torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask))


def _pictures(root: str | Path) -> dict[str, str]:
    """ "<class>/<image>" -> file below ROOT/original/val."""
    folder = setting_folder(root, PIXELS)
    return {stem(name): name for name in list_files(folder)} if folder.is_dir() else {}


def _picture_of(root: str | Path, mask: str, pictures: dict[str, str]) -> Path:
    if stem(mask) not in pictures:
        folders = setting_folder(root, MASKS), setting_folder(root, PIXELS)
        raise DataError(f"{folders[0]}/{mask} has no picture {stem(mask)}.* in {folders[1]}")
    return setting_folder(root, PIXELS) / pictures[stem(mask)]


def _read_mask(file: Path) -> np.ndarray:
    try:
        mask = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the mask {file}: {error}") from None
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise DataError(f"the mask {file} is {mask.dtype} {mask.shape}; expected bool (height, width)")
    return mask.astype(bool)


def ground_files(root: str | Path) -> list[str]:
    """Backgrounds "<class>/<image>", sorted."""
    folder = setting_folder(root, GROUNDS)
    files = list_files(folder) if folder.is_dir() else []
    if not files:
        raise DataError(f"the adversarial score needs the backgrounds {folder}/<class>/<image>; there are none")
    return files


def load_grounds(root: str | Path, most: int = 0) -> tuple[list[str], Tensor]:
    """Names and pictures uint8 (N, 3, H, W) of only_bg_t, all of one size."""
    folder = setting_folder(root, GROUNDS)
    files = _sample(ground_files(root), most)
    images = [torch.from_numpy(read_image(folder / name)).permute(2, 0, 1) for name in files]
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        raise DataError(f"pictures in {folder} have several sizes ({sorted(shapes)[:3]}); expected one")
    return [stem(name) for name in files], torch.stack(images)


def _sample(names: list[str], most: int) -> list[str]:
    return [names[i] for i in even_sample(len(names), most).tolist()]
