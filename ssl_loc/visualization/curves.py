"""Training curves from ``metrics.jsonl``: small panels that share the iteration axis, one colour per name of runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.events import METRICS_FILE, read_metrics
from ssl_loc.visualization.labels import RunFolder
from ssl_loc.visualization.style import MARKERS, figure, look, method_colors, method_rounds

COLUMNS = 3
# More steps than this are averaged in groups: a curve of 2,000 points has no more to say on 400 px.
MAX_POINTS = 400


@dataclass(frozen=True)
class Panel:
    """One panel: the first pattern is drawn solid, the second dashed, the third dotted."""

    title: str
    patterns: tuple[str, ...]
    ylabel: str = ""


PANELS = (
    Panel("Contrastive loss", (r"loss/InfoNCE",), "InfoNCE"),
    Panel("NT-Xent loss", (r"loss/NTXent",), "cross-entropy"),
    Panel("NCE loss", (r"loss/NCE",), "NCE"),
    Panel("Loss of BYOL", (r"loss/NegativeCosine",), "2 - 2 cosine, both directions"),
    Panel("Attention loss", (r"loss/GradCAM.*",), "1 - cosine, before its weight"),
    Panel("Total loss", (r"loss",), "weighted sum"),
    Panel("Similarity of q and keys", (r"pos_similarity", r"neg_similarity"), "cosine"),
    Panel("Pretext accuracy, (K+1)-way", (r"pretext_accuracy",), "share"),
    Panel("Spread of the embedding", (r"feature_std",), "std per dimension"),
    Panel("Effective rank of the embedding", (r"effective_rank",), "dimensions"),
    Panel("Spread of the trunk's features", (r"trunk_std",), "std per dimension"),
    Panel("Effective rank of the trunk", (r"trunk_effective_rank",), "dimensions"),
    Panel("k-NN while training", (r"knn_top1",), "top-1, percent"),
    Panel("Queue: share of real keys", (r"queue_real_share",), "share"),
    Panel("Attention: cosine with the mask", (r"attention_cosine",), "cosine"),
    Panel("Zero Grad-CAM, skipped images", (r"zero_cam_rate", r"attention_skipped_rate"), "share"),
    Panel("Alignment loss", (r"loss/CrossView.*",), "squared error, before its weight"),
    Panel("Correspondence on and off the mask", (r"alignment_inside", r"alignment_outside"), "mean C"),
    Panel("Crop constraint not met", (r"crop_unmet_rate",), "share of crops"),
    Panel("Pasted views, refused pastes", (r"pasted_rate", r"paste_refused_rate"), "share of views"),
    Panel("Total detection loss", (r"total_loss",), "sum"),
    Panel("Classification loss", (r"loss_cls",), "RoI head"),
    Panel("Box loss", (r"loss_box_reg",), "RoI head"),
    Panel("Mask loss", (r"loss_mask",), "RoI head"),
    Panel("Objectness loss", (r"loss_rpn_cls",), "RPN"),
    Panel("Proposal box loss", (r"loss_rpn_loc",), "RPN"),
    Panel("AP while training", (r"(.*/)?bbox/AP", r"(.*/)?segm/AP"), "percent"),
    Panel("Gradient norm", (r"grad_norm",), "before clipping"),
    Panel("Learning rate", (r"lr",), "lr"),
    Panel("Speed", (r"images_per_second",), "images / s"),
    Panel("Time per iteration", (r"seconds_per_iteration|time",), "s"),
)
STYLES = ("-", "--", ":")


@dataclass
class Run:
    """Numbers of one run."""

    label: str
    rows: list[dict[str, Any]]

    def names(self) -> set[str]:
        return {name for row in self.rows for name in row if name != "iteration"}

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """(iterations, values) of one number, averaged in groups where there are many."""
        points = [(row["iteration"], row[name]) for row in self.rows if isinstance(row.get(name), (int, float))]
        step = math.ceil(len(points) / MAX_POINTS)
        groups = [points[i : i + step] for i in range(0, len(points), max(1, step))]
        x = [g[-1][0] for g in groups]
        return x, [sum(v for _, v in g) / len(g) for g in groups]


def load_run(folder: str | Path, label: str = "") -> Run:
    """Read metrics.jsonl of a run folder."""
    folder = Path(folder)
    if not (folder / METRICS_FILE).is_file():
        raise DataError(
            f"no {METRICS_FILE} in {folder}; expected the OUTPUT_DIR of a run of tools/train_net.py or finetune_det.py"
        )
    return Run(label or folder.resolve().name, read_metrics(folder))


def load_runs(folders: Sequence[RunFolder]) -> list[Run]:
    """The numbers of several runs; a folder of ``finetune_det.py --seeds`` gives one run per seed, of the same name."""
    runs = []
    for folder in folders:
        seeds = sorted(file.parent for file in folder.path.glob(f"seed_*/{METRICS_FILE}"))
        alone = (folder.path / METRICS_FILE).is_file() or not seeds
        runs += [load_run(path, folder.label) for path in ([folder.path] if alone else seeds)]
    return runs


def curves_figure(runs: Sequence[Run], colors: Mapping[str, str] | None = None, only: Sequence[str] = ()) -> Figure:
    """Every panel for which a run has numbers. Runs of one name (seeds) share a colour and a line of the legend.

    Args:
        colors: by name; default: the methods' own.
        only: words of panels' titles; default: all panels.

    Raises:
        ConfigError: a word that stands in no title.
        DataError: there is nothing to draw.
    """
    names = set().union(*(run.names() for run in runs))
    shown = [(panel, found) for panel in _chosen(only) if (found := [_first(p, names) for p in panel.patterns])[0]]
    if not shown:
        raise DataError(f"{', '.join(r.label for r in runs)}: {METRICS_FILE} holds none of the known numbers yet")
    rows = math.ceil(len(shown) / COLUMNS)
    labels = list(dict.fromkeys(run.label for run in runs))
    own = method_colors(labels)
    colors = {label: (colors or {}).get(label, own[label]) for label in labels}
    with look():
        fig = figure(11.0, 2.75 * rows + 0.3)
        axes = fig.subplots(rows, COLUMNS, squeeze=False).flatten()
        for ax, (panel, found) in zip(axes, shown, strict=False):
            _draw(ax, panel, [n for n in found if n], runs, colors)
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
        marks = {label: MARKERS[n] for label, n in method_rounds(colors).items()}
        handles = [
            axes[0].plot([], [], color=color, label=label, marker=marks[label], markersize=4)[0]
            for label, color in colors.items()
        ]
        fig.legend(handles=handles, loc="outside upper left", ncols=min(4, len(handles)))
    return fig


def _chosen(words: Sequence[str]) -> list[Panel]:
    for word in words:
        if not any(word.lower() in panel.title.lower() for panel in PANELS):
            titles = "; ".join(panel.title for panel in PANELS)
            raise ConfigError(f"--panels {word!r} stands in no title of a panel; the titles are: {titles}")
    return [panel for panel in PANELS if not words or any(word.lower() in panel.title.lower() for word in words)]


def _first(pattern: str, names: set[str]) -> str:
    return min((n for n in names if re.fullmatch(pattern, n)), default="")


def _draw(ax: Axes, panel: Panel, found: Sequence[str], runs: Sequence[Run], colors: dict[str, str]) -> None:
    marks = {label: MARKERS[n] for label, n in method_rounds(colors).items()}
    for run in runs:
        for name, style in zip(found, STYLES, strict=False):
            x, y = run.series(name)
            marker = marks[run.label] or ("o" if len(x) == 1 else "")
            # A mark now and then is enough to tell a line.
            every = max(1, len(x) // 8)
            ax.plot(x, y, color=colors[run.label], linestyle=style, marker=marker, markersize=4, markevery=every)
    ax.set_title(panel.title, loc="left")
    ax.set_ylabel(panel.ylabel)
    ax.set_xlabel("iteration")
    if len(found) > 1:
        grey = [
            ax.plot([], [], color="#555555", linestyle=s, label=n.replace("_", " "))[0]
            for n, s in zip(found, STYLES, strict=False)
        ]
        ax.legend(handles=grey, loc="best")
    _references(ax, panel, [run for run in runs if found[0] in run.names()])
    if panel.ylabel.startswith("share"):
        # A rate of 0 is a line on the axis, not in the middle of a made-up range.
        top = max(0.1, ax.get_ylim()[1])
        ax.set_ylim(-0.03 * top, 1.02 * top)


# Panel -> (number whose last value is a line to read the curve against, its label).
REFERENCES = {
    "Contrastive loss": ("chance_loss", "chance, ln(K+1) = {:.2f}"),
    "NT-Xent loss": ("chance_loss", "chance, ln(2N-1) = {:.2f}"),
    "Spread of the embedding": ("feature_std_ideal", "1/sqrt(D) = {:.3f}"),
    "Spread of the trunk's features": ("trunk_std_ideal", "1/sqrt(D) = {:.3f}"),
}


def _references(ax: Axes, panel: Panel, runs: Sequence[Run]) -> None:
    name, text = REFERENCES.get(panel.title, ("", ""))
    levels = dict.fromkeys(round(values[-1], 4) for run in runs if (values := run.series(name)[1]))
    for level in levels:
        ax.axhline(level, color="#555555", linewidth=1.0, linestyle=(0, (4, 3)))
        # On the line, where no legend can be taken for another line's.
        low, high = ax.get_ylim()
        below = level > (low + high) / 2
        ax.annotate(
            text.format(level), (0.99, level), xycoords=("axes fraction", "data"), xytext=(0, -3 if below else 3),
            textcoords="offset points", ha="right", va="top" if below else "bottom", fontsize=8.5, color="#555555",
        )  # fmt: skip
