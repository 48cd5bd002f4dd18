"""The commands of a study, per seed: draw, make maps, pretrain every row, measure. Nothing is run here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_loc.config.node import load_chain
from ssl_loc.demo.plan import EVAL_OPTIONS, RANDOM, ROOT, Stage, detect_stage, seed_folder, words
from ssl_loc.demo.study import Row, Study

KINDS = ("draw", "maps", "pretrain", "export", "evaluate", "fine-tune")
# Protocol of a row -> names for tools/evaluate.py, its data, and its options. Neighbours: fifty pictures per class.
EVALUATIONS = {
    "grounding": ("grounding", "scenes:{scenes}:val", ()),
    "features": ("knn,linear", "{scenes}/objects", EVAL_OPTIONS),
    "backgrounds": ("backgrounds", "{scenes}/backgrounds", ("BACKGROUNDS.TRAIN", "{scenes}/objects/train")),
}
# The labelled set of a seed is drawn from another one, so it shares no picture with the unlabelled set.
LABELLED_SEED = 1000


def plan_study(
    study: Study, out: str | Path, seeds: Sequence[int], workers: int = 0, bf16: bool = False
) -> list[Stage]:
    """All stages of a study, seed after seed."""
    return [stage for seed in seeds for stage in _Seed(study, Path(out), seed, workers, bf16).stages()]


def pretrain_folder(out: str | Path, seed: int, row: Row) -> Path:
    return seed_folder(out, seed) / f"pretrain_{row.slug}"


def detect_folder(out: str | Path, seed: int, slug: str) -> Path:
    return seed_folder(out, seed) / f"detect_{slug}"


def eval_folder(out: str | Path, seed: int, kind: str) -> Path:
    """Results of one key of ``EVALUATIONS`` for all rows."""
    return seed_folder(out, seed) / f"evaluate_{kind}"


def input_files(config: Path) -> tuple[Path, ...]:
    """The yaml, those it inherits from, and the python files they import: what a row is, apart from the package."""
    files: list[Path] = []
    for name, values in load_chain(config):
        imports = [Path(name).parent / part for part in values.get("IMPORTS", ()) if part.endswith(".py")]
        files += [Path(name), *imports]
    return tuple(files)


class _Seed:
    def __init__(self, study: Study, out: Path, seed: int, workers: int, bf16: bool) -> None:
        self.study, self.out, self.seed, self.workers, self.bf16 = study, out, seed, workers, bf16
        self.base = seed_folder(out, seed)
        self.scenes, self.labelled = self.base / "scenes", self.base / "labelled"

    def stages(self) -> list[Stage]:
        rows = self.study.rows
        stages = [self._draw(self.scenes, self.seed, self.study.scenes)]
        stages += [
            self._maps(method) for method in dict.fromkeys(r.maps for r in rows) if method not in ("none", "truth")
        ]
        stages += [self._pretrain(row) for row in rows]
        stages += [self._evaluate(kind) for kind in EVALUATIONS if any(kind in row.measure for row in rows)]
        detected = [row for row in rows if "detector" in row.measure]
        if detected:
            stages += [self._draw(self.labelled, LABELLED_SEED + self.seed, self.study.labelled), self._detect(None)]
        return stages + [stage for row in detected for stage in (self._export(row), self._detect(row))]

    def _name(self, rest: str) -> str:
        return f"seed{self.seed}/{rest}"

    def _draw(self, folder: Path, seed: int, options: dict[str, int]) -> Stage:
        tool = ("tools/make_scenes.py", str(folder), "--seed", str(seed))
        command = (*tool, *(w for k, v in options.items() for w in (f"--{k}", str(v))), "--workers", str(self.workers))
        return Stage(self._name(f"draw_{folder.name}"), f"draw {folder.name}", "draw", command, folder)

    def _maps(self, method: str) -> Stage:
        folder = self.base / f"maps_{method}"
        command: tuple[str, ...] = (
            "tools/make_saliency.py",
            f"scenes:{self.scenes}:train",
            "--method",
            method,
            "--out",
            str(folder),
        )
        needs = (self._name("draw_scenes"),)
        command += ("--workers", str(self.workers))
        return Stage(self._name(folder.name), f"make {method} maps", "maps", command, folder, needs)

    def _pretrain(self, row: Row) -> Stage:
        folder, needs = pretrain_folder(self.out, self.seed, row), [self._name("draw_scenes")]
        keys: dict[str, object] = {"DATA.TRAIN": f"scenes:{self.scenes}:train", "OUTPUT_DIR": folder, "SEED": self.seed}
        keys |= {"SOLVER.AMP.ENABLED": self.bf16, **self.study.keys, **row.keys}
        if row.maps == "truth":
            keys["DATA.MASKS.ROOT"] = self.scenes / "saliency" / "train"
        elif row.maps != "none":
            keys["DATA.MASKS.ROOT"] = self.base / f"maps_{row.maps}"
            needs.append(self._name(f"maps_{row.maps}"))
        if row.init:
            first = pretrain_folder(self.out, self.seed, self.study.row(row.init))
            keys["MODEL.INIT_FROM"] = first
            needs.append(self._name(first.name))
        command = ("tools/train_net.py", "--config-file", row.config, "--resume", *words(keys))
        inputs = input_files(ROOT / row.config)
        return Stage(
            self._name(folder.name), f"pretrain {row.label}", "pretrain", command, folder, tuple(needs), inputs
        )

    def _evaluate(self, kind: str) -> Stage:
        protocols, data, options = EVALUATIONS[kind]
        rows = [row for row in self.study.rows if kind in row.measure]
        runs = {row.label: pretrain_folder(self.out, self.seed, row) for row in rows}
        weights = [f"{RANDOM}=random:{runs[rows[0].label]}/config.yaml", *(f"{k}={run}" for k, run in runs.items())]
        folder = eval_folder(self.out, self.seed, kind)
        command: tuple[str, ...] = ("tools/evaluate.py", "--protocol", protocols, "--weights", *weights)
        command += ("--data", data.format(scenes=self.scenes), "--out", str(folder))
        if options:
            command += ("--set", *(word.format(scenes=self.scenes) for word in options))
        needs = tuple(self._name(run.name) for run in runs.values())
        return Stage(self._name(folder.name), f"evaluate {protocols}", "evaluate", command, folder, needs)

    def _backbone(self, row: Row) -> Path:
        return self.base / f"export_{row.slug}" / "backbone.pth"

    def _export(self, row: Row) -> Stage:
        run, file = pretrain_folder(self.out, self.seed, row), self._backbone(row)
        command = ("tools/export_backbone.py", str(run), "--out", str(file))
        needs = (self._name(run.name),)
        return Stage(self._name(file.parent.name), f"export {row.label}", "export", command, file.parent, needs)

    def _detect(self, row: Row | None) -> Stage:
        folder = detect_folder(self.out, self.seed, row.slug if row else RANDOM)
        weights = str(self._backbone(row)) if row else RANDOM
        needs = (self._name("draw_labelled"), *((self._name(self._backbone(row).parent.name),) if row else ()))
        label = row.label if row else RANDOM
        return detect_stage(folder, self.seed, self.labelled, weights, self.study.detect, label, needs)
