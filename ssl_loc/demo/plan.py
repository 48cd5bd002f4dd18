"""Which commands the demo runs, in which order, and what each one leaves behind. Nothing is run here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from ssl_loc.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
# Table label -> quick config; the order of the table.
METHODS = {"MoCo": "moco", "MoCo + crop": "moco_crop", "CAST": "cast"}
RANDOM = "random"
# Weights that a detector is fine-tuned from.
DETECTORS = (RANDOM, "MoCo", "CAST")
# Stage name -> protocols and what they are run on: scenes with masks, one-object pictures on unrelated backgrounds.
EVALUATIONS = {"grounding": ("grounding", "scenes:{scenes}:val"), "features": ("knn,linear", "{scenes}/objects")}
# The protocol's 200 neighbours are for sets of a thousand pictures per class; here there are fifty.
EVAL_OPTIONS = ("KNN.K", "10")
RECIPE = "configs/detection/quick/scenes_narrow_FPN.yaml"


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        name: unique, also the name of its log and marker files, e.g. "seed0/pretrain_cast".
        title: for people, e.g. "pretrain CAST".
        kind: row of the table of times ("draw", "pretrain", "export", "evaluate", "fine-tune", "report").
        command: words after the Python interpreter.
        folder: what it makes; removed before a run with another command, so results never mix.
        needs: stages that must be finished before.
        inputs: files of the project whose content decides the result.
    """

    name: str
    title: str
    kind: str
    command: tuple[str, ...]
    folder: Path
    needs: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Size:
    """How much work a demo is.

    Attributes:
        scenes: words for tools/make_scenes.py.
        pretrain, detect: config keys to change in the quick configs and in the detection recipe.
        pictures: images per picture of the report.
        meaningful: the trainings are long enough for their numbers to be judged.
    """

    scenes: dict[str, int]
    pretrain: dict[str, object] = field(default_factory=dict)
    detect: dict[str, object] = field(default_factory=dict)
    pictures: int = 6
    meaningful: bool = True


