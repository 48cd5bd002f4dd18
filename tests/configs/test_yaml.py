"""Does every yaml build?"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssl_loc.components import setup_cfg
from ssl_loc.data.augmenters.build import build_pipelines
from ssl_loc.losses import build_losses
from ssl_loc.modeling import build_method

ROOT = Path(__file__).resolve().parents[2]
# Folders of configs/ whose files are no pretraining configs; each has its own tests.
OTHERS = {"detection", "eval", "study"}
PRETRAIN = sorted(
    p for p in (ROOT / "configs").rglob("*.yaml") if not OTHERS & set(p.relative_to(ROOT).parts)
) + sorted((ROOT / "projects").glob("*/*.yaml"))
DETECTION = sorted((ROOT / "configs" / "detection").rglob("*.yaml"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PRETRAIN, ids=_name)
def test_pretraining_yaml_builds(path: Path) -> None:
    """Every key has an owner, and method, losses and pipelines can be made (weights on the meta device: no memory)."""
    cfg = setup_cfg(str(path))
    with torch.device("meta"):
        method = build_method(cfg)
        build_losses(cfg)
    assert sum(p.numel() for p in method.trunk().parameters()) > 0
    assert len(build_pipelines(cfg)) == len(cfg.AUGMENT.VIEWS)


@pytest.mark.parametrize("path", DETECTION, ids=_name)
def test_detection_recipe_reads(path: Path) -> None:
    from ssl_loc.transfer.recipe import load_recipe

    recipe = load_recipe(str(path), [])
    assert recipe.VERSION == 2


@pytest.mark.parametrize("path", PRETRAIN + DETECTION, ids=_name)
def test_yaml_says_what_it_is(path: Path) -> None:
    """The head of a config says what it reproduces or is for."""
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ") and len(first) > 20
