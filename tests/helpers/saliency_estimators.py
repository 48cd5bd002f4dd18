"""Estimators that do what the first pixel of an image tells them: answer, fail, hang, or kill their process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ssl_loc.saliency.build import Estimator, SolveFailed

ANSWER, FAIL, RAISE, HANG, DIE, NAN = 0, 50, 60, 100, 150, 200


class Obedient(Estimator):
    """The red channel is the map; blue of the first pixel is the order to follow."""

    name = "obedient"
    presets = ("plain", "other")
    version = "7"

    def estimate(self, image: np.ndarray) -> np.ndarray:
        order = image[0, 0, 2]
        if order == FAIL:
            raise SolveFailed("no answer")
        if order == RAISE:
            raise IndexError("a bug with odd images")
        if order == HANG:
            time.sleep(60)
        if order == DIE:
            os._exit(3)
        saliency = image[..., 0] / np.float32(255)
        return saliency * np.nan if order == NAN else saliency


def draw_images(folder: Path, orders: Iterable[int]) -> Path:
    """One noisy picture per order, 0.png, 1.png, ..., of different sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, order in enumerate(orders):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 256, (20 + i, 30 - i, 3)).astype(np.uint8)
        image[0, 0, 2] = order
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


class Shouter:
    """A task worker: upper case; some words are orders."""

    def prepare(self) -> None:
        pass

    def __call__(self, word: str) -> str:
        if word == "hang":
            time.sleep(60)
        if word == "die":
            os._exit(3)
        if word == "raise":
            raise KeyError("the shouter's own bug")
        return word.upper()
