"""The saliency benchmark runs end to end; its plain forms do what the compiled stages do."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ssl_loc.benchmark import saliency
from ssl_loc.benchmark.numpy_saliency import measure_numpy, paths_scipy, slic_numpy
from ssl_loc.benchmark.saliency_quality import quality
from ssl_loc.saliency.colour import to_planes
from ssl_loc.saliency.region_graph import all_paths, measure_regions
from ssl_loc.saliency.superpixels import ROUNDS, _cluster, slic
from ssl_loc.utils.errors import ConfigError, DataError


def test_benchmark_runs() -> None:
    rows = {row.name: row for row in saliency.run(rounds=1, progress=False)}
    assert sum(row.holds is not None for row in rows.values()) == 4
    assert all(row.value > 0 for row in rows.values())
    assert sum(name.startswith("stage: ") for name in rows) == 15
    coco = rows["COCO train2017 with rbd, 16 cores"]
    per_image = float(coco.baseline.split()[0])
    assert coco.value == pytest.approx(118_287 * per_image / 1e3 / 16 / 60, rel=0.02)
    with pytest.raises(ConfigError, match="rounds 0"):
        saliency.run(rounds=0)


def test_the_plain_forms_agree_with_the_compiled_ones() -> None:
    rgb, lab = to_planes(saliency._picture(1), (150, 200))
    labels, count = slic(lab, 100)
    regions = measure_regions(rgb, labels, count, 4)
    colours, centres, adjacent, border = measure_numpy(rgb, labels, count, 4)
    expected = cv2.cvtColor(colours[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    assert np.allclose(regions.colour, expected, atol=1e-2)
    assert np.allclose(regions.centre, centres, atol=1e-5)
    assert np.array_equal(regions.adjacent, adjacent) and np.array_equal(regions.border, border)
    assert np.allclose(all_paths(regions.lengths, regions.clip), paths_scipy(regions.lengths, regions.clip), atol=1e-3)
    # Before small patches are joined, in rows x columns = 9 x 12 cells of about 17.3 px.
    clusters = np.empty((150, 200), dtype=np.int32)
    spacing = np.sqrt(150 * 200 / 100)
    _cluster(lab, 9, 12, np.float32((20 / spacing) ** 2), ROUNDS, clusters)
    assert (slic_numpy(lab, 100, 20.0) == clusters).mean() > 0.99


def test_quality_of_drawn_photos(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        image = saliency._picture(number) // 4 + 90
        mask = cv2.circle(np.zeros((300, 400), np.uint8), (200, 150), 60 + 10 * number, 255, -1)
        image[mask > 0] = (230, 60, 40)
        cv2.imwrite(str(tmp_path / "images" / f"{number}.png"), image[:, :, ::-1])
        cv2.imwrite(str(tmp_path / "masks" / f"{number}.png"), mask)
    rows = {row.name: row.value for row in quality(str(tmp_path), ["gs", "rbd"], progress=False)}
    assert rows["rbd: max F"] > 0.9 and rows["gs: MAE"] < 0.1
    assert rows["rbd - gs: IoU"] == pytest.approx(rows["rbd: IoU"] - rows["gs: IoU"])
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(DataError, match="1 masks are missing"):
        quality(str(tmp_path), ["gs"], progress=False)
    with pytest.raises(DataError, match="no photos"):
        quality(str(tmp_path / "masks"), ["gs"], progress=False)
