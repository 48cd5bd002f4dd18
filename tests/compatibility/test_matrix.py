"""What the matrix says is what the build does."""

from __future__ import annotations

import csv
import io
import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssl_loc.compatibility import Cell, Matrix
from ssl_loc.compatibility.tables import render
from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.data.augmenters.build import AUGMENTER_REGISTRY, build_pipelines
from ssl_loc.engine.model import TrainingModel
from ssl_loc.losses import LOSS_REGISTRY, Loss, build_losses
from ssl_loc.losses.build import METHOD_NEEDS
from ssl_loc.losses.grad_cam_attention import CHOICES
from ssl_loc.modeling import METHOD_REGISTRY, MoCo, build_method
from ssl_loc.utils.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parents[2]
MATRIX = Matrix(get_cfg())
CELLS = list(MATRIX.cells())
METHODS, LOSSES, AUGMENTERS = METHOD_REGISTRY.names(), LOSS_REGISTRY.names(), AUGMENTER_REGISTRY.names()


def _cfg(method: str, views: list[list[str]], losses: list[str], *overrides: object) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("MODEL.METHOD", method, "AUGMENT.VIEWS", views, "LOSS.NAMES", losses, "DATA.MASKS.SOURCE", "folder"),
            *("MODEL.RESNET.DEPTH", 18, *overrides),
        ]
    )
    return cfg


def _build(cfg: CfgNode) -> str:
    """Everything that a run makes of its parts, without data -> the sentence that stops it, or ""."""
    try:
        build_pipelines(cfg)
        with torch.device("meta"):
            TrainingModel(build_method(cfg), build_losses(cfg))
    except UserError as error:
        return str(error)
    return ""


def test_every_cell_is_what_the_build_says() -> None:
    for cell in CELLS:
        sentence = _build(_cfg(cell.method, [MATRIX.pipeline(cell.augmenter)] * 2, [cell.loss]))
        assert sentence == cell.problem, cell
        assert not sentence or all(word in sentence for word in (cell.method, cell.loss, f"LOSS.{_node(cell.loss)}"))
        assert len(re.findall(r"[.!?](?:\s|$)", sentence)) == 0, "one sentence"


def _node(loss: str) -> str:
    return LOSS_REGISTRY.get(loss).node


def test_cells_are_the_ones_of_the_papers() -> None:
    """By hand, from the definitions of the methods: who has negatives, two queries, a second network."""
    table = {
        "BYOL": {"CrossViewAlignment", "GradCAMAttention", "NTXent", "NegativeCosine"},
        "InstDisc": {"GradCAMAttention", "InfoNCE", "NCE", "NegativeCosine"},
        "MoCo": {"CrossViewAlignment", "GradCAMAttention", "InfoNCE", "NegativeCosine"},
        "SimCLR": {"GradCAMAttention", "NTXent", "NegativeCosine"},
    }
    for method, losses in table.items():
        for name in ("CopyPaste", "SaliencySwap", "SaliencyConstrainedCrop", "RandomResizedCrop"):
            found = {cell.loss for cell in CELLS if (cell.method, cell.augmenter) == (method, name) and cell.possible}
            assert found == losses, (method, name)


def test_two_augmenters_in_every_order() -> None:
    for pair in itertools.product(AUGMENTERS, repeat=2):
        views = [list(pair), ["RandomResizedCrop"]]
        assert _build(_cfg("MoCo", views, ["InfoNCE"])) == MATRIX.order_problem(pair), pair
    # A paste into the whole picture cannot come after a crop of it; the other way round it can.
    problem = "AUGMENT.VIEWS[0] has CopyPaste after SaliencyConstrainedCrop; CopyPaste needs the whole image"
    assert MATRIX.order_problem(["SaliencyConstrainedCrop", "CopyPaste"]).startswith(problem)
    for order in (
        ["CopyPaste", "SaliencyConstrainedCrop"],
        ["CopyPaste", "SaliencySwap"],
        ["SaliencySwap", "RandomFlip"],
    ):
        assert MATRIX.order_problem(order) == ""


@pytest.mark.parametrize("method", METHODS)
def test_two_losses(method: str) -> None:
    for losses in itertools.combinations(LOSSES, 2):
        views = [["RandomResizedCrop"]] * 2
        assert _build(_cfg(method, views, list(losses))) == MATRIX.problem(method, views[0], losses), losses


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("views", [1, 2, 3])
def test_number_of_views(method: str, views: int) -> None:
    loss = next(name for name in LOSSES if not MATRIX.problem(method, [], [name]))
    found = _build(_cfg(method, [["RandomResizedCrop"]] * views, [loss]))
    assert found == MATRIX.problem(method, ["RandomResizedCrop"], [loss], views)
    assert bool(found) == (views == 3 or (views == 1 and method != "InstDisc"))
    if found:
        assert method in found and f"AUGMENT.VIEWS makes {views}" in found


