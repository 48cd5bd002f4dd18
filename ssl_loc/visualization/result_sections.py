"""Sections of a report about evaluations: all numbers beside the published ones, what they say, how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_loc.evaluation.comparison import left_out
from ssl_loc.evaluation.results import data_name, protocol_name, spread_of
from ssl_loc.evaluation.settings import protocol_names
from ssl_loc.visualization.bars import Bars, bars_figures, grouped_bars_figure
from ssl_loc.visualization.density import density_figure
from ssl_loc.visualization.labels import number_repeats, short_data_names
from ssl_loc.visualization.metric_names import BASELINES, HEADLINES, SETTINGS, decimals, metric_name, sense
from ssl_loc.visualization.report import Gallery, Picture, Section, Spread, Table, build_report
from ssl_loc.visualization.style import method_colors

HTML = "comparison.html"
# Per-class numbers stay in the json: 80 columns are no table.
PER_CLASS = "AP-"
# Lists longer than this are data for drawing (one number per image), not settings.
_LONG = 24
Results = Sequence[dict[str, Any]]


def write_comparison_html(results: Results, out: str | Path, title: str = "Evaluation") -> Path:
    """Write OUT/comparison.html, everything that is known about ``results`` in one file, and return its path."""
    return build_report(title, result_sections(results), Path(out) / HTML, ", ".join(_files(results)))


def result_sections(results: Results) -> list[Section]:
    """All parts, what one asks first on top; those without content are left out by the report."""
    return [
        glance_section(results),
        numbers_section(results),
        density_section(results),
        backgrounds_section(results),
        provenance_section(results),
    ]


def glance_section(results: Results) -> Section:
    """The headline number of every protocol, a row per weights; with several weights also as bars."""
    groups, names = by_protocol(results), weight_names(results)
    if len(results) < 2:
        return Section("At a glance")
    columns, best, places, bars = ["weights"], {}, {}, []
    rows: dict[str, list[Any]] = {name: [name] for name in names.values()}
    for title, part in _titled(groups, brief=True):
        metric = headline(part)
        if metric is None:
            continue
        columns.append(f"{title}: {metric_name(metric)}")
        best[columns[-1]] = sense(metric)
        places[columns[-1]] = decimals(metric)
        found = {names[_key(r)]: measured(r, metric) for r in part}
        for name, row in rows.items():
            row.append(found.get(name))
        bars.append(
            Bars(title, metric_name(metric), found, chance(part), "less is better" if sense(metric) == "min" else "")
        )
    table = Table(
        columns,
        list(rows.values()),
        best={name: s for name, s in best.items() if s},
        places={name: n for name, n in places.items() if n is not None},
    )
    text = "The main number of every protocol; the others stand below."
    if not any(isinstance(cell, Spread) for row in rows.values() for cell in row):
        text += " One seed each: a difference below the spread over seeds means nothing (--seeds shows it)."
    if len(rows) < 2:
        return Section("At a glance", text, [table])
    caption = "Dotted: chance. " if any(panel.chance for panel in bars) else ""
    caption += (
        "Whiskers: deviation over seeds." if any(isinstance(c, Spread) for row in rows.values() for c in row) else ""
    )
    drawn = bars_figures(bars, weight_colors(results))
    pictures = [Picture(fig, alt=f"{panel.title}: {panel.unit}") for fig, panel in zip(drawn, bars, strict=True)]
    return Section("At a glance", text, [table], [Gallery(pictures, caption)])


def numbers_section(results: Results) -> Section:
    """One table per protocol, version, engine and dataset, the published numbers beside the measured ones."""
    tables = [_numbers_table(part, title) for title, part in _titled(by_protocol(results), version=True)]
    text = (
        "Best value of each column in bold. Differences below the spread over seeds mean nothing: repeat with other "
        "seeds."
    )
    if any(table.muted for table in tables):
        text += " Rows in italics are published numbers of the same protocol; they take no part in the comparison."
    return Section("Numbers", text if tables else "", tables)


def _numbers_table(part: Results, title: str) -> Table:
    metrics = [m for m in dict.fromkeys(m for r in part for m in r["metrics"]) if PER_CLASS not in m]
    baselines = _baselines(part)
    metrics = [m for m in metrics if m not in baselines]
    published = [r["details"].get("published") or {} for r in part]
    seeds = [len(r["details"].get("seeds") or [r.get("seed", 0)]) for r in part]
    several = max(seeds, default=1) > 1
    columns = ["weights", *(["seeds"] if several else [])]
    rows: list[list[Any]] = [
        [r["details"]["label"], *([n] if several else [])] for r, n in zip(part, seeds, strict=True)
    ]
    elsewhere = _references(part)
    quoted: list[list[Any]] = [[name, *([None] if several else [])] for name in elsewhere]
    best: dict[str, str] = {}
    places: dict[str, int] = {}
    for metric in metrics:
        name = metric_name(metric)
        columns.append(name)
        if (digits := decimals(metric)) is not None:
            places |= {name: digits, f"{name}, published": digits}
        if sense(metric):
            best[name] = sense(metric)
        known = any(metric in p for p in published)
        columns += [f"{name}, published"] if known else []
        for row, r, p in zip(rows, part, published, strict=True):
            row.append(measured(r, metric))
            row += [p.get(metric, {}).get("value")] if known else []
        for row, values in zip(quoted, elsewhere.values(), strict=True):
            row.append(values.get(metric))
            row += [None] if known else []
    sources = dict.fromkeys(_sources(part))
    caption = ". ".join([title + (f" (published: {', '.join(sources)})" if sources else ""), *left_out(part)])
    if baselines:
        levels = (f"{metric_name(m)}: {_level(value, m)}" for m, value in baselines.items())
        caption += f". To compare with, the same for every model: {'; '.join(levels)}"
    muted = range(len(rows), len(rows) + len(quoted))
    return Table(columns, [*rows, *quoted], caption, best, muted=muted, places=places)


def _baselines(part: Results) -> dict[str, float]:
    """Levels that the data give, where all results agree on them: one number, no column."""
    found: dict[str, float] = {}
    for metric in BASELINES:
        values = {r["metrics"].get(metric) for r in part}
        if len(values) == 1 and (value := values.pop()) is not None:
            found[metric] = float(value)
    return found


def _level(value: float, metric: str) -> str:
    return format(value, f".{3 if (digits := decimals(metric)) is None else digits}f")


def _references(part: Results) -> dict[str, dict[str, float]]:
    """Published rows of weights that are not measured here: "label (published)" -> metric -> value."""
    own = {r["details"]["label"].lower() for r in part}
    found: dict[str, dict[str, float]] = {}
    for r in part:
        for label, metric, value, _ in r["details"].get("references") or []:
            if str(label).lower() not in own:
                found.setdefault(f"{label} (published)", {})[metric] = float(value)
    return found


def _sources(part: Results) -> list[str]:
    rows = [source for r in part for *_, source in r["details"].get("references") or []]
    return [
        str(s) for s in [*(p["source"] for r in part for p in (r["details"].get("published") or {}).values()), *rows]
    ]


def density_section(results: Results) -> Section:
    if not any(r["protocol"] == "grounding" for r in results):
        return Section("Grounding density")
    caption = (
        "Density of the IoU over images (Gaussian kernel, Scott's bandwidth, reflected at 0 and 1). Mass further "
        "right: the Grad-CAM covers the object better."
    )
    return Section("Grounding density", figures=[Picture(density_figure(results, weight_colors(results)), caption)])


def backgrounds_section(results: Results) -> Section:
    """Bars of the settings of the Backgrounds Challenge, per dataset."""
    figures, names, colors = [], weight_names(results), weight_colors(results)
    for title, part in _titled(by_protocol([r for r in results if r["protocol"] == "backgrounds"])):
        settings = [s for s in SETTINGS if any(s in r["metrics"] for r in part)]
        values = {names[_key(r)]: [measured(r, s) for s in settings] for r in part}
        words = [metric_name(s) for s in settings]
        caption = (
            f"Backgrounds Challenge, pictures: {title.split(' on ', 1)[-1]}. The object is the same in the first "
            "settings, what is behind it changes: the further mixed-rand falls below mixed-same (BG-gap), the more the "
            "answer hangs on the background. Without the object (no-FG, only-BG) a good answer can come from the "
            "background alone."
        )
        figures.append(Picture(grouped_bars_figure(words, values, colors, chance(part), "top-1 %"), caption, wide=True))
    return Section("Backgrounds", figures=figures)


def provenance_section(results: Results) -> Section:
    """Which weights; behind folds the settings of their protocols, and the environments."""
    names = weight_names(results)
    groups: dict[str, list[dict[str, Any]]] = {}
    for r in results:
        groups.setdefault(names[_key(r)], []).append(r)
    rows = [[name, *_origin(part)] for name, part in groups.items()]
    heads = ["weights", "digest", "iteration", "masks in training", "labels in training", "protocols", "made (UTC)"]
    kept = [i for i in range(len(heads)) if any(row[i] not in (None, "") for row in rows)]
    table = Table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows])
    folded = {f"{name}: settings and counts": "\n".join(map(_settings, part)) for name, part in groups.items()}
    environments: dict[str, list[str]] = {}
    for r in results:
        if environment := r["details"].get("environment"):
            text = "\n".join(f"{key}: {value}" for key, value in environment.items())
            environments.setdefault(text, []).append(names[_key(r)])
    for text, labels in environments.items():
        who = "" if len(environments) == 1 else f" of {', '.join(dict.fromkeys(labels))}"
        folded[f"Environment{who}"] = text
    return Section("How the numbers were made", tables=[table] if rows else [], folded=folded)


def _origin(part: Results) -> list[Any]:
    """Where one model's weights come from, and what was measured when."""
    first = part[0]["details"]
    made = sorted(str(r["details"].get("made", ""))[:16].replace("T", " ") for r in part)
    protocols = ", ".join(dict.fromkeys(map(protocol_name, part)))
    source = [first.get("iteration"), first.get("mask_source"), first.get("uses_labels")]
    return [part[0].get("digest"), *source, protocols, made[-1]]


