"""Published sets in use: backgrounds swapped by their boxes, donors of another set, maps of what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import release_trees as trees

from ssl_loc.components import setup_cfg
from ssl_loc.data.build import build_pretrain_loader
from ssl_loc.data.catalog import ROOT_VARIABLE, get_dataset
from ssl_loc.data.ground_truth import write_ground_truth_maps
from ssl_loc.data.map_making import write_estimated_maps
from ssl_loc.saliency.map_io import read_map

CVSA = Path(__file__).resolve().parents[2] / "configs" / "cvsa"
SMALL = ["SOLVER.IMS_PER_BATCH", 2, "DATA.NUM_WORKERS", 0, "AUGMENT.SIZE", 32]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    trees.cub(tmp_path / "cub")
    trees.nabirds(tmp_path / "nabirds")
    trees.aircraft(tmp_path / "aircraft")
    trees.cars_kit(tmp_path / "cars")
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("scratch_byol_cvsa_R50", "cub_train"),
        ("scratch_byol_cvsa_R50", "nabirds_train"),
        ("scratch_byol_cvsa_R50", "aircraft_trainval"),
        ("scratch_byol_cvsa_R50", "cars_train"),
        ("background_cub_nabirds_ss_align_R18", "cub_train"),
        ("background_nabirds_ss_R18", "cub_train"),
    ],
)
def test_cvsa_recipes_load_the_published_sets(root: Path, recipe: str, name: str) -> None:
    cfg = setup_cfg(str(CVSA / f"{recipe}.yaml"))
    assert cfg.DATA.TRAIN == "cub_train"
    cfg.defrost()
    cfg.merge_from_list([*SMALL, "DATA.TRAIN", name])
    views = next(iter(build_pretrain_loader(cfg)))
    assert [tuple(image.shape) for image in views.images] == [(2, 3, 32, 32)] * 2
    # Their boxes are objects: a part of each view was pasted.
    if "cvsa" in recipe or "align" in recipe:
        assert views.has_mask.all()
        assert all(mask.any() for mask in views.masks or [])


def test_a_new_box_is_that_of_the_object(root: Path) -> None:
    """CUB's own corners reach the masks: 1.5 + 10 px wide, pixel centres decide."""
    dataset = get_dataset("cub_train", annotations=True)
    manifest = write_ground_truth_maps(dataset, root / "maps", progress=False)
    mask = read_map(manifest.path("001.Albatross/A_0009_34"))
    expected = np.zeros((32, 40), np.uint8)
    expected[2:22, 1:11] = 255  # y from 2 to 22.5; x from 1.5 to 11.5, whose centres are 1.5 .. 10.5
    assert np.array_equal(mask, expected)


def test_maps_of_aircraft_have_no_banner(root: Path) -> None:
    dataset = get_dataset("aircraft_trainval", annotations=True)
    truth = write_ground_truth_maps(dataset, root / "truth", progress=False)
    assert read_map(truth.path("0034309")).shape == (30, 60)
    made, report = write_estimated_maps(dataset, root / "gs", method="gs", processes=0, progress=False)
    assert read_map(made.path("0034309")).shape == (30, 60)
    cfg = setup_cfg(str(CVSA / "scratch_byol_dilo_R50.yaml"))
    cfg.defrost()
    cfg.merge_from_list([*SMALL, "DATA.TRAIN", "aircraft_trainval", "DATA.MASKS.ROOT", str(root / "truth")])
    assert next(iter(build_pretrain_loader(cfg))).has_mask.all()
