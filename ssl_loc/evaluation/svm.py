"""Linear SVMs on frozen features: VOC07 classification as in CAST and VirTex, one binary classifier per class."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData, shared_images
from ssl_loc.evaluation.features import FeatureOptions, extract
from ssl_loc.evaluation.multi_label import multi_label_splits
from ssl_loc.evaluation.weights import Weights
from ssl_loc.structures import Result
from ssl_loc.utils.errors import ConfigError, DataError, check_choice

logger = logging.getLogger(__name__)

# VirTex code (voc07 downstream task): C grid, 3-fold cross-validation, twice the weight on positives, 2000 iterations.
COSTS = (0.01, 0.1, 1.0, 10.0)
FOLDS = 3
POSITIVE_WEIGHT = 2.0
MAX_ITER = 2000
# Of rows of zeros (torch's default for normalize).
_EPS = 1e-12
# Elements of the training features up to which starting other processes takes longer than the work.
_SMALL = 2_000_000


@dataclass(frozen=True)
class ClassRun:
    """One class: its AP (0..1; None where it is not defined), the chosen C, fits and how many did not converge."""

    ap: float | None
    cost: float | None
    folds: int
    fits: int = 0
    not_converged: int = 0
    skipped: str = ""


@EVALUATOR_REGISTRY.register(name="svm")
class LinearSVM:
    """mAP of linear SVMs on frozen features, one per class (VOC07 classification; scikit-learn's LinearSVC)."""

    version = "1"
    seeded = False  # the solver's order of coordinates is fixed, as in the published runs

    def __init__(
        self,
        costs: Sequence[float] = COSTS,
        difficult: str = "negative",
        jobs: int = 0,
        max_iter: int = MAX_ITER,
        features: FeatureOptions | None = None,
    ) -> None:
        if not costs or min(costs) <= 0:
            raise ConfigError(f"SVM.COSTS is {list(costs)}; expected at least one positive C")
        if jobs < 0 or max_iter < 1:
            raise ConfigError(f"SVM.JOBS is {jobs}, SVM.MAX_ITER {max_iter}; expected JOBS >= 0 and MAX_ITER >= 1")
        self.costs, self.jobs, self.max_iter = list(costs), jobs, max_iter
        self.difficult = check_choice("SVM.DIFFICULT", difficult, ("negative", "ignore"))
        self.features = features or FeatureOptions(transform="square", pool="res5:2")

    @staticmethod
    def options() -> CfgNode:
        node = CfgNode()
        # "square" (resize, aspect ignored: VirTex v0.9, the version of CAST's time) or "center" (short side 256 / 224,
        # central square: VirTex v1.0 and later).
        node.TRANSFORM = "square"
        # "res5:2" (2 x 2 cells: 8192 numbers of a ResNet-50; CAST's text) or "gap" (VirTex v1.1 and later).
        node.POOL = "res5:2"
        # C of the SVM; each class takes the best of a 3-fold cross-validation on the training part.
        node.COSTS = list(COSTS)
        # Photos whose objects of a class are all "difficult", in training: "negative" (VirTex) or "ignore". They never
        # count in the test.
        node.DIFFICULT = "negative"
        node.MAX_ITER = MAX_ITER
        # Processes that train classes side by side; 0 = as many as cores, one for small sets.
        node.JOBS = 0
        return node

    @classmethod
    def from_config(cls, options: CfgNode) -> dict[str, Any]:
        o = options.SVM
        return {
            "costs": o.COSTS,
            "difficult": o.DIFFICULT,
            "jobs": o.JOBS,
            "max_iter": o.MAX_ITER,
            "features": FeatureOptions.from_options(options, transform=o.TRANSFORM, pool=o.POOL),
        }

    def check_weights(self, weights: Weights) -> None:
        """Every kind of weights has a trunk."""
        weights.require_trunk()

    def check_data(self, data: EvalData) -> None:
        """A training and a test part with the same classes."""
        multi_label_splits(data)

    def __call__(self, weights: Weights, data: EvalData) -> Result:
        train, test = multi_label_splits(data)
        shared = shared_images(train.records, test.records, (train.name, test.name))
        x, xt = (svm_features(weights, split, self.features) for split in (train, test))
        runs = self.train_classes(x, train.labels, xt, test.labels)
        found = dict(zip(train.classes, runs, strict=True))
        report(found)
        scores = [run.ap for run in runs if run.ap is not None]
        if not scores:
            raise DataError(f"no class of {data.spec} has positives in both parts; there is nothing to score")
        prior = class_priors(test.labels)
        metrics = {"mAP": 100.0 * float(np.mean(scores))}
        details = {
            "per_class": {name: _row(run, p) for (name, run), p in zip(found.items(), prior, strict=True)},
            # What features without any information reach.
            "chance": 100.0 * float(np.mean([p for p, run in zip(prior, runs, strict=True) if run.ap is not None])),
            "classes": len(train.classes),
            "classes_scored": len(scores),
            "train_images": len(train),
            "val_images": len(test),
            "test_images_trained_on": shared,
            "fits": sum(run.fits for run in runs),
            "not_converged": sum(run.not_converged for run in runs),
            "transform": self.features.transform,
            "pool": self.features.pool,
            "costs": self.costs,
            "difficult": self.difficult,
            "input_size": self.features.input_size(weights),
        }
        return Result("svm", self.version, metrics, details=details)

    def train_classes(self, x: np.ndarray, y: np.ndarray, xt: np.ndarray, yt: np.ndarray) -> list[ClassRun]:
        """One run per column of ``y`` (N, C) and ``yt`` (M, C); features (N, D) and (M, D)."""
        from joblib import Parallel, delayed

        jobs = self.jobs or (1 if x.size <= _SMALL else min(os.cpu_count() or 1, y.shape[1]))
        # Processes, not threads: liblinear draws from one global generator.
        work = (delayed(self.train_class)(x, y[:, c], xt, yt[:, c]) for c in range(y.shape[1]))
        return list(Parallel(n_jobs=jobs)(work))

    def train_class(self, x: np.ndarray, y: np.ndarray, xt: np.ndarray, yt: np.ndarray) -> ClassRun:
        """Cross-validate C, refit on all training rows, score the test rows that count. Labels 1, -1, 0 (difficult)."""
        from sklearn.metrics import average_precision_score

        if self.difficult == "ignore":
            x, y = x[y != 0], y[y != 0]
        target, counted = np.where(y == 1, 1, -1), yt != 0
        folds = min(FOLDS, int((target == 1).sum()), int((target == -1).sum()))
        if folds == 0:
            return ClassRun(None, None, 0, skipped="training photos are all positive or all negative")
        if not (yt == 1).any():
            return ClassRun(None, None, folds, skipped="no positive test photo")
        best, fits, slow = self.choose_cost(x, target, folds)
        model = self._fit(x, target, best)
        ap = average_precision_score(yt[counted] == 1, model.decision_function(xt[counted]))
        return ClassRun(float(ap), best, folds, fits + 1, slow + self._stopped(model))

    def choose_cost(self, x: np.ndarray, target: np.ndarray, folds: int) -> tuple[float, int, int]:
        """(C with the best mean AP over stratified folds in order, fits made, fits that did not converge).

        With one positive there is nothing to hold out, and the middle of the grid is taken; so is a grid of one.
        """
        from sklearn.metrics import average_precision_score
        from sklearn.model_selection import StratifiedKFold

        if folds < 2 or len(self.costs) == 1:
            return self.costs[len(self.costs) // 2], 0, 0
        parts = list(StratifiedKFold(folds).split(x, target))
        # Below every AP, so that a class is never left without a model.
        best_ap, best, slow = -1.0, self.costs[0], 0
        for cost in self.costs:
            found = []
            for train, held in parts:
                model = self._fit(x[train], target[train], cost)
                slow += self._stopped(model)
                found.append(average_precision_score(target[held] == 1, model.decision_function(x[held])))
            if float(np.mean(found)) > best_ap:
                best_ap, best = float(np.mean(found)), cost
        return best, len(parts) * len(self.costs), slow

    def _fit(self, x: np.ndarray, target: np.ndarray, cost: float) -> Any:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC

        model = LinearSVC(
            C=cost,
            penalty="l2",
            loss="squared_hinge",
            dual=True,
            class_weight={1: POSITIVE_WEIGHT, -1: 1.0},
            max_iter=self.max_iter,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # counted instead
            return model.fit(x, target)

    def _stopped(self, model: Any) -> int:
        return int(model.n_iter_ >= self.max_iter)


def svm_features(weights: Weights, split: Any, options: FeatureOptions) -> np.ndarray:
    """L2-normalised features float32 (N, D) of a split; zero rows stay zero."""
    features: Tensor = extract(weights, split, options)[0]
    return F.normalize(features, dim=1, eps=_EPS).numpy()


def class_priors(labels: np.ndarray) -> list[float]:
    """Share of positives of each class among the rows that count for it."""
    counted = np.maximum((labels != 0).sum(0), 1)
    return list(((labels == 1).sum(0) / counted).astype(float))


def report(runs: dict[str, ClassRun]) -> None:
    """Log which classes have no number, and how many fits stopped early."""
    skipped = [f"{name} ({run.skipped})" for name, run in runs.items() if run.skipped]
    if skipped:
        logger.warning("%d of %d classes have no AP: %s", len(skipped), len(runs), ", ".join(skipped))
    few = [name for name, run in runs.items() if not run.skipped and run.folds < FOLDS]
    if few:
        logger.warning("fewer than %d positives, so fewer folds choose C: %s", FOLDS, ", ".join(few))
    slow, fits = (sum(getattr(run, name) for run in runs.values()) for name in ("not_converged", "fits"))
    if slow:
        logger.warning("%d of %d SVM fits stopped at SVM.MAX_ITER before they converged", slow, fits)


def _row(run: ClassRun, prior: float) -> dict[str, Any]:
    ap = None if run.ap is None else 100.0 * run.ap
    return {"AP": ap, "C": run.cost, "folds": run.folds, "prior": 100.0 * prior, "skipped": run.skipped}
