"""A study: which pretrainings are compared with each other, and by what. Read from a yaml in configs/study."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ssl_loc.config.node import load_yaml
from ssl_loc.utils.errors import ConfigError, did_you_mean

# Where a row's maps come from; "none" for methods that read no map. "truth" are the scenes' own masks.
MAPS = ("none", "truth", "gs", "mc", "rbd", "fusion")
PROTOCOLS = ("grounding", "features", "backgrounds", "detector")


@dataclass(frozen=True)
class Row:
    """One pretraining: a yaml, the keys that differ from it, and the maps it reads.

    Attributes:
        label: as it stands in the table.
        config: path of a pretraining yaml, from the project's root.
        keys: config key -> value, changed in that yaml.
        maps: one of ``MAPS``.
        measure: subset of ``PROTOCOLS``.
        init: label of the row whose weights this one starts from (a second stage), or "".
    """

    label: str
    config: str
    keys: dict[str, object] = field(default_factory=dict)
    maps: str = "none"
    measure: tuple[str, ...] = ("grounding", "features", "backgrounds")
    init: str = ""

    @property
    def slug(self) -> str:
        """The label as a folder name."""
        return "".join(c if c.isalnum() else "_" for c in self.label.lower()).strip("_")


@dataclass(frozen=True)
class Study:
    """Rows that are compared, on procedural scenes drawn anew for each seed.

    Attributes:
        title: first line of the table.
        scenes: options of tools/make_scenes.py.
        labelled: the same for the second set, on which detectors are fine-tuned.
        keys: config keys changed in every row.
        detect: keys changed in the detection recipe.
        rows: in the order of the table.
        claims: sentences "A > B: column" that the table is asked.
    """

    title: str
    scenes: dict[str, int]
    labelled: dict[str, int]
    keys: dict[str, object]
    detect: dict[str, object]
    rows: tuple[Row, ...]
    claims: tuple[str, ...]

    def row(self, label: str) -> Row:
        """The row of that label."""
        for row in self.rows:
            if row.label == label:
                return row
        known = [row.label for row in self.rows]
        raise ConfigError(f"the study has no row '{label}'{did_you_mean(label, known)} Known: {', '.join(known)}")


def read_study(path: str | Path) -> Study:
    """Read a study from its yaml.

    Raises:
        ConfigError: an unknown or missing key, a row without a yaml, two rows of one name, unknown maps or protocol.
    """
    values = load_yaml(path)
    _check_names(values, {f.name.upper() for f in fields(Study)}, str(path))
    rows = tuple(_row(label, row, path) for label, row in _part(values, "ROWS", path).items())
    study = Study(
        title=str(values.get("TITLE", Path(path).stem)),
        scenes=_part(values, "SCENES", path),
        labelled=_part(values, "LABELLED", path),
        keys=_part(values, "KEYS", path),
        detect=_part(values, "DETECT", path),
        rows=rows,
        claims=tuple(values.get("CLAIMS", ())),
    )
    slugs = [row.slug for row in rows]
    if not rows or len(set(slugs)) < len(slugs):
        raise ConfigError(f"ROWS in {path}: expected at least one row, and names that differ in letters or digits")
    for row in rows:
        if row.init and study.row(row.init).init:
            raise ConfigError(f"ROWS.{row.label}.INIT in {path} is '{row.init}', which has an INIT itself")
    return study


def _part(values: dict[str, Any], key: str, path: str | Path) -> dict[str, Any]:
    part = values.get(key) or {}
    if not isinstance(part, dict):
        raise ConfigError(f"{key} in {path} is {part!r}; expected a mapping")
    return part


def _row(label: str, values: Any, path: str | Path) -> Row:
    where = f"ROWS.{label} in {path}"
    if not isinstance(values, dict) or "CONFIG" not in values:
        raise ConfigError(f"{where} is {values!r}; expected a mapping with CONFIG, the path of a pretraining yaml")
    _check_names(values, {f.name.upper() for f in fields(Row)} - {"LABEL"}, where)
    if "=" in str(label) or str(label).lower() == "random":
        raise ConfigError(f"{where}: a row cannot be called 'random' (the untrained network), nor have '=' in its name")
    if not isinstance(values.get("MEASURE", []), list):
        raise ConfigError(f"{where}: MEASURE is {values['MEASURE']!r}; expected a list of {', '.join(PROTOCOLS)}")
    given: dict[str, Any] = {key.lower(): tuple(v) if key == "MEASURE" else v for key, v in values.items()}
    given["keys"] = _part(values, "KEYS", where)
    row = Row(str(label), **given)
    if row.maps not in MAPS:
        raise ConfigError(f"{where}: MAPS is '{row.maps}'; choices: {', '.join(MAPS)}")
    if wrong := [name for name in row.measure if name not in PROTOCOLS]:
        raise ConfigError(f"{where}: MEASURE names {', '.join(wrong)}; choices: {', '.join(PROTOCOLS)}")
    return row


def _check_names(values: dict[str, Any], known: set[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where} has the key {key}{did_you_mean(key, sorted(known))} Known: {sorted(known)}")
