"""The picture of pasted views, read back from its artists."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ssl_loc.components import get_cfg
from ssl_loc.structures import Geometry, Sample, View
from ssl_loc.visualization.views import FREE, ViewRow, _is_constrained, views_caption, views_figure


def black(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.uint8)


def row(mapped: bool) -> ViewRow:
    """A swapped view (patch 4, 2 .. 12, 10 of the source at 1, 2 .. 5, 6), and one whose sample had no object."""
    graded = torch.full((20, 30), 77, dtype=torch.uint8) if mapped else None
    sample = Sample(black(3, 20, 30), black(20, 30) if mapped else None, graded=graded)
    geometry = Geometry((2.0, -2.0, 18.0, 14.0), (8, 8), (20, 30), shown=(4.0, 2.0, 12.0, 10.0))
    records = {"pasted": torch.tensor(1.0), "paste_refused": torch.tensor(0.0)}
    swapped = View(
        black(3, 8, 8), black(1, 8, 8), geometry, {**records, "paste_box": torch.tensor([1.0, 2.0, 5.0, 6.0])}
    )
    refused = {"pasted": torch.tensor(0.0), "paste_refused": torch.tensor(1.0), "paste_box": torch.zeros(4)}
    kept = View(black(3, 8, 8), None, Geometry((0.0, 0.0, 9.0, 9.0), (8, 8), (20, 30)), refused)
    return ViewRow(sample, [swapped, kept])


def boxes(fig: Figure, cell: int) -> list[tuple[float, ...]]:
    found = [p for p in fig.axes[cell].patches if isinstance(p, Rectangle)]
    return [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in found]


def test_patch_and_pasted_rectangle_are_drawn_where_they_are() -> None:
    fig = views_figure([row(True)])
    # On the source: what each view shows of it, not where the swapped view's corners would map to.
    assert boxes(fig, 0) == [(3.5, 1.5, 8, 8), (-0.5, -0.5, 9, 9)]
    assert boxes(fig, 2) == [(0.5, 1.5, 4, 4)] and boxes(fig, 4) == []
    assert [fig.axes[i].get_title() for i in (2, 4)] == ["pasted", "kept: no object"]
    assert int(np.asarray(fig.axes[1].images[0].get_array()).max()) == 77  # the map with its grey values
    legend = [text.get_text() for text in fig.legends[0].get_texts()]
    assert "pasted rectangle" in legend
    # Masks have a frame (a white one could not be told from the page), photos have none.
    assert [ax.axison for ax in fig.axes[:4]] == [False, True, False, True]


def test_views_without_maps_show_the_masks_of_swaps() -> None:
    fig = views_figure([row(False)])
    titles = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert titles.count("no mask") == 1 and "query's mask" in titles and "map" not in titles
    assert boxes(fig, 1) == [(0.5, 1.5, 4, 4)]


def test_the_caption_counts_pastes() -> None:
    words = "1 of 2 views show their object on another background; 1 had no object to paste."
    assert views_caption([row(True)]).endswith(words) and views_caption([row(False)]).endswith(words)


def test_only_constrained_crops_have_a_constraint_in_the_legend() -> None:
    """The name of the photo, cut at its front, stands over it."""
    one = row(True)
    one.constrained, one.sample.path = False, "/photos/a_name_that_is_too_long_0001.jpg"
    fig = views_figure([one])
    assert not [text for text in fig.legends[0].get_texts() if "constraint" in text.get_text()]
    assert fig.axes[0].get_title() == "…that_is_too_long_0001"
    # The crops are drawn as the legend has them, and not in the colour of a constraint that is met.
    lines = [line.get_color() for line in fig.legends[0].get_lines() if "crop" in str(line.get_label())]
    drawn = [to_hex(p.get_edgecolor()) for p in fig.axes[0].patches if isinstance(p, Rectangle)]
    assert drawn == [color.lower() for color in lines] == [FREE.lower()] * 2
    assert "constraint" not in views_caption([one]) and "(query solid, key dashed)" in views_caption([one])


def test_sampled_views_know_whether_their_crops_are_constrained() -> None:
    cfg = get_cfg()
    for crop, expected in (("RandomResizedCrop", False), ("SaliencyConstrainedCrop", True)):
        cfg.AUGMENT.VIEWS = [["RandomFlip", {crop: {}}], [crop]]
        assert _is_constrained(cfg) is expected
