"""Published numbers of presets belong to configs that exist, and agree with what those say themselves."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import yaml

from ssl_loc.evaluation import EVALUATOR_REGISTRY

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRESETS = sorted((CONFIGS / "eval").glob("*.yaml"))
# Labels that are no config of ours: weights of other origin.
FOREIGN = {"supervised", "moco", "crop", "cast"}


def header(config: Path) -> str:
    """Comments on top of a yaml as one line of text."""
    lines = config.read_text().splitlines()
    top = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return " ".join(line.lstrip("# ") for line in top)


def test_one_page_of_presets_is_there() -> None:
    names = {path.stem for path in PRESETS}
    wanted = {"voc07_svm_cast", "voc07_svm_virtex_v09", "voc07_svm_virtex_latest", "places205_dilo", "knn", "knn_grid"}
    wanted |= {f"linear_{name}" for name in ("imagenet_cast", "imagenet_moco", "imagenet_dilo", "inat2018_cvsa")}
    assert wanted <= names


@pytest.mark.parametrize("preset", [p for p in PRESETS if "PUBLISHED" in p.read_text()], ids=lambda p: p.stem)
def test_published_rows_are_those_of_the_configs(preset: Path) -> None:
    # Two folders may have a config of one name: the number is that of one of them.
    headers: dict[str, str] = {}
    for path in CONFIGS.glob("*/*.yaml"):
        if path.parent.name != "eval":
            headers[path.stem] = headers.get(path.stem, "") + header(path)
    rows = yaml.safe_load(preset.read_text())["PUBLISHED"]
    assert rows and len({tuple(row[:3]) for row in rows}) == len(rows), "a number twice"
    for label, protocol, _, value, source in rows:
        assert protocol in EVALUATOR_REGISTRY.names() and source
        assert label in headers or label in FOREIGN, f"{label} is no config"
        # Only the SVM and linear rows of methods are quoted in the headers of their configs, trailing zeros left out.
        if protocol in ("svm", "linear"):
            numbers = {float(number) for number in re.findall(r"\d+\.\d+", headers[label])}
            assert value in numbers, f"{label}: {value} is not among {sorted(numbers)} of its header"
