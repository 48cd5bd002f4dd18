"""What the class-specific estimators (CAM, input gradient) share: the classifier, and which class is meant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ssl_loc.saliency.build import Estimator
from ssl_loc.utils.errors import ConfigError, DataError
from ssl_loc.utils.file_io import file_digest

if TYPE_CHECKING:  # torch is not imported where no class-specific estimator is used
    from ssl_loc.saliency.classifier import Classifier

PREDICTED, LABEL = "predicted", "label"


class ClassSpecific(Estimator):
    """Base of estimators that ask a classifier, which has seen labels.

    Args:
        preset: named constants.
        weights: file of a ResNet classifier in torchvision's names, with its ``fc``.
        target: "predicted" (the class of the largest logit), "label" (the image's label in the dataset, counted as the
            classifier counts), or the number of a class.
        side: the shorter side of the image is brought to this many px; nothing is cropped.
    """

    uses_labels = True

    def __init__(self, preset: str = "", weights: str = "", target: str | int = PREDICTED, side: int = 256) -> None:
        super().__init__(preset)
        if not weights or not Path(weights).is_file():
            given = f"is {weights}, which is no file" if weights else "is missing"
            raise ConfigError(
                f"weights of {self.name} {given}; expected the checkpoint of a classifier, e.g. "
                f"--method {self.name} --set weights resnet50.pth"
            )
        if isinstance(target, str) and target not in (PREDICTED, LABEL):
            raise ConfigError(f"target of {self.name} is '{target}'; expected {PREDICTED}, {LABEL} or a class number")
        if side < 32:
            raise ConfigError(f"side of {self.name} is {side}; expected at least 32 px")
        self.weights, self.side = weights, side
        self.by_label = target == LABEL
        self.target: int | None = target if isinstance(target, int) else None
        # Maps of two classifiers are not mixed in a folder.
        self.version = f"2 of {file_digest(weights)}"
        self._network: Classifier | None = None

    def network(self) -> Classifier:
        """The classifier, read once per process."""
        if self._network is None:
            from ssl_loc.saliency.classifier import load_classifier

            self._network = load_classifier(self.weights)
        return self._network

    def for_label(self, label: int) -> ClassSpecific:
        """This estimator, told the image's label; only target "label" listens.

        Raises:
            DataError: the image has no label.
        """
        if self.by_label:
            if label < 0:
                raise DataError(
                    "target is label, but the images have none; expected a dataset with labels (class_folder:DIR), or "
                    "--set target predicted"
                )
            self.target = label
        return self

    def estimate(self, image: np.ndarray) -> np.ndarray:
        if (image == image[0, 0]).all():
            return np.zeros(image.shape[:2], dtype=np.float32)
        return self.of_class(image)

    def of_class(self, image: np.ndarray) -> np.ndarray:
        """The map of an image that is not constant."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_network": None}