def test_settings_that_change_the_answer() -> None:
    """Every value that a part says changes what it needs or gives is refused, or not, as the matrix says."""
    for method, loss in itertools.product(METHODS, LOSSES):
        settings = (*LOSS_REGISTRY.get(loss).settings, *METHOD_REGISTRY.get(method).settings)
        if MATRIX.problem(method, [], [loss]):
            continue
        limits = {(limit.key, str(limit.value)): limit.problem for limit in MATRIX.limits(method, loss)}
        for key, value in settings:
            found = _build(_cfg(method, [["RandomResizedCrop"]] * 2, [loss], key, value))
            assert found == limits.get((key, str(value)), ""), (method, loss, key, value)
    keys = {(limit.key, limit.value) for limit in MATRIX.limits("SimCLR", "GradCAMAttention")}
    assert keys == {("LOSS.GRAD_CAM_ATTENTION.LAYER", "res4"), ("LOSS.GRAD_CAM_ATTENTION.LAYER", "res3")}
    (limit,) = MATRIX.limits("InstDisc", "NCE")
    assert (limit.key, limit.value) == ("MODEL.INSTDISC.K", 0)


def test_no_choice_of_the_attention_loss_is_forgotten() -> None:
    """What its choices need of a method is either the same as by default, or declared."""
    cls = LOSS_REGISTRY.get("GradCAMAttention")
    usual = cls().needs & set(METHOD_NEEDS)
    for key, choices in CHOICES.items():
        changing = {choice for choice in choices if cls(**{key.lower(): choice}).needs & set(METHOD_NEEDS) != usual}
        assert changing == {value for name, value in cls.settings if name.endswith(f".{key}")}


def test_what_the_data_must_have() -> None:
    cells = {(cell.augmenter, cell.loss): cell.data for cell in CELLS if cell.method == "MoCo"}
    assert cells["RandomResizedCrop", "InfoNCE"] == set()
    assert cells["RandomResizedCrop", "GradCAMAttention"] == {"saliency"}
    assert cells["CopyPaste", "InfoNCE"] == {"saliency", "graded"}
    assert cells["SaliencySwap", "CrossViewAlignment"] == {"saliency", "graded", "donor"}
    cfg = get_cfg()
    cfg.merge_from_list(["AUGMENT.SALIENCY_SWAP.BOX_SOURCE", "gt_box", "AUGMENT.COPY_PASTE.BACKGROUND", "train"])
    other = Matrix(cfg)
    assert other.cell("MoCo", "SaliencySwap", "InfoNCE").data == {"boxes", "donor"}
    assert other.cell("MoCo", "CopyPaste", "InfoNCE").data == {"saliency", "graded", "donor"}


def test_what_collapses_alone(caplog: pytest.LogCaptureFixture) -> None:
    assert "SimCLR has no predictor" in MATRIX.caution("SimCLR", ["NegativeCosine"])
    assert MATRIX.caution("BYOL", ["NegativeCosine"]) == MATRIX.caution("MoCo", ["InfoNCE", "NegativeCosine"]) == ""
    assert MATRIX.caution("BYOL", ["CrossViewAlignment", "GradCAMAttention"]).startswith(
        "CrossViewAlignment and GradCAMAttention alone do not keep"
    )
    for losses in (["NegativeCosine"], ["NegativeCosine", "InfoNCE"]):
        caplog.clear()
        assert _build(_cfg("MoCo", [["RandomResizedCrop"]] * 2, losses)) == ""
        assert ("expect a collapse" in caplog.text) == (len(losses) == 1)


def test_other_settings_and_parts_of_projects() -> None:
    """A trunk without a level, and parts that a project brings: one that fits and one that cannot be made."""
    cfg = get_cfg()
    cfg.merge_from_list(["LOSS.CROSS_VIEW_ALIGNMENT.STAGES", [3], "LOSS.GRAD_CAM_ATTENTION.LAYER", "res3"])
    assert "but the method SimCLR has none; leave LOSS.GRAD_CAM_ATTENTION.LAYER at the default" in Matrix(cfg).problem(
        "SimCLR", [], ["GradCAMAttention"]
    )

    class Mine(MoCo):
        gives = frozenset({"negatives"})

    class Broken(Loss):
        node = "NT_XENT"

        @classmethod
        def from_config(cls, cfg: CfgNode) -> dict[str, Tensor]:
            raise ConfigError("LOSS.BROKEN.FILE is empty; expected a file")

    with METHOD_REGISTRY.temporarily("Mine", Mine), LOSS_REGISTRY.temporarily("Broken", Broken):
        matrix = Matrix(get_cfg())
        found = {cell.loss for cell in matrix.cells() if cell.method == "Mine" and cell.possible}
        assert found == {"InfoNCE", "NegativeCosine", "GradCAMAttention"}
        assert {cell.problem for cell in matrix.cells() if cell.loss == "Broken"} == {
            "LOSS.BROKEN.FILE is empty; expected a file"
        }
        assert "| Mine " in render(matrix, "markdown")


def test_csv_has_a_row_per_cell() -> None:
    rows = list(csv.DictReader(io.StringIO(render(MATRIX, "csv"))))
    assert len(rows) == len(CELLS)
    found = [Cell(row["method"], row["augmenter"], row["loss"], row["reason"]) for row in rows]
    assert found == [Cell(cell.method, cell.augmenter, cell.loss, cell.problem) for cell in CELLS]
    assert all((row["possible"] == "yes") == (not row["reason"]) for row in rows)


def test_document_is_what_the_tool_prints() -> None:
    words = [sys.executable, "tools/list_components.py", "--matrix", "--format", "markdown"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    text = (ROOT / "docs" / "mixtures.md").read_text()
    begin, end = "<!-- matrix: begin -->\n", "<!-- matrix: end -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)].strip()
    assert shown == printed.strip(), f"put the output of `{' '.join(words[1:])}` between the marks in docs/mixtures.md"
