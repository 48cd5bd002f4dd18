"""Saliency estimators on pictures with known answers, and on everything that is no ordinary photo."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ssl_loc.data.image_io import read_image
from ssl_loc.saliency import regional
from ssl_loc.saliency.build import SALIENCY_REGISTRY, Estimator, SolveFailed, build_estimator
from ssl_loc.saliency.frame import photo_inside_frame
from ssl_loc.saliency.regional import RegionEstimator, working_size
from ssl_loc.utils.errors import ConfigError, DataError

METHODS = ("gs", "mc", "rbd", "fusion")
ALL = [(name, preset) for name in METHODS for preset in build_estimator(name).presets]


def disc(height: int = 150, width: int = 200, centre: tuple[int, int] = (100, 75), radius: int = 35) -> np.ndarray:
    """An orange disc on a dull green ground with a little noise, uint8 (H, W, 3)."""
    image = np.random.default_rng(0).normal((70, 110, 80), 3, (height, width, 3))
    inside = mask_of(height, width, centre, radius)
    image[inside] += (150, 30, -40)
    return np.clip(image, 0, 255).astype(np.uint8)


def mask_of(height: int, width: int, centre: tuple[int, int], radius: int) -> np.ndarray:
    return cv2.circle(np.zeros((height, width), np.uint8), centre, radius, 1, -1) > 0


def contrast(saliency: np.ndarray, mask: np.ndarray) -> float:
    return float(saliency[mask].mean() - saliency[~mask].mean())


def check_map(saliency: np.ndarray, image: np.ndarray) -> None:
    assert saliency.shape == image.shape[:2] and saliency.dtype == np.float32
    assert np.isfinite(saliency).all() and saliency.min() >= 0 and saliency.max() <= 1


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_disc(name: str, preset: str) -> None:
    image = disc()
    saliency = build_estimator(name, preset)(image)
    check_map(saliency, image)
    assert contrast(saliency, mask_of(150, 200, (100, 75), 35)) > 0.5


@pytest.mark.parametrize(("name", "second_colour"), [*((m, (218, 140, 40)) for m in METHODS), ("rbd", (40, 60, 190))])
def test_two_objects(name: str, second_colour: tuple[int, int, int]) -> None:
    """Of one colour for all; of two colours for RBD (MC stretches differences, so the stronger one takes it all)."""
    image = disc(centre=(55, 75), radius=24)
    first, second = mask_of(150, 200, (55, 75), 24), mask_of(150, 200, (145, 75), 24)
    image[second] = second_colour
    saliency = build_estimator(name)(image)
    for inside in (first, second):
        assert saliency[inside].mean() - saliency[~(first | second)].mean() > 0.5


def test_rbd_keeps_an_object_on_the_border() -> None:
    """A disc cut by the border: RBD sees that little of it touches, a walk to the border is short for MC."""
    image = disc(centre=(100, 122), radius=35)
    mask = mask_of(150, 200, (100, 122), 35)
    assert contrast(build_estimator("rbd")(image), mask) > 0.5


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("axis", [0, 1])
def test_a_gradient_behind_a_disc(name: str, axis: int) -> None:
    ramp = np.linspace(60, 170, 150 if axis == 0 else 200)
    image = np.broadcast_to(ramp[:, None, None] if axis == 0 else ramp[None, :, None], (150, 200, 3)).copy()
    mask = mask_of(150, 200, (100, 75), 35)
    image[mask] = (210, 60, 40)
    assert contrast(build_estimator(name)(image.astype(np.uint8)), mask) > 0.5


@pytest.mark.parametrize(("name", "preset"), ALL)
@pytest.mark.parametrize("value", [0, 93, 255])
def test_constant(name: str, preset: str, value: int) -> None:
    image = np.full((90, 120, 3), value, dtype=np.uint8)
    saliency = build_estimator(name, preset)(image)
    assert saliency.dtype == np.float32 and not saliency.any()


@pytest.mark.parametrize("name", METHODS)
def test_invisible_noise_is_constant(name: str) -> None:
    noise = 128 + (np.random.default_rng(0).random((90, 120, 3)) > 0.5)
    assert not build_estimator(name)(noise.astype(np.uint8)).any()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (31, 31), (20, 300), (1, 3000), (3000, 2), (33, 33), (64, 48)],
)
def test_tiny_and_thin(name: str, height: int, width: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    check_map(build_estimator(name)(image), image)


@pytest.mark.parametrize("name", METHODS)
def test_a_small_picture_of_a_disc_is_enlarged(name: str) -> None:
    image = disc(28, 30, (15, 14), 7)
    assert contrast(build_estimator(name)(image), mask_of(28, 30, (15, 14), 7)) > 0.4


@pytest.mark.parametrize("name", METHODS)
def test_huge(name: str) -> None:
    small = disc()
    image = cv2.resize(small, (3000, 2250), interpolation=cv2.INTER_NEAREST)
    saliency = build_estimator(name)(image)
    check_map(saliency, image)
    mask = cv2.resize(mask_of(150, 200, (100, 75), 35).astype(np.uint8), (3000, 2250), interpolation=0) > 0
    assert contrast(saliency, mask) > 0.5


def test_working_sizes_by_hand() -> None:
    assert working_size(300, 400, 400) == (300, 400)
    assert working_size(480, 640, 400) == (300, 400)
    assert working_size(20, 25, 400) == (128, 160)
    # 60 x 80 px hold only 8 regions of 600 px.
    assert working_size(60, 80, 400) == (128, 171)
    assert working_size(1, 3000, 400) == (128, 400)
    assert working_size(1, 1, 400) == (128, 128)


@pytest.mark.parametrize("name", METHODS)
def test_few_regions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Superpixels may come back fewer than asked for, down to too few for a graph."""
    image = disc()
    columns = np.arange(100) // 10
    for count in (1, 2, 3, 4, 5, 9):
        labels = np.minimum(columns, count - 1)[None].repeat(75, axis=0).astype(np.int32)
        monkeypatch.setattr(regional, "slic", lambda lab, n, compactness, found=(labels, count): found)
        saliency = build_estimator(name, max_side=200)(image)
        check_map(saliency, image)
        if count < regional.FEWEST_REGIONS:
            assert not saliency.any()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_rgb_image_is_refused(name: str) -> None:
    estimator = build_estimator(name)
    for bad in (
        np.zeros((40, 40), np.uint8),
        np.zeros((40, 40, 4), np.uint8),
        np.zeros((40, 40, 3), np.uint16),
        np.zeros((40, 40, 3), np.float32),
        np.zeros((0, 40, 3), np.uint8),
    ):
        with pytest.raises(DataError, match="expected \\(height, width, 3\\) uint8 RGB"):
            estimator(bad)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_pictures_of_every_kind_arrive_through_the_reader(mode: str, tmp_path: Path) -> None:
    photo = Image.fromarray(disc())
    if mode == "I;16":
        photo, path = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), tmp_path / "a.png"
    else:
        photo, path = photo.convert(mode), tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    photo.save(path)
    image = np.ascontiguousarray(np.asarray(read_image(str(path))))
    if image.shape[0] == 3:
        image = np.ascontiguousarray(image.transpose(1, 2, 0))
    for name in METHODS:
        assert contrast(build_estimator(name)(image), mask_of(150, 200, (100, 75), 35)) > 0.3