SIZES = {
    "full": Size({"train": 2000, "val": 300, "objects-train": 600, "objects-val": 600, "backgrounds": 0}),
    # Do all commands fit together? The numbers mean nothing.
    "smoke": Size(
        {"train": 80, "val": 12, "objects-train": 24, "objects-val": 24, "backgrounds": 0},
        {"SOLVER.MAX_ITER": 2, "SOLVER.IMS_PER_BATCH": 16, "MODEL.MOCO.K": 32, "AUGMENT.SIZE": 64},
        {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": "(1,)", "SOLVER.WARMUP_ITERS": 1, "TEST.PRECISE_BN.NUM_ITER": 1},
        pictures=2,
        meaningful=False,
    ),
}


def build_plan(out: str | Path, seed: int, size: str = "full", workers: int = 0, bf16: bool = False) -> list[Stage]:
    """All stages of one seed, in an order in which they can run one after the other.

    Args:
        out: folder of the demo.
        seed: of the scenes, the initial weights, the augmentations and the detector.
        size: a key of ``SIZES``.
        workers: processes that draw the scenes.
        bf16: pretrain in mixed precision.
    """
    if size not in SIZES:
        raise ConfigError(f"demo size '{size}' is not known; choices: {', '.join(SIZES)}")
    return _Seed(Path(out), seed, SIZES[size], workers, bf16).stages()


def seed_folder(out: str | Path, seed: int) -> Path:
    """Everything of one seed."""
    return Path(out) / f"seed{seed}"


def pretrain_folder(out: str | Path, seed: int, label: str) -> Path:
    return seed_folder(out, seed) / f"pretrain_{METHODS[label]}"


def detect_folder(out: str | Path, seed: int, label: str) -> Path:
    return seed_folder(out, seed) / f"detect_{METHODS.get(label, label)}"


def eval_folder(out: str | Path, seed: int, kind: str) -> Path:
    """Results of one evaluation stage (a key of ``EVALUATIONS``) for all weights."""
    return seed_folder(out, seed) / f"evaluate_{kind}"


class _Seed:
    """Makes the stages of one seed."""

    def __init__(self, out: Path, seed: int, size: Size, workers: int, bf16: bool) -> None:
        self.out, self.seed, self.size, self.workers, self.bf16 = out, seed, size, workers, bf16
        self.base = seed_folder(out, seed)
        self.scenes = self.base / "scenes"

    def stages(self) -> list[Stage]:
        # Longest first where the order is free: the last one to finish decides how long the demo takes.
        labels = sorted(METHODS, key=lambda label: label != "CAST")
        stages = [self._draw(), *(self._pretrain(label) for label in labels), self._detect(RANDOM)]
        for label in labels:
            stages += [self._export(label), *([self._detect(label)] if label in DETECTORS else [])]
        stages += [self._evaluate(kind) for kind in EVALUATIONS]
        return [*stages, self._report([s.name for s in stages if s.kind in ("evaluate", "fine-tune")])]

    def _name(self, rest: str) -> str:
        return f"seed{self.seed}/{rest}"

    def _draw(self) -> Stage:
        given = [w for key, value in self.size.scenes.items() for w in (f"--{key}", str(value))]
        tool = ("tools/make_scenes.py", str(self.scenes), "--seed", str(self.seed))
        # The number of workers does not change the files, so it is not part of what identifies the stage.
        command = (*tool, *given, "--workers", str(self.workers))
        return Stage(self._name("draw"), "draw scenes", "draw", command, self.scenes)

    def _pretrain(self, label: str) -> Stage:
        config, folder = f"configs/quick/{METHODS[label]}.yaml", pretrain_folder(self.out, self.seed, label)
        keys: dict[str, object] = {"DATA.TRAIN": f"scenes:{self.scenes}:train", "OUTPUT_DIR": folder}
        if label != "MoCo":
            keys["DATA.MASKS.ROOT"] = self.scenes / "saliency" / "train"
        keys |= {"SEED": self.seed, "SOLVER.AMP.ENABLED": self.bf16, **self.size.pretrain}
        command = ("tools/train_net.py", "--config-file", config, "--resume", *words(keys))
        inputs = (ROOT / "configs/Base-Pretrain.yaml", ROOT / "configs/quick/Base-Quick.yaml", ROOT / config)
        name = self._name(f"pretrain_{METHODS[label]}")
        return Stage(name, f"pretrain {label}", "pretrain", command, folder, (self._name("draw"),), inputs)

    def _export(self, label: str) -> Stage:
        run, name = pretrain_folder(self.out, self.seed, label), f"export_{METHODS[label]}"
        command = ("tools/export_backbone.py", str(run), "--out", str(self._backbone(label)))
        needs = (self._name(f"pretrain_{METHODS[label]}"),)
        return Stage(self._name(name), f"export {label}", "export", command, self._backbone(label).parent, needs)

    def _backbone(self, label: str) -> Path:
        return self.base / f"export_{METHODS[label]}" / "backbone.pth"

    def _detect(self, label: str) -> Stage:
        folder = detect_folder(self.out, self.seed, label)
        weights = RANDOM if label == RANDOM else str(self._backbone(label))
        needs = (self._name("draw" if label == RANDOM else f"export_{METHODS[label]}"),)
        return detect_stage(folder, self.seed, self.scenes, weights, self.size.detect, label, needs)

    def _evaluate(self, kind: str) -> Stage:
        """One command for all weights: starting a process costs as much as evaluating a small network."""
        protocols, where = EVALUATIONS[kind]
        runs = {label: pretrain_folder(self.out, self.seed, label) for label in METHODS}
        weights = [f"{RANDOM}=random:{runs['CAST']}/config.yaml", *(f"{label}={run}" for label, run in runs.items())]
        folder = eval_folder(self.out, self.seed, kind)
        command = ("tools/evaluate.py", "--protocol", protocols, "--weights", *weights)
        command += ("--data", where.format(scenes=self.scenes), "--out", str(folder), "--set", *EVAL_OPTIONS)
        needs = tuple(self._name(f"pretrain_{name}") for name in METHODS.values())
        return Stage(self._name(folder.name), f"evaluate {protocols}", "evaluate", command, folder, needs)

    def _report(self, needs: list[str]) -> Stage:
        folder = self.base / "report"
        # One name per model in every table and picture; results of an evaluation bring theirs.
        runs = [f"{label}={pretrain_folder(self.out, self.seed, label)}" for label in METHODS]
        results = [str(eval_folder(self.out, self.seed, kind)) for kind in EVALUATIONS]
        results += [f"{label}={detect_folder(self.out, self.seed, label)}" for label in DETECTORS]
        title = f"Demo, seed {self.seed}" + (
            "" if self.size.meaningful else " (two steps each, the numbers mean nothing)"
        )
        command = ("tools/visualize.py", "report", "--run", *runs, "--results", *results)
        command += ("--data", f"scenes:{self.scenes}:val", "--count", str(self.size.pictures))
        command += ("--title", title, "--out", str(folder / "report.html"))
        return Stage(self._name("report"), "write the report", "report", command, folder, tuple(needs))


def command_of(stage: Stage) -> list[str]:
    """The command line of a stage, interpreter included, the tool by its absolute path."""
    return [sys.executable, str(ROOT / stage.command[0]), *stage.command[1:]]


def detect_stage(
    folder: Path, seed: int, scenes: Path, weights: str, changes: dict[str, object], label: str, needs: tuple[str, ...]
) -> Stage:
    """Fine-tune the small detector into ``folder`` from an exported backbone, or ``RANDOM``."""
    keys: dict[str, object] = {"OUTPUT_DIR": folder, "SEED": seed}
    keys |= {f"DATASETS.{k}": f"('scenes:{scenes}:{s}',)" for k, s in (("TRAIN", "train"), ("TEST", "val"))}
    # --resume: what a stop left behind goes on; an empty folder begins.
    options = ("--weights", weights, "--engine", "torchvision", "--resume")
    command = ("tools/finetune_det.py", "--config-file", RECIPE, *options, *words({**keys, **changes}))
    inputs = (ROOT / "configs/detection/Base-RCNN-FPN.yaml", ROOT / RECIPE)
    name, title = f"seed{seed}/{folder.name}", f"fine-tune a detector from {label}"
    return Stage(name, title, "fine-tune", command, folder, needs, inputs)


def words(keys: dict[str, object]) -> tuple[str, ...]:
    """Config keys and values as words of a command line."""
    return tuple(str(word) for pair in keys.items() for word in pair)
