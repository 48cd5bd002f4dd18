"""The loader: batches are a function of (seed, iteration), whatever the workers, processes and restarts."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.config.defaults import base_cfg
from ssl_loc.data import build as build_module
from ssl_loc.data.build import build_pretrain_loader, epoch_of
from ssl_loc.data.samplers import PretrainSampler
from ssl_loc.saliency.manifest import write_manifest
from ssl_loc.structures import Geometry, View
from ssl_loc.utils.errors import ConfigError, DataError

COUNT = 11


class ShiftedCorner:
    """A pipeline for tests: an 8 x 8 corner at a random place, brightened by a random amount."""

    needs = frozenset()

    def __call__(self, view, streams, context):
        rng = streams("crop")
        x, y = int(rng.integers(0, 5)), int(rng.integers(0, 3))
        image = view.image[:, y : y + 8, x : x + 8] + int(rng.integers(0, 100))
        mask = None if view.mask is None else view.mask[:, y : y + 8, x : x + 8]
        geometry = Geometry((x, y, x + 8.0, y + 8.0), (8, 8), view.geometry.source)
        return View(image, mask, geometry, {"shift": float(x)})


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        Image.fromarray(rng.integers(0, 100, (10, 12, 3), dtype=np.uint8)).save(tmp_path / f"{i:02d}.png")
    monkeypatch.setattr(build_module, "build_pipelines", lambda cfg: [ShiftedCorner(), ShiftedCorner()])
    cfg: CfgNode = base_cfg()
    cfg.DATA.TRAIN = f"folder:{tmp_path}"
    cfg.DATA.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DEVICE = "cpu"
    return cfg


def batches(cfg, count, start=0, **where):
    return list(islice(build_pretrain_loader(cfg, start, **where), count))


def same(a, b):
    assert torch.equal(a.index, b.index)
    assert a.paths == b.paths
    for x, y in zip(a.images, b.images, strict=True):
        assert torch.equal(x, y)
    assert torch.equal(a.geometry.boxes, b.geometry.boxes)
    assert torch.equal(a.extra["shift"], b.extra["shift"])


def test_epochs_cover_the_data_without_repeats(cfg):
    loader = build_pretrain_loader(cfg)
    assert (loader.dataset_size, loader.batches_per_epoch) == (11, 2)
    seen = [b.index.tolist() for b in islice(loader, 40)]
    epochs = [seen[i] + seen[i + 1] for i in range(0, 40, 2)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 20  # another order every epoch
    assert set(sum(epochs, [])) == set(range(COUNT))  # the remainder changes, so nobody is left out for good
    assert [epoch_of(i, 2) for i in range(5)] == [0, 0, 1, 1, 2]


def test_views_of_an_image_change_with_the_epoch_and_between_views(cfg):
    cfg.SOLVER.IMS_PER_BATCH = COUNT
    first, second = batches(cfg, 2)
    order = [first.index.argsort(), second.index.argsort()]
    assert not torch.equal(first.images[0][order[0]], second.images[0][order[1]])
    assert not torch.equal(first.images[0], first.images[1])


def test_workers_change_nothing(cfg):
    plain = batches(cfg, 5)
    cfg.DATA.NUM_WORKERS = 2
    for a, b in zip(plain, batches(cfg, 5), strict=True):
        same(a, b)


def test_the_global_random_state_is_left_alone(cfg):
    for workers in (0, 1):
        cfg.DATA.NUM_WORKERS = workers
        before = torch.get_rng_state()
        batches(cfg, 2)
        assert torch.equal(torch.get_rng_state(), before)


def test_a_restart_continues_exactly(cfg):
    whole = batches(cfg, 7)
    for a, b in zip(whole[3:], batches(cfg, 4, start=3), strict=True):
        same(a, b)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_split_the_batch_into_contiguous_parts(cfg, world):
    parts = [batches(cfg, 3, rank=r, world_size=world) for r in range(world)]
    for t, whole in enumerate(batches(cfg, 3)):
        assert torch.equal(torch.cat([part[t].index for part in parts]), whole.index)
        for v in range(2):
            assert torch.equal(torch.cat([part[t].images[v] for part in parts]), whole.images[v])


def test_the_seed_changes_order_and_views(cfg):
    first = batches(cfg, 2)
    cfg.SEED = 1
    second = batches(cfg, 2)
    assert [b.index.tolist() for b in first] != [b.index.tolist() for b in second]


def test_order_is_uniform_over_positions():
    counts = np.zeros((5, 5), dtype=int)
    for seed in range(200):
        batches = list(islice(PretrainSampler(5, 5, seed), 5))
        for batch in batches:
            counts[np.arange(5), [index for _, index in batch]] += 1
    assert np.abs(counts / 1000 - 0.2).max() < 0.05  # four standard deviations of a binomial share


def test_a_dataset_smaller_than_a_batch_is_refused_with_both_numbers(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 12
    with pytest.raises(DataError, match=r"has 11 images, fewer than one batch of 12 \(SOLVER.IMS_PER_BATCH\)"):
        build_pretrain_loader(cfg)


def test_an_indivisible_batch_is_refused(cfg):
    with pytest.raises(ConfigError, match="SOLVER.IMS_PER_BATCH is 4 for 3 processes.*multiple of 3, for example 3"):
        build_pretrain_loader(cfg, rank=0, world_size=3)


def test_one_image_per_batch(cfg):
    cfg.SOLVER.IMS_PER_BATCH = 1
    assert batches(cfg, 1)[0].images[0].shape == (1, 3, 8, 8)


def test_limit(cfg):
    cfg.DATA.LIMIT = 5
    loader = build_pretrain_loader(cfg)
    assert (loader.dataset_size, loader.batches_per_epoch) == (5, 1)
    assert [record.key for record in loader.mapper.records] == ["00", "01", "02", "03", "04"]
    cfg.DATA.LIMIT = -1
    with pytest.raises(ConfigError, match="DATA.LIMIT is -1"):
        build_pretrain_loader(cfg)


def test_a_corrupt_image_is_counted_in_the_batch(cfg, tmp_path):
    (tmp_path / "03.png").write_bytes(b"x")
    cfg.SOLVER.IMS_PER_BATCH = COUNT
    batch = batches(cfg, 1)[0]
    assert batch.extra["passed_over"].sum() == 1
    assert batch.index.tolist().count(4) == 2 and 3 not in batch.index.tolist()


def test_too_many_corrupt_images_stop_the_run_from_a_worker_too(cfg, tmp_path):
    for i in range(COUNT):
        (tmp_path / f"{i:02d}.png").write_bytes(b"x")
    for workers in (0, 1):
        cfg.DATA.NUM_WORKERS = workers
        with pytest.raises(DataError) as error:
            batches(cfg, 1)
        # One sentence from a worker as well, without the traceback that torch would put around it.
        assert str(error.value).startswith("11 images in a row cannot be read, more than DATA.MAX_BAD_IMAGES allows")
        assert "\n" not in str(error.value)


def test_missing_crop_is_one_sentence_with_and_without_workers(cfg, tmp_path, monkeypatch):
    class Whole:
        needs = frozenset()

        def __call__(self, view, streams, context):
            return view

    monkeypatch.setattr(build_module, "build_pipelines", lambda cfg: [ShiftedCorner(), Whole()])
    Image.new("RGB", (14, 9)).save(tmp_path / "00.png")
    cfg.SOLVER.IMS_PER_BATCH = COUNT
    for workers in (0, 1):
        cfg.DATA.NUM_WORKERS = workers
        with pytest.raises(ConfigError) as error:
            batches(cfg, 1)
        assert str(error.value).startswith(
            "AUGMENT.VIEWS[1] gives views of different sizes in one batch (14 x 9 and 12 x 10 px): "
        )
        assert "a crop is missing" in str(error.value) and "\n" not in str(error.value)


def test_needs_are_checked_before_anything_is_read(cfg, monkeypatch):
    class Needy(ShiftedCorner):
        needs = frozenset({"saliency"})

    monkeypatch.setattr(build_module, "build_pipelines", lambda cfg: [Needy()])
    with pytest.raises(ConfigError, match="needs saliency masks but DATA.MASKS.SOURCE is 'none'"):
        build_pretrain_loader(cfg)
    Needy.needs = frozenset({"moon"})
    with pytest.raises(ConfigError, match=r"needs \['moon'\]"):
        build_pretrain_loader(cfg)


def test_nothing_left_is_said(cfg, tmp_path):
    for i in range(COUNT):
        Image.new("RGB", (1, 9)).save(tmp_path / f"{i:02d}.png")
    with pytest.raises(DataError, match="no image of DATA.TRAIN .* is left"):
        build_pretrain_loader(cfg)


def test_with_the_real_augmenters_and_a_folder_of_maps(tmp_path):
    """Constrained crops on stored maps, colour deferred: the same batch with and without workers."""
    rng = np.random.default_rng(0)
    for name in ("photos", "maps"):
        (tmp_path / name).mkdir()
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
        mask = np.zeros((20, 30), dtype=np.uint8)  # stored at half size
        mask[4 + i : 12 + i, 6:16] = 255
        Image.fromarray(mask).save(tmp_path / "maps" / f"{i}.png")
    write_manifest(tmp_path / "maps", estimator="toy", uses_labels=False)
    cfg = get_cfg()
    view = ["SaliencyConstrainedCrop", "RandomGrayscale", "ColorJitter", "RandomFlip"]
    cfg.merge_from_dict(
        {
            "DATA": {"TRAIN": f"folder:{tmp_path}/photos", "MASKS": {"SOURCE": "folder", "ROOT": f"{tmp_path}/maps"}},
            "AUGMENT": {"SIZE": 32, "VIEWS": [view, view], "PHOTOMETRIC_ON": "device"},
            "SOLVER": {"IMS_PER_BATCH": 4},
        }
    )
    cfg.DATA.NUM_WORKERS = 0
    plain = batches(cfg, 1)[0]
    cfg.DATA.NUM_WORKERS = 1
    loaded = batches(cfg, 1)[0]
    assert plain.has_mask.all() and plain.geometry.met.all()
    assert all(mask.flatten(1).any(1).all() for mask in plain.masks)
    assert plain.masks[0].shape == (4, 1, 32, 32)
    assert {name: tuple(v.shape[:2]) for name, v in plain.extra.items() if name != "passed_over"}
    for name, value in plain.extra.items():
        assert torch.equal(value, loaded.extra[name])
        assert value.shape[0] == 4 and (name == "passed_over" or value.shape[1] == 2)
    for a, b in zip([*plain.images, *plain.masks], [*loaded.images, *loaded.masks], strict=True):
        assert torch.equal(a, b)