def test_views_and_read_only_arrays_are_fine() -> None:
    image = disc()
    expected = build_estimator("rbd")(image)
    flipped = np.ascontiguousarray(image[::-1])
    flipped.setflags(write=False)
    assert np.array_equal(build_estimator("rbd")(flipped[::-1]), expected)


@pytest.mark.parametrize("name", METHODS)
def test_framed(name: str) -> None:
    """A photo in a black frame: with remove_frame the frame has saliency 0 and the map is that of the photo."""
    photo = disc()
    image = np.zeros((190, 240, 3), dtype=np.uint8)
    image[20:170, 20:220] = photo
    assert photo_inside_frame(image) == (slice(21, 169), slice(21, 219))
    saliency = build_estimator(name, remove_frame=True)(image)
    mask = np.zeros((190, 240), dtype=bool)
    mask[20:170, 20:220] = mask_of(150, 200, (100, 75), 35)
    assert contrast(saliency, mask) > 0.5
    assert saliency[:20].max() == saliency[:, -20:].max() == 0.0


def test_a_photo_without_frame_is_left_whole() -> None:
    assert photo_inside_frame(disc()) == (slice(0, 150), slice(0, 200))
    small = np.zeros((100, 110, 3), dtype=np.uint8)
    small[10:90, 10:100] = 200
    assert photo_inside_frame(small) == (slice(0, 100), slice(0, 110))


class Broken(RegionEstimator):
    """Gives what a failed solution gives."""

    name = "broken"

    def scores(self, regions: object) -> np.ndarray:
        return np.full(regions.count, np.nan)  # type: ignore[attr-defined]


class BrokenMap(Estimator):
    """Gives a map that is not finite."""

    name = "broken_map"

    def estimate(self, image: np.ndarray) -> np.ndarray:
        return np.full(image.shape[:2], np.inf)


@pytest.mark.parametrize("broken", [Broken, BrokenMap])
def test_no_finite_solution_is_an_error_with_a_name(broken: type[Estimator]) -> None:
    with pytest.raises(SolveFailed, match="broken"):
        broken()(disc())
    assert issubclass(SolveFailed, DataError)


