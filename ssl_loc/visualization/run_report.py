"""The sections of a run's report, each usable on its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssl_loc.components import get_cfg
from ssl_loc.config import CfgNode
from ssl_loc.losses.build import LOSS_REGISTRY
from ssl_loc.utils.errors import DataError
from ssl_loc.visualization.curves import Run, curves_figure
from ssl_loc.visualization.labels import RunFolder
from ssl_loc.visualization.report import Picture, Section, Table
from ssl_loc.visualization.views import sample_views, views_caption, views_figure

logger = logging.getLogger(__name__)

# Registered name of the crop that needs masks.
CONSTRAINED = "SaliencyConstrainedCrop"
# What a reader asks for first; the whole config stands behind a fold.
KEY_SETTINGS: dict[str, Callable[[CfgNode], Any]] = {
    "method": lambda c: c.MODEL.METHOD,
    "losses and weights": lambda c: _losses(c),
    "backbone": lambda c: (
        f"{c.MODEL.BACKBONE.NAME} {c.MODEL.RESNET.DEPTH}, width {c.MODEL.RESNET.WIDTH}"
        if c.MODEL.BACKBONE.NAME == "ResNet"
        else c.MODEL.BACKBONE.NAME
    ),
    "crops": lambda c: crops_of(c),
    "steps of the first view": lambda c: ", ".join(map(str, c.AUGMENT.VIEWS[0])),
    "training data": lambda c: c.DATA.TRAIN,
    "masks": lambda c: f"{c.DATA.MASKS.SOURCE} {c.DATA.MASKS.ROOT}".strip(),
    "view size, px": lambda c: c.AUGMENT.SIZE,
    "queue": lambda c: c.MODEL.MOCO.K if c.MODEL.METHOD == "MoCo" else None,
    "batch, images": lambda c: c.SOLVER.IMS_PER_BATCH,
    "base learning rate": lambda c: f"{c.SOLVER.BASE_LR:g} per {c.SOLVER.REFERENCE_BATCH} images",
    "length": lambda c: f"{c.SOLVER.MAX_ITER} steps" if c.SOLVER.MAX_ITER else f"{c.SOLVER.EPOCHS:g} epochs",
    "seed": lambda c: c.SEED,
}
# Ways of making views that one report draws.
PIPELINES = 3
VIEWS_HEADING = "What the network sees"


def settings_section(runs: Sequence[RunFolder]) -> Section:
    """The main settings of each run side by side; the rows in which runs differ are marked."""
    configs = [read_run_config(run.path) for run in runs]
    names = [run.label for run in runs]
    rows = [[title, *(_short(read(cfg)) for cfg in configs)] for title, read in KEY_SETTINGS.items()]
    rows = [row for row in rows if any(row[1:])]
    differing = [i for i, row in enumerate(rows) if len(set(row[1:])) > 1]
    caption = "Highlighted: where the runs differ" if differing else ""
    folded = {}
    for run in runs:
        for file, what in (("config.yaml", "whole config"), ("env.txt", "environment")):
            if (run.path / file).is_file():
                folded[f"{run.label}: {what}"] = (run.path / file).read_text(encoding="utf-8")
    return Section("Settings", tables=[Table(["setting", *names], rows, caption, marked=differing)], folded=folded)


def read_run_config(folder: Path) -> CfgNode:
    """The config a run was made with."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"no config.yaml in {folder}; expected the OUTPUT_DIR of a run of tools/train_net.py")
    cfg = get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.freeze()
    return cfg


def curves_section(runs: Sequence[Run]) -> Section:
    text = (
        "A contrastive loss may rise first, while the queue fills with real, harder keys; once it is full, the loss "
        "should fall below the chance level. A spread near 1/sqrt(D) means that the embedding uses its whole sphere; "
        "near 0 it has collapsed."
    )
    names = ", ".join(dict.fromkeys(run.label for run in runs))
    caption = f"Numbers logged in the training of {names}."
    return Section("Training curves", text, figures=[Picture(curves_figure(runs), caption, wide=True)])


def views_section(runs: Sequence[RunFolder], count: int = 5) -> Section:
    """Views of every run that makes them in its own way, at most ``PIPELINES``, the strictest crops first.

    Where its data is gone (a report made elsewhere) the section says so instead.
    """
    configs = {run: read_run_config(run.path) for run in runs}
    ordered = sorted(runs, key=lambda r: (configs[r].DATA.MASKS.SOURCE != "none", crops_of(configs[r])), reverse=True)
    distinct: dict[str, list[RunFolder]] = {}
    for run in ordered:
        distinct.setdefault(_pipeline(configs[run]), []).append(run)
    figures, missing = [], []
    for alike in list(distinct.values())[:PIPELINES]:
        names = ", ".join(run.label for run in alike)
        try:
            rows = sample_views(configs[alike[0]], count)
        except DataError as error:
            logger.warning("no views in the report: %s", error)
            missing.append(f"{names}: not drawn, because the training data is not here: {error}")
            continue
        figures.append(Picture(views_figure(rows), f"{names}, first epoch. {views_caption(rows)}", wide=True))
    return Section(VIEWS_HEADING, "\n\n".join(missing), figures=figures)


def _pipeline(cfg: CfgNode) -> str:
    """What decides how views are made; the values of steps that are not used may differ all the same."""
    return f"{cfg.AUGMENT.VIEWS} {cfg.AUGMENT.CONSTRAINED_CROP.PHI} {cfg.DATA.MASKS.SOURCE}"


def crops_of(cfg: CfgNode) -> str:
    """The first augmenter of the query, with phi (share of the mask that a crop covers) where it has one."""
    first = cfg.AUGMENT.VIEWS[0][0]
    if first == CONSTRAINED:
        return f"{first}, phi {cfg.AUGMENT.CONSTRAINED_CROP.PHI:g}"
    return str(first)


def _losses(cfg: CfgNode) -> str:
    weights = {name: cfg.LOSS[LOSS_REGISTRY.get(name).node].WEIGHT for name in cfg.LOSS.NAMES}
    return ", ".join(f"{weight:g} x {name}" for name, weight in weights.items() if weight)


def _short(value: Any) -> str:
    return "" if value is None else str(value)
