"""Protocols that turn frozen weights into numbers, each with a name and a version."""

from ssl_loc.evaluation import (  # registers
    backgrounds,
    class_grounding,
    finetune,
    grounding,
    input_gradients,
    knn,
    linear,
    neighbours,
    places,
    saliency_maps,
    svm,
)
from ssl_loc.evaluation.build import EVALUATOR_REGISTRY
from ssl_loc.evaluation.data import EvalData
from ssl_loc.evaluation.map_folders import open_maps
from ssl_loc.evaluation.weights import Weights, open_weights

__all__ = [
    "EVALUATOR_REGISTRY",
    "EvalData",
    "Weights",
    "backgrounds",
    "finetune",
    "class_grounding",
    "grounding",
    "input_gradients",
    "knn",
    "linear",
    "neighbours",
    "open_maps",
    "open_weights",
    "places",
    "saliency_maps",
    "svm",
]
