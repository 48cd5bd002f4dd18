"""A linear classifier on frozen features that is asked where it sees a class (CAST paper, Fig. 6; DiLo, section 3).

Trained to convergence on pooled features of labelled images (test transform, no augmentation) by scikit-learn's
multinomial logistic regression: unlike SGD with a learning rate it treats trunks of any feature scale alike.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssl_loc.config import CfgNode
from ssl_loc.data.records import RecordTable
from ssl_loc.evaluation.data import EvalData, LabelledSplit, shared_images, two_parts
from ssl_loc.evaluation.features import FeatureOptions, extract_split
from ssl_loc.evaluation.weights import Weights
from ssl_loc.utils.errors import ConfigError, DataError, check_choice

logger = logging.getLogger(__name__)

TARGETS = ("auto", "true", "predicted")
# Steps of L-BFGS after which the fit is taken as it is (and said not to have converged).
MAX_STEPS = 1000


@dataclass(frozen=True)
class ClassProbe:
    """logits = pooled features x weight^T + bias.

    Attributes:
        weight: float32 (K, D), on raw pooled features.
        bias: float32 (K,).
        classes: K names.
        source: the labelled images it was trained on.
        images: how many these were.
    """

    weight: Tensor
    bias: Tensor
    classes: list[str]
    source: str
    images: int

    def logits(self, pooled: Tensor) -> Tensor:
        """(N, D) -> (N, K)."""
        return pooled.float() @ self.weight.to(pooled.device).T + self.bias.to(pooled.device)


@dataclass(frozen=True)
class ProbeOptions:
    """What the classifier is trained on and which of its classes is asked for.

    Attributes:
        data: labelled dataset to train on; "" takes the training part of --data.
        target: "true" (the image's own class), "predicted", or "auto": the true one where it is known.
        c: inverse strength of the L2 penalty (on standardised features).
        features: input size and batch.
        node: name of the options' node, for messages.
    """

    data: str = ""
    target: str = "auto"
    c: float = 1.0
    features: FeatureOptions = field(default_factory=FeatureOptions)
    node: str = "CLASS_GROUNDING"

    def __post_init__(self) -> None:
        check_choice(f"{self.node}.TARGET", self.target, TARGETS)
        if self.c <= 0:
            raise ConfigError(f"{self.node}.C is {self.c}; expected a number above 0")

    @staticmethod
    def declare(node: CfgNode) -> None:
        """Add the keys to a protocol's node."""
        # Labelled dataset that the linear classifier is trained on; "" takes the training part of --data TRAIN,VAL.
        # Another set than --data's serves photos with masks but without labels: the predicted class is then asked for.
        node.PROBE = ""
        # Whose evidence is shown: that of the "true" class (CAST paper, Fig. 6), of the "predicted" one, or "auto":
        # the true class of the images that have one among the classifier's classes, else the predicted one.
        node.TARGET = "auto"
        # Inverse L2 strength of the classifier (scikit-learn), on standardised features.
        node.C = 1.0

    @classmethod
    def from_options(cls, options: CfgNode, name: str) -> ProbeOptions:
        node = options[name]
        return cls(node.PROBE, node.TARGET, node.C, FeatureOptions.from_options(options), name)

    def source(self, data: EvalData) -> str:
        """The dataset to train on.

        Raises:
            DataError: neither the options nor --data name one.
        """
        parts = two_parts(data.spec)
        if self.data or parts:
            return self.data or parts[0]  # type: ignore[index]
        raise DataError(
            f"--data {data.spec} is one dataset, and a classifier needs labelled images to be trained on; expected "
            f"--data TRAIN,VAL, or --set {self.node}.PROBE class_folder:DIR"
        )

    def split(self, data: EvalData) -> LabelledSplit:
        """The images to train on."""
        return LabelledSplit.load(self.source(data))

    def shared(self, data: EvalData, photos: RecordTable) -> int:
        """How many of the photos that are looked at the classifier is trained on; warned of where there are some."""
        split = self.split(data)
        return shared_images(split.records, photos, (split.name, data.test_spec()))

    def train(self, weights: Weights, data: EvalData) -> ClassProbe:
        """The classifier of these weights, kept for the next protocol."""
        source = self.source(data)
        key = ("probe", source, self.features.input_size(weights), self.c)
        if key not in weights.cache:
            split = self.split(data)
            x, y = extract_split(weights, split, self.features)
            weight, bias = fit_probe(x, y, len(split.classes), self.c)
            weights.cache[key] = ClassProbe(weight, bias, split.classes, source, len(y))
        return weights.cache[key]

    def choose(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The class asked for per image: logits (N, K), labels int64 (N,) with -1 unknown -> int64 (N,).

        Raises:
            DataError: TARGET is "true" and an image has no class.
        """
        labels = labels.to(logits.device)
        if self.target == "predicted":
            return logits.argmax(1)
        if self.target == "true" and bool((labels < 0).any()):
            raise DataError(
                f"{self.node}.TARGET is 'true', but {int((labels < 0).sum())} images have no class among those of the "
                "classifier; expected 'auto' or 'predicted'"
            )
        return torch.where(labels >= 0, labels, logits.argmax(1))

    def score(self, probe: ClassProbe, pooled: Tensor, labels: Tensor) -> Tensor:
        """Logit of the class asked for: pooled (N, D) -> (N,)."""
        logits = probe.logits(pooled)
        return logits.gather(1, self.choose(logits.detach(), labels)[:, None])[:, 0]


def fit_probe(x: Tensor, y: Tensor, classes: int, c: float = 1.0) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features -> weight (K, D), bias (K,) on raw features.

    A class without images gets the logit of the smallest float: it is never predicted.

    Raises:
        DataError: all images are of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    if len(y.unique()) < 2:
        raise DataError(f"all {len(y)} images are of one class; a classifier needs at least two")
    # Constant features get scale 1 and, centred, are zeros: the penalty leaves their weight at 0.
    scaler = StandardScaler().fit(x.double().numpy())
    model = LogisticRegression(C=c, max_iter=MAX_STEPS).fit(scaler.transform(x.double().numpy()), y.numpy())
    if int(model.n_iter_.max()) >= MAX_STEPS:
        logger.warning("the linear classifier has not converged in %d steps; smaller C converges faster", MAX_STEPS)
    coefficients, intercept = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(coefficients) == 1:  # scikit-learn writes two classes as one: half of it each way is the same softmax
        coefficients, intercept = torch.cat([-coefficients, coefficients]) / 2, torch.cat([-intercept, intercept]) / 2
    coefficients = coefficients / torch.from_numpy(scaler.scale_)
    intercept = intercept - coefficients @ torch.from_numpy(scaler.mean_)
    weight = torch.zeros(classes, x.shape[1])
    bias = torch.full((classes,), torch.finfo(torch.float32).min)
    there = torch.from_numpy(model.classes_)
    weight[there], bias[there] = coefficients.float(), intercept.float()
    return weight, bias