def _settings(result: dict[str, Any]) -> str:
    """What is no number per image and no environment, as indented json."""
    head = {key: result.get(key) for key in ("weights", "digest", "seed", "file")}
    return json.dumps({**head, **_brief(result["details"])}, indent=1, ensure_ascii=False, default=str)


def _brief(value: Any) -> Any:
    """Without the environment, and with long lists as their length."""
    if isinstance(value, dict):
        return {key: _brief(item) for key, item in value.items() if key != "environment"}
    if isinstance(value, list) and (len(value) > _LONG or any(isinstance(item, list) and item for item in value)):
        return f"list of {len(value)}"
    return value


def by_protocol(results: Results) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(protocol with version and options that differ, dataset) -> results: what may share a table."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r, name in zip(results, protocol_names(results), strict=True):
        groups.setdefault((name, data_name(r)), []).append(r)
    return groups


def _titled(
    groups: dict[tuple[str, str], list[dict[str, Any]]], version: bool = False, brief: bool = False
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Groups with names for people: "knn on scenes"; with ``version`` "knn v1 on scenes"; ``brief`` leaves the dataset
    out where a protocol has only one."""
    short = short_data_names([data for _, data in groups])
    words = [
        protocol if version else part[0]["protocol"] + protocol.removeprefix(protocol_name(part[0]))
        for (protocol, _), part in groups.items()
    ]
    names = [
        word if brief and words.count(word) == 1 else f"{word} on {short[data]}"
        for word, (_, data) in zip(words, groups, strict=True)
    ]
    return list(zip(number_repeats(names), groups.values(), strict=True))


def weight_colors(results: Results) -> dict[str, str]:
    """Name -> colour, the same in every picture about these results."""
    return method_colors(list(weight_names(results).values()))


def weight_names(results: Results) -> dict[tuple[str, str], str]:
    """(label, digest) -> a distinct name."""
    keys = list(dict.fromkeys(map(_key, results)))
    return dict(zip(keys, number_repeats([label for label, _ in keys]), strict=True))


def _key(result: dict[str, Any]) -> tuple[str, str]:
    return result["details"]["label"], result.get("digest", "")


def measured(result: dict[str, Any], metric: str) -> Any:
    """A number, with its deviation where there were several seeds; None where it was not measured."""
    value, std = result["metrics"].get(metric), spread_of(result, metric)
    return value if value is None or std is None else Spread(float(value), std)


def headline(part: Results) -> str | None:
    """The main metric of a protocol, where one of the results has it; else the first one."""
    metrics = list(dict.fromkeys(m for r in part for m in r["metrics"]))
    return next((m for m in HEADLINES if m in metrics), metrics[0] if metrics else None)


def chance(part: Results) -> float | None:
    """Accuracy of a guess in percent, where the results agree on it."""
    levels = {round(float(r["details"]["chance"]), 3) for r in part if "chance" in r["details"]}
    return levels.pop() if len(levels) == 1 else None


def _files(results: Results) -> list[str]:
    return list(dict.fromkeys(str(Path(r["file"]).parent) for r in results if "file" in r))