def test_unknown_names_are_answered() -> None:
    with pytest.raises(ConfigError, match="did you mean rbd"):
        build_estimator("rdb")
    with pytest.raises(ConfigError, match="preset of gs is 'pyimg'.*matlab, paper"):
        build_estimator("gs", "pyimg")
    with pytest.raises(ConfigError, match="rbd has no option sigma; its options: max_side, region_px, remove_frame"):
        build_estimator("rbd", sigma=3)
    with pytest.raises(ConfigError, match="max_side of rbd is 10"):
        build_estimator("rbd", max_side=10)
    with pytest.raises(ConfigError, match="max_side of rbd is 'big'; expected a whole number"):
        build_estimator("rbd", max_side="big")
    with pytest.raises(ConfigError, match="mc got max_side 400 and region_px \\(300, 2\\): smaller"):
        build_estimator("mc", region_px=(300, 2))
    with pytest.raises(ConfigError, match="region_px \\(0,\\)"):
        build_estimator("rbd", region_px=0)
    with pytest.raises(ConfigError, match="rbd got max_side 6000 .* up to 120000 of them"):
        build_estimator("rbd", max_side=6000)
    with pytest.raises(ConfigError, match="region_px is 'fine'; expected a number"):
        build_estimator("rbd", region_px="fine")
    with pytest.raises(ConfigError, match="region_px is nan; expected a number"):
        build_estimator("rbd", region_px=float("nan"))


@pytest.mark.parametrize("name", ["gs", "mc", "rbd", "fusion"])
def test_regions_too_large_to_compare_are_refused(name: str) -> None:
    # 400 x 300 px: 1 region; 10 of them are the largest allowed.
    with pytest.raises(ConfigError, match=f"{name} got max_side 400 .*a photo has 1 regions then.*at least 10"):
        build_estimator(name, region_px=(300, 100_000))
    with pytest.raises(ConfigError, match="a photo has 9 regions then"):
        build_estimator(name, region_px=13_000)
    # Where that size is too large for a small picture alone, the picture has a map all the same.
    coarse = build_estimator(name, region_px=12_000)
    # For MC all of 10 regions touch the border of some pictures, and it asks how far regions are from it.
    for height, width in ((90, 120), (60, 100), (10, 12)) if name != "mc" else ():
        image = np.full((height, width, 3), 40, np.uint8)
        image[height // 3 : -(height // 3), width // 3 : -(width // 3)] = (220, 60, 60)
        assert coarse(image).max() > 0.9


def test_one_partition_is_the_published_form() -> None:
    """A single size may be given as a number; two give the geometric mean, stretched."""
    image = disc()
    coarse, fine = (build_estimator("gs", region_px=px, max_side=200).photo_map(image) for px in (600, 300))
    assert np.array_equal(coarse, build_estimator("gs", region_px=[600], max_side=200)(image))
    both = build_estimator("gs", region_px=(600, 300), max_side=200)
    small = [cv2.resize(m, (100, 75), interpolation=cv2.INTER_AREA) for m in (coarse, fine)]
    found = cv2.resize(both(image), (100, 75), interpolation=cv2.INTER_AREA)
    assert np.abs(found - np.sqrt(small[0] * small[1])).mean() < 0.02


def test_all_keep_the_contract() -> None:
    for name, cls in SALIENCY_REGISTRY:
        assert cls.name == name and cls.__doc__ and issubclass(cls, Estimator) and isinstance(cls.version, str)
    assert not any(build_estimator(name).uses_labels for name in METHODS)


PROGRAM = """
import hashlib, pickle, sys
import numpy as np
image = np.load(sys.argv[1])
for payload in sys.argv[2:]:
    print(hashlib.sha256(pickle.loads(bytes.fromhex(payload))(image).tobytes()).hexdigest())
"""


def test_the_same_bits_in_every_process(tmp_path: Path) -> None:
    import hashlib

    image = disc()
    np.save(tmp_path / "image.npy", image)
    estimators = [build_estimator(name) for name in METHODS]
    here = [hashlib.sha256(estimator(image).tobytes()).hexdigest() for estimator in estimators]
    payloads = [pickle.dumps(estimator).hex() for estimator in estimators]
    assert max(map(len, payloads)) < 2000
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "image.npy"), *payloads]
    for threads in ("1", "2"):
        done = subprocess.run(
            command, capture_output=True, text=True, env={"OMP_NUM_THREADS": threads, "PATH": ""}, check=True
        )
        assert done.stdout.split() == here


def test_a_missing_compiler_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_loc.saliency.compiled import CompilerMissingError, compiled

    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(CompilerMissingError, match="pip install 'numba"):
        compiled(lambda x: x)
