"""Every key that the torchvision engine says it honours is read by what it runs, and it runs no other key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.detection_recipe import CONFIGS, QUICK, tiny_recipe
from yacs.config import CfgNode

from ssl_loc.transfer.recipe import edited, load_recipe
from ssl_loc.transfer.run import random_trunk, run_transfer
from ssl_loc.transfer.torchvision_engine import engine  # noqa: F401  (imported before its copies are made to record)
from ssl_loc.transfer.torchvision_engine.honoured import CHOICES, HONOURED, check_recipe
from ssl_loc.utils.errors import ConfigError

# Files that look at a key without doing what it says.
CHECKS = ("honoured.py", "values.py", "recipe.py", "trunk_check.py")
# Keys that these files do act on, or that may have one value only, so that a check is all there is to do.
CHECKED_ONLY = {
    "VERSION",
    "MODEL.BACKBONE.NAME",
    "MODEL.ROI_BOX_HEAD.NAME",
    "MODEL.RESNETS.STRIDE_IN_1X1",
    "TRANSFER.ALLOW_NONSTANDARD",
}


class Recording:
    """A recipe that remembers which keys were read, and in which files."""

    def __init__(self, node: CfgNode, reads: dict[str, set[str]], above: str = "") -> None:
        self._node, self._reads, self._above = node, reads, above

    def __getattr__(self, name: str) -> Any:
        if name not in self._node:
            return getattr(self._node, name)  # methods, which see the plain recipe
        return self._read(name)

    def __getitem__(self, name: str) -> Any:
        return self._read(name)

    def __contains__(self, name: str) -> bool:
        return name in self._node

    def _read(self, name: str) -> Any:
        value = self._node[name]
        if isinstance(value, CfgNode):
            return Recording(value, self._reads, f"{self._above}{name}.")
        file = Path(sys._getframe(2).f_code.co_filename).name
        self._reads.setdefault(self._above + name, set()).add(file)
        return value


@pytest.fixture(scope="module")
def copies_record() -> Iterator[None]:
    """An adapted copy of a recording recipe records too, in the same place."""

    def edited_too(given: Any, changes: Any) -> Any:
        copied = edited(given, changes)
        return Recording(copied, given._reads) if isinstance(given, Recording) else copied

    with pytest.MonkeyPatch.context() as patch:
        for name, module in list(sys.modules.items()):
            if name.startswith("ssl_loc.transfer.") and getattr(module, "edited", None) is edited:
                patch.setattr(module, "edited", edited_too)
        yield


@pytest.fixture(scope="module")
def reads(copies_record: None, names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    out = tmp_path_factory.mktemp("recorded")
    both = ("TRANSFER.ENGINE", "torchvision", "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.MAX_ITER", 2)
    coco = ("DATASETS.TRAIN", (names["coco_train"],), "DATASETS.TEST", (names["coco_test"],))
    runs = (
        tiny_recipe("C4", names, out / "C4", *both, *coco, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "bitmask"),
        tiny_recipe(
            *("mask", names, out / "FPN", *both, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
            *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ),
    )
    merged: dict[str, set[str]] = {}
    # The trunk that a recipe without TRANSFER.BACKBONE describes.
    random_trunk(Recording(load_recipe(CONFIGS / QUICK["C4"]), merged))  # type: ignore[arg-type]
    for recipe in runs:
        assert run_transfer(Recording(recipe, merged), "random") is not None  # type: ignore[arg-type]
    return merged


def test_every_honoured_key_is_read_by_more_than_a_check(reads: dict[str, set[str]]) -> None:
    acted_on = {key for key, files in reads.items() if files - set(CHECKS)}
    one_value = {key for key, choices in CHOICES.items() if len(choices) == 1}
    assert HONOURED - acted_on - one_value - CHECKED_ONLY == set()
    # The exceptions are still exceptions.
    assert CHECKED_ONLY - HONOURED == set() and CHECKED_ONLY & acted_on == set()


def test_no_key_is_read_that_is_not_honoured(reads: dict[str, set[str]]) -> None:
    acted_on = {key: files - set(CHECKS) for key, files in reads.items() if files - set(CHECKS)}
    assert {key: files for key, files in acted_on.items() if key not in HONOURED} == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RESNETS.STRIDE_IN_1X1", True),
        ("MODEL.ROI_BOX_HEAD.NAME", "MyHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead"),
        ("MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpn_backbone"),
    ],
)
def test_keys_of_one_value_refuse_others(key: str, value: Any, names: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        check_recipe(tiny_recipe("mask", names, tmp_path, key, value))
