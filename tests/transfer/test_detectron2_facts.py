"""Our name maps against detectron2's own names and shapes, written down so that this runs without detectron2."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet18, resnet50

from ssl_loc.transfer.detector_names import detector_from_detectron2, detector_to_detectron2
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import architecture
from ssl_loc.transfer.torchvision_engine.model import build_detector
from ssl_loc.transfer.weights import FRESH_DETECTRON2, detectron2_key, trunk_only

HERE, WHY = Detectron2Engine().available()


def _record() -> ModuleType:
    spec = importlib.util.spec_from_file_location("record", Path(__file__).parent / "facts" / "record.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


record = _record()
CASES = list(record.CASES)
# Tensors of the whole detector, counted by hand for C4_R50: trunk 318, extra norm 5, RPN 3 layers x 2, predictor 2 x 2.
COUNTS = {"C4_R18": 120 + 15, "C4_R50": 318 + 15, "FPN_R18": 120 + 8 * 6 + 6 + 4 + 4}
COUNTS |= {"FPN_R50_mask": 318 + 8 * 6 + 6 + 4 + 4 + 12, "C4_R50_mask": 318 + 15 + 4}


def shapes(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in state.items()}


@pytest.mark.parametrize("case", CASES)
def test_every_trunk_tensor_has_its_place(case: str) -> None:
    """In torchvision's own networks, not ours: the map takes what anybody's ResNet holds."""
    facts = record.stored_tensors(case)
    assert len(facts) == COUNTS[case]
    arch, depth = case.split("_")[0], record.CASES[case][2]
    with torch.device("meta"):
        trunk = trunk_only({18: resnet18, 50: resnet50}[depth]().state_dict())
    placed = {detectron2_key(key, arch): list(value.shape) for key, value in trunk.items()}
    assert len(placed) == len(trunk) == {18: 120, 50: 318}[depth]
    assert {key: facts.get(key) for key in placed} == placed
    # What is left are heads that may start at random, and nothing else.
    fresh = re.compile("|".join(FRESH_DETECTRON2[arch]))
    assert [key for key in facts if key not in placed and not fresh.match(key)] == []


@pytest.mark.parametrize("case", CASES)
def test_the_whole_detector_maps_onto_exactly_that_list(case: str) -> None:
    facts = record.stored_tensors(case)
    recipe, description = record.recipe_of(case)
    arch = architecture(recipe)
    with torch.device("meta"):
        ours = build_detector(recipe, description).state_dict()
    assert shapes(detector_to_detectron2(ours, arch)) == facts
    theirs = {key: torch.empty(shape, device="meta") for key, shape in facts.items()}
    assert shapes(detector_from_detectron2(theirs, arch)) == shapes(ours)


@pytest.mark.parametrize("case", CASES)
def test_the_facts_are_small(case: str) -> None:
    assert (Path(record.FOLDER) / f"detectron2_{case}.json").stat().st_size < 60_000


@pytest.mark.detectron2
@pytest.mark.skipif(not HERE, reason=WHY)
@pytest.mark.parametrize("case", CASES)
def test_the_facts_are_still_true(case: str) -> None:
    assert record.live_tensors(case) == record.stored_tensors(case)
