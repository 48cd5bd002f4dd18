"""Runs protocols over weights and seeds; writes one json per protocol and weights; skips what is there already."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ssl_loc.config import CfgNode, construct
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY, Evaluator
from ssl_loc.evaluation.comparison import comparison, terminal_table, write_comparison
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.fingerprint import fingerprint
from ssl_loc.evaluation.options import default_options
from ssl_loc.evaluation.published import check_published, quoted
from ssl_loc.evaluation.results import (
    EVEN,
    data_name,
    load_result,
    protocol_name,
    read_results,
    result_path,
    seed_path,
)
from ssl_loc.evaluation.settings import settings, settings_suffix
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.env import collect_env_dict
from ssl_loc.utils.errors import DataError, UserError
from ssl_loc.utils.file_io import write_json
from ssl_loc.utils.seeds import mean_std

__all__ = [
    "comparison",
    "data_name",
    "protocol_name",
    "read_results",
    "result_path",
    "run_protocols",
    "terminal_table",
    "write_comparison",
]

logger = logging.getLogger(__name__)
# Below OUT: unfinished work of long protocols, and their finished parts.
WORK = "work"


def run_protocols(
    names: Sequence[str],
    weights: Sequence[Weights],
    data: EvalData,
    options: CfgNode,
    out: str | Path,
    seeds: Sequence[int] = (),
    again: bool = False,
) -> list[Result]:
    """Every protocol on every weights; each result is written to OUT/results as soon as it is there.

    A result that lies there already and depends on the same things (see fingerprint.py) is taken as it is, and so is
    each single seed of one; ``again`` computes everything anew.

    Args:
        seeds: seeds to average over; none takes ``options.SEED``. Protocols without chance in them run once.

    Raises:
        UserError: a protocol cannot use these weights or this data; before the first protocol runs.
    """
    check_published(options)
    seeds = list(seeds) or [options.SEED]
    if again:
        shutil.rmtree(Path(out) / WORK, ignore_errors=True)
    data = replace(data, work=data.work or str(Path(out) / WORK), out=data.out or str(out))
    # One instance per protocol and seed for all weights: some compare them.
    made = {(name, seed): build_evaluator(name, options, seed) for name in names for seed in seeds}
    check_pairings([(name, made[name, seeds[0]]) for name in names], weights, data)
    environment = collect_env_dict()
    results = []
    for w in weights:
        for name in names:
            evaluator = made[name, seeds[0]]
            mark = fingerprint(name, evaluator.version, w, data, options)
            own = {seed: made[name, seed] for seed in (seeds if getattr(evaluator, "seeded", True) else seeds[:1])}
            path = result_path(out, name, w.label, data.spec, own_suffix(name, data, options))
            anew = again or not getattr(evaluator, "resumable", True)
            found = None if anew else stored(path, mark, list(own))
            if found is not None:
                logger.info("%s of %s is there already (%s); --again computes it anew", name, w.label, path)
                results.append(refresh(found, path, describe(w, data, options, name)))
                continue
            common = {**describe(w, data, options, name), "fingerprint": mark, "environment": environment}
            results.append(run_seeds(own, w, data, path, common, anew))
        w.cache.clear()
    return results


def own_suffix(name: str, data: EvalData, options: CfgNode) -> str:
    """What keeps results of other options apart in their files' names."""
    plain = settings(name, EvalData(""), default_options())
    return settings_suffix(settings(name, data, options), plain, data.limit)


def build_evaluator(name: str, options: CfgNode, seed: int) -> Evaluator:
    """A protocol with its options and ``SEED`` set to ``seed``."""
    changed = options.clone()
    changed.defrost()
    changed.SEED = seed
    changed.freeze()
    return construct(EVALUATOR_REGISTRY.get(name), changed)


def run_seeds(
    evaluators: dict[int, Evaluator],
    weights: Weights,
    data: EvalData,
    path: Path,
    common: dict[str, Any],
    again: bool = False,
) -> Result:
    """One protocol (seed -> its evaluator) on one weights, averaged over the seeds and written to ``path``."""
    singles = []
    for seed, evaluator in evaluators.items():
        own = seed_path(path, seed)
        single = None if again or len(evaluators) == 1 else stored(own, common["fingerprint"], [seed])
        if single is None:
            single = evaluator(weights, data)
            single.weights, single.digest, single.seed = weights.path, weights.digest, seed
            made = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            single.details = {**common, **single.details, "seeds": [seed], "made": made}
            if len(evaluators) > 1:
                write_json(own, single.to_dict())
        singles.append(single)
    result = combine(singles)
    write_json(path, result.to_dict())
    logger.info("wrote %s", path)
    return result


def combine(singles: Sequence[Result]) -> Result:
    """Means over seeds; details are those of the first seed, with "std" (sample deviations) and "per_seed".

    With one seed every deviation is None: a single run has no spread.
    """
    first = singles[0]
    metrics, deviations = {}, {}
    for metric in first.metrics:
        mean, std = mean_std([single.metrics[metric] for single in singles])
        metrics[metric], deviations[metric] = mean, None if math.isnan(std) else std
    details = {**first.details, "std": deviations, "seeds": [single.seed for single in singles]}
    if len(singles) > 1:
        details["per_seed"] = [single.metrics for single in singles]
    return replace(first, metrics=metrics, details=details)


def stored(path: Path, mark: str, seeds: Sequence[int]) -> Result | None:
    """The result at ``path`` if it was made of the same things with the same seeds; a broken file is made again."""
    if not path.is_file():
        return None
    try:
        result = load_result(path)
    except DataError as error:
        logger.warning("%s; it is made anew", error)
        return None
    same = result.details.get("fingerprint") == mark and result.details.get("seeds") == list(seeds)
    if not same:
        logger.warning("%s is of other weights, images, seeds or versions; it is made anew and replaced", path)
    return result if same else None


def refresh(found: Result, path: Path, about: dict[str, Any]) -> Result:
    """A stored result with the published numbers of today's options, on disk too."""
    today = {key: about[key] for key in ("published", "references", "published_left_out")}
    if any(found.details.get(key) != value for key, value in today.items()):
        found = replace(found, details={**found.details, **today})
        write_json(path, found.to_dict())
    return found


def describe(w: Weights, data: EvalData, options: CfgNode, protocol: str) -> dict[str, Any]:
    """What every result says about its weights and data, whatever the protocol."""
    return {
        "label": w.label,
        "data": data.spec,
        "masks": data.masks,
        "limit": data.limit,
        **({"sample": EVEN} if data.limit else {}),
        "kind": w.kind,
        # Of another code's checkpoint: family, where the trunk was, what was left out, and how pixels are prepared.
        "source": w.meta.get("source"),
        "pixel_mean": w.meta.get("pixel_mean"),
        "pixel_std": w.meta.get("pixel_std"),
        "iteration": w.meta.get("iteration"),
        # Masks that saw labels make the pretraining no longer self-supervised.
        "mask_source": w.meta.get("mask_source"),
        "uses_labels": w.meta.get("uses_labels"),
        "chosen_options": settings(protocol, data, options),
        **quoted(options, data, w.label, protocol),
    }


def check_pairings(evaluators: Sequence[tuple[str, Evaluator]], weights: Sequence[Weights], data: EvalData) -> None:
    """Ask every protocol about every weights and about the data: an hour's run must not end in a refusal."""
    for name, evaluator in evaluators:
        try:
            for w in weights:
                evaluator.check_weights(w)
            evaluator.check_data(data)
        except UserError as error:
            raise type(error)(f"--protocol {name}: {error}") from None
