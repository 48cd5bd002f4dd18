"""Backgrounds: constant, cut out of larger pictures, enlarged from smaller ones, procedural."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256

import cv2
import numpy as np
import pytest

from ssl_loc.data.augmenters.backgrounds import constant_grey, covering_crop, random_texture
from ssl_loc.data.augmenters.textures import FAMILIES, SIDE, TEXTURES, texture


def test_grey_is_one_level_of_256() -> None:
    for u, level in ((0.0, 0), (0.5, 128), (0.999999, 255)):
        grey = constant_grey(u, (3, 4, 8, 6))
        assert grey.shape == (2, 5, 3) and grey.dtype == np.uint8 and (grey == level).all()


def test_a_larger_picture_keeps_its_scale_and_every_offset_is_reached() -> None:
    picture = np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)
    for u, v, x, y in ((0, 0, 0, 0), (0.999, 0.999, 4, 2), (0.5, 0.34, 2, 1)):
        got = covering_crop(picture, np.array([u, v]), (4, 5), (1, 1, 4, 4))
        assert np.array_equal(got, picture[y + 1 : y + 4, x + 1 : x + 4])


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (7, 100), (20, 20)])
def test_a_smaller_picture_is_enlarged_until_it_covers(size: tuple[int, int]) -> None:
    # Ramps along x and y: their bilinear enlargement is known in closed form.
    ramp_y, ramp_x = np.mgrid[:7, :11]
    picture = np.stack([20 * ramp_x, 30 * ramp_y, 0 * ramp_x], 2).astype(np.uint8)
    whole = covering_crop(picture, np.array([0.3, 0.7]), size, (0, 0, size[1], size[0]))
    assert whole.shape == (*size, 3)
    scale = max(size[0] / 7, size[1] / 11)
    height, width = (round(np.ceil(round(side * scale, 6))) for side in (7, 11))
    x, y = int(0.3 * (width - size[1] + 1)), int(0.7 * (height - size[0] + 1))
    across = (np.arange(x, x + size[1]) + 0.5) * 11 / width - 0.5
    down = (np.arange(y, y + size[0]) + 0.5) * 7 / height - 0.5
    assert np.abs(whole[:, :, 0] - 20 * across.clip(0, 10)).max() <= 1
    assert np.abs(whole[:, :, 1] - 30 * down.clip(0, 6)[:, None]).max() <= 1
    part = covering_crop(picture, np.array([0.3, 0.7]), size, (2, 1, 6, 5))
    assert np.array_equal(part, whole[1:5, 2:6])


def test_textures_are_the_same_in_every_process() -> None:
    code = (
        "from hashlib import sha256; from ssl_loc.data.augmenters.textures import texture;"
        "print(*[sha256(texture(k).tobytes()).hexdigest() for k in (13, 7)])"
    )
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere.split() == [sha256(texture(k).tobytes()).hexdigest() for k in (13, 7)]


def test_textures_differ_have_contrast_and_no_object() -> None:
    pictures = [texture(k).astype(np.float64) for k in range(4 * len(FAMILIES))]
    assert all(p.shape == (SIDE, SIDE, 3) and p.std() > 4 for p in pictures)
    small = np.stack([cv2.resize(p, (16, 16), interpolation=cv2.INTER_AREA).ravel() for p in pictures])
    distance = np.abs(small[:, None] - small[None]).mean(2)
    assert distance[np.triu_indices(len(pictures), 1)].min() > 2
    # Quarters of a texture look alike: nothing stands out in one place.
    spread = [np.std([q.mean() for half in np.split(p, 2) for q in np.split(half, 2, axis=1)]) for p in pictures]
    assert np.median(spread) < 10


def test_a_kept_texture_cannot_be_changed_and_all_are_drawn() -> None:
    with pytest.raises(ValueError, match="read-only"):
        texture(0)[0, 0] = 1
    got = random_texture(np.array([(TEXTURES - 0.5) / TEXTURES, 0.0, 0.0]), (50, 60), (0, 0, 60, 50))
    assert np.array_equal(got, texture(TEXTURES - 1)[:50, :60])
