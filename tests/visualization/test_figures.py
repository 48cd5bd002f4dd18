"""Every picture says what its data say: read back from the drawn artists, not from pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle

from ssl_loc.evaluation.crops import CropBatch
from ssl_loc.structures import Geometry, Sample, View
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.cams import CamPanel, cams_figure
from ssl_loc.visualization.curves import MAX_POINTS, Run, curves_figure, load_runs
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.labels import name_runs
from ssl_loc.visualization.pictures import heat_overlay, masked_picture
from ssl_loc.visualization.style import MET, UNMET, method_colors
from ssl_loc.visualization.views import ViewRow, views_caption, views_figure


def texts(fig) -> list[str]:
    return [t.get_text() for ax in fig.axes for t in [*ax.texts, ax.title] if t.get_text()]


def write_run(folder: Path, rows: int = 3, **constant: float) -> Path:
    folder.mkdir(parents=True)
    lines = [
        {"iteration": i + 1, "loss/InfoNCE": 5.0 - i, "chance_loss": math.log(257), **constant} for i in range(rows)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_curves_draw_the_numbers_and_the_chance_level(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "a" / "moco", lr=0.1), write_run(tmp_path / "b" / "moco", rows=2, lr=0.1)]
    runs = load_runs(name_runs(folders))
    assert [run.label for run in runs] == ["a/moco", "b/moco"]
    fig = curves_figure(runs)
    ax = next(ax for ax in fig.axes if ax.get_title(loc="left") == "Contrastive loss")
    drawn = {tuple(line.get_ydata()): line.get_color() for line in ax.lines if len(line.get_ydata()) > 1}
    colors = method_colors(["a/moco", "b/moco"])
    assert drawn[(5.0, 4.0, 3.0)] == colors["a/moco"] and drawn[(5.0, 4.0)] == colors["b/moco"]
    chance = next(line for line in ax.lines if list(line.get_xdata()) == [0, 1])  # from edge to edge
    assert chance.get_ydata()[0] == pytest.approx(math.log(257), abs=1e-4)
    assert [text.get_text() for text in ax.texts] == ["chance, ln(K+1) = 5.55"]
    titles = {ax.get_title(loc="left") for ax in fig.axes if ax.get_visible()}
    assert titles == {"Contrastive loss", "Learning rate"}  # no empty panels


def test_long_curves_are_averaged() -> None:
    run = Run("r", [{"iteration": i, "x": float(i)} for i in range(10 * MAX_POINTS)])
    x, y = run.series("x")
    assert len(x) == MAX_POINTS and x[0] == 9 and y[0] == 4.5
    assert run.series("absent") == ([], [])


def test_curves_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no metrics.jsonl"):
        load_runs(name_runs([tmp_path]))
    with pytest.raises(DataError, match="none of the known numbers"):
        curves_figure([Run("r", [{"iteration": 1, "unheard_of": 1.0}])])


def grounding_result(label: str, mean: float, x: list[float], y: list[float]) -> dict:
    details = {"label": label, "density": {"x": x, "y": y}, "images": 7}
    return {"protocol": "grounding", "metrics": {"iou_mean": mean}, "details": details, "weights": "w"}


def test_density_draws_curve_and_mean() -> None:
    fig = density_figure([grounding_result("CAST", 0.4, [0, 0.5, 1], [0, 2, 0]), grounding_result("CAST", 0.1, [], [])])
    (ax,) = fig.axes
    curves = [line for line in ax.lines if list(line.get_ydata()) == [0, 2, 0]]
    assert len(curves) == 1 and curves[0].get_color() == "#009E73"
    means = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert means == [0.4, 0.1]
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["CAST  (mean 0.40)", "CAST (2)  (mean 0.10)"]
    assert legend.get_title().get_text() == "dashed: mean; n = 7 images"
    with pytest.raises(DataError, match="protocol 'grounding'"):
        density_figure([{"protocol": "knn"}])


def view(box: tuple, met: bool, flip: bool = False) -> View:
    image, mask = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 8, 8, dtype=torch.uint8)
    return View(image, mask, Geometry(box, (8, 8), (20, 30), flip, met))


def test_views_draw_boxes_where_they_are_and_say_if_met() -> None:
    saliency = torch.zeros(20, 30, dtype=torch.uint8)
    saliency[5:10, 5:10] = 255
    sample = Sample(torch.zeros(3, 20, 30, dtype=torch.uint8), saliency)
    rows = [ViewRow(sample, [view((1, 2, 11, 14), True), view((3, 4, 23, 20), False, True)])]
    fig = views_figure(rows)
    boxes = [p for p in fig.axes[0].patches if isinstance(p, Rectangle)]
    assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in boxes] == [
        (0.5, 1.5, 10, 12),  # half a pixel off: a picture's first pixel is centred on 0
        (2.5, 3.5, 20, 16),
    ]
    hexes = ["#{:02X}{:02X}{:02X}".format(*(round(255 * c) for c in p.get_edgecolor()[:3])) for p in boxes]
    assert hexes == [MET, UNMET]
    found = texts(fig)
    assert "query" in found and "flipped, NOT met" in found and "key's mask" in found
    assert not fig.axes[0].texts[1:] and not fig.axes[0].get_title()  # nothing is written on the source
    remarks = [(ax.get_title(), ax.title.get_color()) for ax in fig.axes if ax.get_title()]
    assert remarks == [("flipped, NOT met", UNMET)] and fig.axes[4].get_title()  # over the key
    legend = [t.get_text() for t in fig.legends[0].get_texts()]
    assert "key's crop" in legend and "crop constraint NOT met" in legend
    assert fig.legends[0].get_lines()[0].get_color() == MET  # as the query's crop is drawn
    assert "1 of 2 here" in views_caption(rows)


def test_views_without_masks_and_with_three_views() -> None:
    sample = Sample(torch.zeros(3, 20, 30, dtype=torch.uint8))
    bare = View(torch.zeros(3, 8, 8, dtype=torch.uint8), None, Geometry((0, 0, 5, 5), (8, 8), (20, 30)))
    found = texts(views_figure([ViewRow(sample, [bare] * 3)]))
    assert "view 3" in found and not any("mask" in t for t in found)


def test_heat_overlay_is_red_where_high_and_pale_where_low() -> None:
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    out = heat_overlay(image, torch.tensor([[0.0, 1.0]])).astype(int)
    # jet(1) = (.5, 0, 0) with opacity .62; jet(0) = (0, 0, .5) with a fifth of it.
    assert out[0, 1].tolist() == [round(0.38 * 100 + 0.62 * 127.5), 38, 38]
    assert out[0, 0].tolist() == [88, 88, round(0.876 * 100 + 0.124 * 127.5)]


def test_masked_picture_keeps_the_object_only() -> None:
    image = torch.arange(6, dtype=torch.uint8).view(3, 1, 2)
    out = masked_picture(image, torch.tensor([[True, False]]))
    assert out[0].tolist() == [[0, 2, 4], [127, 127, 127]]


def test_cams_figure_has_a_cell_and_an_iou_per_model() -> None:
    n, s = 2, 8
    batch = CropBatch(
        *(torch.zeros(n, 3, s, s, dtype=torch.uint8) for _ in range(2)),
        *(torch.ones(n, 1, s, s, dtype=torch.bool) for _ in range(2)),
        ["a", "b"],
        ["a.png", "b.png"],
        torch.zeros(n, 2, 4),
        torch.ones(n, 2, dtype=torch.bool),
    )
    panels = [
        CamPanel("MoCo", torch.zeros(n, s, s), [0.25, float("nan")]),
        CamPanel("CAST", torch.ones(n, s, s), [1, 0]),
    ]
    fig = cams_figure(batch, panels)
    assert len(fig.axes) == n * (4 + len(panels))
    found = texts(fig)
    assert [t for t in found if t.startswith("IoU")] == ["IoU 0.25", "IoU 1.00", "IoU n/a", "IoU 0.00"]
    assert found.count("CAST") == 1
    shown = fig.axes[5].images[0].get_array()
    assert np.asarray(shown).shape == (s, s, 3)
