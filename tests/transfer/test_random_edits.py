"""Whatever is written into a recipe, it runs or a sentence names the key; what runs means the same on both engines."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest
import yaml
from helpers.detection_data import draw_detection_data
from helpers.detection_recipe import tiny_recipe
from helpers.recipe_edits import Edit, edits, plausible_edits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssl_loc.config.node import plain_values
from ssl_loc.transfer.detectron2_engine import Detectron2Engine
from ssl_loc.transfer.recipe import load_recipe
from ssl_loc.transfer.run import run_transfer
from ssl_loc.transfer.torchvision_engine.honoured import check_recipe
from ssl_loc.utils.errors import UserError

HERE, WHY = Detectron2Engine().available()
# SSL_LOC_RANDOM_EDITS=1000 is the long version.
EXAMPLES = int(os.environ.get("SSL_LOC_RANDOM_EDITS", "60"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 100,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
# Seconds; a second is the rule, but the machine may be busy.
LIMIT = 120
KINDS = ("C4", "FPN", "mask", "C4 mask")
CONFIGS = Path(__file__).parents[2] / "configs" / "detection"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def detection_names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return draw_detection_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bases(detection_names: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Tiny recipes as nested dicts, by kind."""
    folder = tmp_path_factory.mktemp("edits")
    return {kind: tiny_recipe(kind, detection_names, folder, *ONE_STEP).to_dict() for kind in KINDS}


ONE_STEP = ("SOLVER.MAX_ITER", 1, "SOLVER.STEPS", "()", "SOLVER.CHECKPOINT_PERIOD", 0, "TEST.PRECISE_BN.NUM_ITER", 1)


def with_edits(base: dict, changes: list[Edit], folder: Path) -> Path:
    """A yaml as a user would have written it."""
    nested = copy.deepcopy(base) | {"OUTPUT_DIR": mkdtemp(dir=folder)}
    for key, value in changes:
        *parents, last = key.split(".")
        node = nested
        for name in parents:
            node = node[name]
        node[last] = plain_values(value)
    path = folder / "edited.yaml"
    path.write_text(yaml.safe_dump(nested))
    return path


def outcome(path: Path, changes: list[Edit], engine: str = "torchvision") -> str:
    """ "ran" or "refused"; anything else is raised."""
    try:
        with limited(LIMIT):
            run_transfer(load_recipe(path), "random", engine)
    except UserError as error:
        sentence = str(error)
        assert any(named(key, value, sentence) for key, value in changes), f"{changes} -> names no key: {sentence}"
        assert "\n" not in sentence
        return "refused"
    return "ran"


def named(key: str, value: object, sentence: str) -> bool:
    """The sentence names the key; that a dataset is not there, it says with the dataset's name."""
    names = value if isinstance(value, tuple) else (value,)
    return key in sentence or (key.startswith("DATASETS.") and any(f"dataset {name} " in sentence for name in names))


@given(kind=st.sampled_from(KINDS), changes=edits())
@SETTINGS
def test_random_edits_run_or_are_refused_in_a_sentence(
    kind: str, changes: list[Edit], bases: dict[str, dict], tmp_path: Path
) -> None:
    outcome(with_edits(bases[kind], changes, tmp_path), changes)


@pytest.mark.detectron2
@pytest.mark.skipif(not HERE, reason=WHY)
@given(kind=st.sampled_from(KINDS), changes=edits())
@settings(SETTINGS, max_examples=max(20, EXAMPLES // 3))
def test_random_edits_run_or_are_refused_in_a_sentence_by_detectron2(
    kind: str, changes: list[Edit], bases: dict[str, dict], tmp_path: Path
) -> None:
    outcome(with_edits(bases[kind], changes, tmp_path), changes, "detectron2")


# The engines' samplers draw differently, so all candidates are sampled; the scene has three classes; data, weights and
# machine are the test's own.
PAIRED = {
    "MODEL.ROI_HEADS.NUM_CLASSES": [3, 5],
    "SOLVER.MAX_ITER": [20, 30],
    "SOLVER.STEPS": [(), (1,), (10,), (5, 9), (10, 19), (10, 25)],
    "SOLVER.WARMUP_ITERS": [0, 1, 5, 100],
    "SOLVER.IMS_PER_BATCH": [2, 3, 4],
    "SEED": [0, 7, 12345],
    "MODEL.PIXEL_MEAN": [[123.675, 116.28, 103.53], [103.53, 116.28, 123.675], [0, 0, 0]],
    **dict.fromkeys(("VERSION", "OUTPUT_DIR", "MODEL.DEVICE", "DATASETS.TRAIN", "DATASETS.TEST"), ()),
    **dict.fromkeys(
        ("TRANSFER.BACKBONE.KWARGS", "TRANSFER.BACKBONE.NAME", "TRANSFER.ENGINE", "MODEL.RESNETS.DEPTH"), ()
    ),
}
NARROW = {"depth": 18, "width": 8, "layers": [1, 1, 1, 1]}
TINY = {
    "C4": {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7},
    "FPN": {"MODEL.FPN.OUT_CHANNELS": 16, "MODEL.ROI_BOX_HEAD.FC_DIM": 16, "MODEL.FPN.NORM": "BN"},
}
TINY["C4 mask"] = {**TINY["C4"], "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}
TINY["mask"] = {**TINY["FPN"], "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.CONV_DIM": 8}


def differences(kind: str, changes: list[Edit], names: dict[str, str], folder: Path) -> list[str] | None:
    """What the engines do differently with the edited recipe; None if one refuses it in a sentence."""
    from helpers.engine_differences import data_differences, model_differences
    from helpers.engine_pair import EnginePair

    keys = {"MODEL.RESNETS.RES2_OUT_CHANNELS": 8, "SOLVER.MAX_ITER": 20, "SOLVER.STEPS": (10, 15)}
    keys |= {"INPUT.MIN_SIZE_TRAIN": (64, 80), "INPUT.MIN_SIZE_TEST": 64, "SOLVER.IMS_PER_BATCH": 2}
    keys |= {"DATALOADER.NUM_WORKERS": 0, "SOLVER.WARMUP_ITERS": 3, **TINY[kind], **dict(changes)}
    arch = "C4" if kind.startswith("C4") else "FPN"
    try:
        check_recipe(load_recipe(CONFIGS / f"Base-RCNN-{arch}.yaml", [str(w) for pair in keys.items() for w in pair]))
        pair = EnginePair(arch, NARROW, keys, folder, ((99, 131), (115, 83)))
    except UserError as error:
        assert any(named(key, value, str(error)) for key, value in changes), f"{changes} -> names no key: {error}"
        return None
    return model_differences(pair) + data_differences(pair.recipe, names)


@pytest.mark.detectron2
@pytest.mark.skipif(not HERE, reason=WHY)
@given(kind=st.sampled_from(KINDS), changes=plausible_edits(PAIRED))
@settings(SETTINGS, max_examples=max(20, EXAMPLES // 3))
def test_what_both_engines_accept_means_the_same(
    kind: str, changes: list[Edit], detection_names: dict[str, str], tmp_path: Path
) -> None:
    assert not differences(kind, changes, detection_names, tmp_path)
