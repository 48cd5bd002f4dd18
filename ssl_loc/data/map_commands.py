"""What ``tools/make_saliency.py`` does with its arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

from ssl_loc.config.node import parse_literal
from ssl_loc.data.catalog import Dataset
from ssl_loc.data.ground_truth import write_ground_truth_maps
from ssl_loc.data.map_making import write_estimated_maps
from ssl_loc.data.masks import check_dataset_maps
from ssl_loc.saliency.manifest import Manifest, write_manifest
from ssl_loc.saliency.runner import RunReport, shard_of
from ssl_loc.saliency.store import first_names
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.registry import Registry

MAP_SOURCE_REGISTRY = Registry("MAP_SOURCE")
MAP_SOURCE_REGISTRY.__doc__ = """
Where maps come from that no estimator makes from pixels: ``function(dataset or None, args) -> Manifest``.
"""
# What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130
# Which options a method honours; the first row is that of estimators. A source that is not named here takes all.
_ESTIMATORS = "estimators"
_HONOURED: dict[str, tuple[str, ...]] = {
    _ESTIMATORS: ("preset", "reduce", "overwrite", "options", "workers", "shard", "time_limit", "max_bad", "retry"),
    "precomputed": ("preset", "threshold", "estimator", "uses_labels", "version"),
    "ground_truth": ("reduce", "overwrite", "objects"),
}
_CHECKED = ("threshold", "allow")


class Done(NamedTuple):
    """Exit status, and what to print."""

    status: int
    text: str


def refuse_ignored(args: argparse.Namespace, default: Callable[[str], Any]) -> None:
    """Options that the command would not look at are mistakes.

    Args:
        args: of the command line.
        default: name of an option -> its value where it was not given.

    Raises:
        ConfigError: an option was given that neither the method nor ``--check`` honours.
    """
    row = args.method if args.method in MAP_SOURCE_REGISTRY else _ESTIMATORS
    if row not in _HONOURED:
        return
    mine = (*(_HONOURED[row] if args.method else ()), *(_CHECKED if args.check else ()))
    every = dict.fromkeys(name for names in (*_HONOURED.values(), _CHECKED) for name in names)
    ignored = [_flag(name) for name in every if name not in mine and getattr(args, name) != default(name)]
    if ignored:
        what = f"--method {args.method}" if args.method else "without --method, the command"
        takes = ", ".join(map(_flag, dict.fromkeys(mine))) or "none of the options that make or check maps"
        raise ConfigError(f"{what} has no use for {', '.join(ignored)}; it takes {takes} (see --help)")


def _flag(name: str) -> str:
    return "--set" if name == "options" else f"--{name.replace('_', '-')}"


def make(dataset: Dataset | None, args: argparse.Namespace) -> Done:
    """Write the maps (or only the manifest)."""
    if args.method in MAP_SOURCE_REGISTRY:
        return Done(0, _summary(MAP_SOURCE_REGISTRY.get(args.method)(dataset, args)))
    assert dataset is not None  # estimators need images
    manifest, report = write_estimated_maps(
        dataset,
        args.out,
        method=args.method,
        preset=args.preset,
        options=_options(args.options),
        reduce=args.reduce,
        processes=args.workers,
        time_limit=args.time_limit,
        shard=shard_of(args.shard),
        overwrite=args.overwrite,
        retry=args.retry,
        max_bad=args.max_bad,
    )
    return Done(INTERRUPTED if report.interrupted else 0, f"{_run(report)}\n{_summary(manifest)}")


def check(dataset: Dataset, args: argparse.Namespace) -> Done:
    """Every problem by name; status 1 if one is not allowed."""
    report = check_dataset_maps(dataset.records, args.out, args.threshold)
    found = report.found()
    lines = [f"{kind}: {key}" for kind, keys in found.items() for key in keys]
    counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in found.items()) or "every map is usable"
    lines.append(f"{report.checked} images checked: {counts}")
    return Done(int(any(kind not in args.allow for kind in found)), "\n".join(lines))


@MAP_SOURCE_REGISTRY.register(name="ground_truth")
def ground_truth(dataset: Dataset | None, args: argparse.Namespace) -> Manifest:
    """The dataset's own objects, masks or boxes: an oracle (uses labels)."""
    assert dataset is not None  # the tool opens it
    how = {"prefer": args.objects, "reduce": args.reduce, "overwrite": args.overwrite}
    return write_ground_truth_maps(dataset, args.out, **how)


@MAP_SOURCE_REGISTRY.register(name="precomputed")
def precomputed(dataset: Dataset | None, args: argparse.Namespace) -> Manifest:
    """Maps that another program made, e.g. Deep-USPS: only listed."""
    for name in ("estimator", "uses_labels"):
        if not getattr(args, name):
            raise ConfigError(f"--method precomputed needs --{name.replace('_', '-')}; see --help for examples")
    return write_manifest(
        args.out,
        estimator=args.estimator,
        preset=args.preset,
        uses_labels=args.uses_labels == "yes",
        version=args.version,
        threshold=args.threshold,
        progress=True,
    )


def _options(words: list[str]) -> dict[str, Any]:
    if len(words) % 2:
        raise ConfigError(f"--set got {len(words)} words ({' '.join(words)}); expected KEY VALUE pairs")
    return {key.lower(): parse_literal(text) for key, text in zip(words[::2], words[1::2], strict=True)}


def _run(report: RunReport) -> str:
    return ("interrupted: the same command goes on; " if report.interrupted else "") + report.line()


def _summary(manifest: Manifest) -> str:
    flags = [flag for entry in manifest.maps.values() for flag in entry.flags]
    counts = ", ".join(f"{flags.count(flag)} {flag}" for flag in sorted(set(flags))) or "none empty, full or unreadable"
    labels = "uses labels" if manifest.uses_labels else "no labels"
    text = f"{manifest.root}: {len(manifest.maps)} maps of {manifest.estimator} ({labels}); {counts}"
    if manifest.unreadable_images:
        names = first_names(list(manifest.unreadable_images))
        text += f"; {len(manifest.unreadable_images)} images cannot be read and have no map: {names}"
    return text
