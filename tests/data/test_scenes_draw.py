"""Drawn scenes: same numbers same pictures, exact masks, the background correlation asked for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ssl_loc.data.background_settings import SETTINGS
from ssl_loc.data.datasets.scenes.draw import Sprite, boxes_of, compose, draw_scene, paste
from ssl_loc.data.datasets.scenes.params import SceneParams
from ssl_loc.data.datasets.scenes.shapes import FAMILIES, KINDS_PER_FAMILY
from ssl_loc.data.datasets.scenes.texture import hsv
from ssl_loc.data.datasets.scenes.variants import draw_single, draw_variants
from ssl_loc.utils.errors import DataError

SMALL = SceneParams(width=48, height=40)


def test_scene_is_a_function_of_seed_split_and_index():
    a, b = draw_scene(SMALL, "train", 7), draw_scene(SMALL, "train", 7)
    assert np.array_equal(a.image, b.image) and np.array_equal(a.masks, b.masks)
    others = [draw_scene(SMALL, "train", 8), draw_scene(SMALL, "val", 7)]
    others.append(draw_scene(dataclasses.replace(SMALL, seed=1), "train", 7))
    assert all(not np.array_equal(a.image, other.image) for other in others)


def test_scene_shapes_boxes_and_masks_agree():
    for index in range(12):
        scene = draw_scene(SMALL, "train", index)
        assert scene.image.shape == (40, 48, 3) and scene.image.dtype == np.uint8
        assert 1 <= len(scene.masks) == len(scene.labels) == len(scene.boxes) <= 3
        assert scene.masks.sum(axis=0).max() == 1  # visible pixels belong to one object
        for mask, box in zip(scene.masks, scene.boxes, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert np.array_equal(scene.saliency == 255, scene.masks.any(axis=0))


def test_sprite_in_front_hides_what_is_behind():
    image = np.zeros((10, 10, 3), np.float32)
    full = Sprite(np.full((6, 6, 3), 200, np.float32), np.ones((6, 6), np.float32))
    mask = paste(image, full, 2, 3)
    assert mask.sum() == 36 and mask[2:8, 3:9].all()
    assert (image[2:8, 3:9] == 200).all()
    scene = compose(np.zeros((6, 6, 3), np.float32), [full, full], [0, 1], 0, np.random.default_rng(0))
    # The canvas has room for one position only: the first object is gone, and with it its label and box.
    assert scene.labels.tolist() == [1] and scene.masks.shape == (1, 6, 6) and scene.label == 0


def test_boxes_of_is_tight_and_half_open():
    mask = np.zeros((1, 5, 7), bool)
    mask[0, 1, 2] = mask[0, 3, 4] = True
    assert boxes_of(mask).tolist() == [[2.0, 1.0, 5.0, 4.0]]


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_background_follows_the_main_class_as_often_as_asked(correlation):
    params = dataclasses.replace(SMALL, width=32, height=32, correlation=correlation, objects_max=1, clutter=0)
    n = 240
    hits = np.mean([s.label == s.background for s in (draw_scene(params, "train", i) for i in range(n))])
    expected = correlation + (1 - correlation) / len(params.classes)
    # Four standard deviations of a mean of n draws.
    assert abs(hits - expected) <= 4 * np.sqrt(expected * (1 - expected) / n) + 1e-9


def test_class_names_count_families_times_kinds():
    params = SceneParams(families=len(FAMILIES), kinds=KINDS_PER_FAMILY)
    assert len(set(params.classes)) == len(FAMILIES) * KINDS_PER_FAMILY
    assert SceneParams(families=1, kinds=2).classes == ["fish_striped", "fish_spotted"]
    assert SceneParams.from_dict(params.to_dict()) == params


def test_every_class_of_every_family_is_drawn():
    params = dataclasses.replace(SMALL, families=len(FAMILIES))
    for label in range(len(params.classes)):
        scene = draw_single(params, "objects_train", label)
        assert scene.labels.tolist() == [label]
        assert 0.05 < scene.masks.mean() < 0.6


@pytest.mark.parametrize(
    "bad", [{"correlation": 1.5}, {"width": 4}, {"objects_min": 3, "objects_max": 2}, {"kinds": 9}]
)
def test_bad_parameters_name_value_and_range(bad):
    with pytest.raises(DataError, match=r"scene parameter \w+ is .*; expected"):
        SceneParams(**bad)


def test_variants_differ_where_they_should():
    drawn = draw_variants(dataclasses.replace(SMALL, clutter=0), 5)
    assert tuple(drawn.images) == SETTINGS and drawn.label == 5
    image, mask = drawn.images, drawn.mask
    assert (image["only_fg"][~mask] == 0).all()
    assert np.array_equal(image["only_fg"][mask], image["original"][mask])
    assert (image["no_fg"][mask] == 0).all()
    assert np.array_equal(image["no_fg"][~mask], image["original"][~mask])
    x0, y0, x1, y1 = boxes_of(mask[None])[0].astype(int)
    outside = np.ones_like(mask)
    outside[y0:y1, x0:x1] = False
    assert (image["only_bg_b"][~outside] == 0).all()
    for name in ("only_bg_b", "only_bg_t"):
        assert np.array_equal(image[name][outside], image["original"][outside])
    for name in ("mixed_same", "mixed_rand", "mixed_next"):
        # The same object at the same place (away from its edge, up to sensor noise) on another ground.
        inner = mask & np.roll(mask, 1, 0) & np.roll(mask, -1, 0) & np.roll(mask, 1, 1) & np.roll(mask, -1, 1)
        change = np.abs(image[name].astype(int) - image["original"].astype(int)).max(axis=2)
        assert change[inner].max() < 16 < change[outside].mean() + 12


def test_hsv_against_the_standard_library():
    import colorsys

    for colour in ((0.0, 1.0, 1.0), (0.3, 0.5, 0.8), (0.71, 0.2, 0.4), (0.99, 0.9, 0.1)):
        assert np.allclose(hsv(*colour), np.array(colorsys.hsv_to_rgb(*colour)) * 255, atol=1e-3)
