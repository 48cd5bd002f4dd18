"""Random edits of detection recipes: plausible, odd and wrong values for every key of the schema."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ssl_loc.transfer.recipe import ALL_DEFAULTS
from ssl_loc.transfer.torchvision_engine.honoured import HONOURED

Edit = tuple[str, Any]

_NORMS = ["BN", "SyncBN", "naiveSyncBN", "nnSyncBN", "FrozenBN", "GN", "LN", ""]
_SIDES = [(48,), (64, 80), (0,), (65, 66, 67), (80, 64), [72]]
_ANCHORS = [[[16, 32]], [[16], [32], [64], [128], [256]], [[8.5, 20.0]], [8, 64], [[24]], [[12, 24]] * 5]
_RATIOS = [[[1.0]], [[0.5, 1.0, 2.0]], [[0.5, 1, 2]] * 5, [0.7, 1.3], [[0.25, 4.0]]]
_LEVELS = [["res2", "res3", "res4", "res5"], ["res3", "res4", "res5"], ["res4"], ["res4", "res5"], ["res2", "res4"]]
_MAPS = [["res4"], ["p2", "p3", "p4", "p5"], ["p2", "p3", "p4", "p5", "p6"], ["p3", "p4"], ["p4"], ["p7"], ["res2"]]
_WEIGHTS = [(10.0, 10.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), [2, 3, 4, 5], (20, 20, 10, 10)]
_FRACTIONS = [0.0, 0.25, 0.5, 1.0, 0.3]
_LOSSES = ["smooth_l1", "giou", "diou", "ciou"]
_BETAS = [0.0, 0.1, 1.0, 0.111]
_POOLERS = ["ROIAlignV2", "ROIAlign", "ROIPool"]
# Values that somebody may well write. Lengths and sizes stay small, so that whatever is accepted runs in a second.
PLAUSIBLE: dict[str, list[Any]] = {
    "VERSION": [1, 2],
    "TRANSFER.ENGINE": ["auto", "torchvision", "detectron2"],
    "TRANSFER.BACKBONE.NAME": ["ResNet", "resnet50", "ViT"],
    "TRANSFER.BACKBONE.KWARGS": [{"width": 4}, {"depth": 50, "width": 4}, {"depth": 17}, {"width": 0}, {"colour": 1}],
    "TRANSFER.LOG_PERIOD": [1, 2],
    "MODEL.DEVICE": ["cpu", "cuda", "cuda:0", "gpu", "mps"],
    "MODEL.META_ARCHITECTURE": ["GeneralizedRCNN", "RetinaNet"],
    "MODEL.WEIGHTS": ["", "backbone.pth"],
    "MODEL.PIXEL_MEAN": [[123.675, 116.28, 103.53], [103.53, 116.28, 123.675], [0.485, 0.456, 0.406], [0, 0, 0]],
    "MODEL.PIXEL_STD": [[58.395, 57.12, 57.375], [1.0, 1.0, 1.0], [57.375, 57.12, 58.395]],
    "MODEL.BACKBONE.NAME": ["build_resnet_backbone", "build_resnet_fpn_backbone", "build_vit"],
    "MODEL.BACKBONE.FREEZE_AT": [0, 1, 2, 3, 4, 5],
    "MODEL.FPN.IN_FEATURES": [*_LEVELS, []],
    "MODEL.FPN.OUT_CHANNELS": [8, 32, 17],
    "MODEL.FPN.NORM": _NORMS,
    "MODEL.FPN.FUSE_TYPE": ["sum", "avg"],
    "MODEL.PROPOSAL_GENERATOR.NAME": ["RPN", "RRPN"],
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": [0, 4, 30],
    "MODEL.ANCHOR_GENERATOR.SIZES": _ANCHORS,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": _RATIOS,
    "MODEL.ANCHOR_GENERATOR.OFFSET": [0.0, 0.5, 0.25],
    "MODEL.RPN.IN_FEATURES": _MAPS,
    "MODEL.RPN.IOU_THRESHOLDS": [[0.3, 0.7], [0.5, 0.5], [0.1, 0.2], [0.0, 1.0]],
    "MODEL.RPN.IOU_LABELS": [[0, -1, 1], [0, 1, 1]],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": [50000, 100000, 200000],
    "MODEL.RPN.POSITIVE_FRACTION": _FRACTIONS,
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": _LOSSES,
    "MODEL.RPN.BBOX_REG_WEIGHTS": _WEIGHTS,
    "MODEL.RPN.SMOOTH_L1_BETA": _BETAS,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": [1, 20, 200, 100000],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": [1, 20, 200, 100000],
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": [1, 10, 50],
    "MODEL.RPN.POST_NMS_TOPK_TEST": [1, 10, 50],
    "MODEL.RPN.NMS_THRESH": [0.0, 0.3, 0.7, 1.0],
    "MODEL.RPN.CONV_DIMS": [[-1], [-1, -1], [16]],
    "MODEL.RPN.LOSS_WEIGHT": [0.0, 0.5, 2.0],
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": [0.0, 0.5, 2.0],
    "MODEL.ROI_HEADS.NAME": ["Res5ROIHeads", "Res5ROIHeadsExtraNorm", "StandardROIHeads", "CascadeROIHeads"],
    "MODEL.ROI_HEADS.NUM_CLASSES": [1, 2, 3, 80],
    "MODEL.ROI_HEADS.IN_FEATURES": _MAPS,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [[0.5], [0.3], [0.7], [0.4, 0.6]],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": [50000, 100000],
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _FRACTIONS,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": [0.0, 0.05, 0.2, 1.0],
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": [0.0, 0.3, 0.5, 1.0],
    "MODEL.ROI_BOX_HEAD.NAME": ["", "FastRCNNConvFCHead"],
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": _LOSSES,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": _WEIGHTS,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": [0.0, 0.5, 2.0],
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": _BETAS,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": [1, 4, 7],
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": [0, 1, 2],
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_BOX_HEAD.NUM_FC": [0, 1, 2, 3],
    "MODEL.ROI_BOX_HEAD.FC_DIM": [1, 8, 16],
    "MODEL.ROI_BOX_HEAD.NUM_CONV": [0, 1, 2],
    "MODEL.ROI_BOX_HEAD.CONV_DIM": [1, 8, 32],
    "MODEL.ROI_BOX_HEAD.NORM": _NORMS,
    "MODEL.ROI_MASK_HEAD.NAME": ["MaskRCNNConvUpsampleHead", "PointRendMaskHead"],
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": [1, 7, 14],
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": [0, 1, 2],
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": _POOLERS,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": [0, 1, 2],
    "MODEL.ROI_MASK_HEAD.CONV_DIM": [1, 8, 32],
    "MODEL.ROI_MASK_HEAD.NORM": _NORMS,
    "MODEL.RESNETS.DEPTH": [18, 34, 50, 17],
    "MODEL.RESNETS.OUT_FEATURES": _LEVELS,
    "MODEL.RESNETS.NUM_GROUPS": [1, 2, 32],
    "MODEL.RESNETS.NORM": _NORMS,
    "MODEL.RESNETS.WIDTH_PER_GROUP": [64, 4],
    "MODEL.RESNETS.RES5_DILATION": [1, 2],
    "MODEL.RESNETS.RES2_OUT_CHANNELS": [8, 64, 256],
    "MODEL.RESNETS.STEM_OUT_CHANNELS": [8, 64],
    "INPUT.MIN_SIZE_TRAIN": _SIDES,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ["choice", "range"],
    "INPUT.MAX_SIZE_TRAIN": [64, 90, 1333],
    "INPUT.MIN_SIZE_TEST": [0, 48, 77],
    "INPUT.MAX_SIZE_TEST": [64, 90, 1333],
    "INPUT.RANDOM_FLIP": ["horizontal", "vertical", "none"],
    "INPUT.CROP.TYPE": ["relative_range", "absolute"],
    "INPUT.FORMAT": ["RGB", "BGR", "rgb"],
    "INPUT.MASK_FORMAT": ["polygon", "bitmask"],
    "DATASETS.TRAIN": [(), ("voc_2007_trainval",), "voc:/nowhere:2007:train"],
    "DATASETS.TEST": [(), ("voc_2007_test",), "coco:/nowhere:val"],
    "DATALOADER.NUM_WORKERS": [0],
    "DATALOADER.SAMPLER_TRAIN": ["TrainingSampler", "RepeatFactorTrainingSampler"],
    "SOLVER.LR_SCHEDULER_NAME": ["WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"],
    "SOLVER.MAX_ITER": [1, 2, 3],
    "SOLVER.BASE_LR": [0.02, 0.001, 1e-5],
    "SOLVER.BASE_LR_END": [0.0, 1e-5, 0.5],
    "SOLVER.MOMENTUM": [0.0, 0.5, 0.9],
    "SOLVER.WEIGHT_DECAY": [0.0, 1e-4, 0.1],
    "SOLVER.WEIGHT_DECAY_NORM": [0.0, 1e-4, 0.1],
    "SOLVER.WEIGHT_DECAY_BIAS": [None, 0.0, 0, 0.01],
    "SOLVER.BIAS_LR_FACTOR": [0.0, 1.0, 2.0],
    "SOLVER.GAMMA": [0.1, 0.5, 1.0, 2.0],
    "SOLVER.STEPS": [(), (1,), (1, 2), (2, 1), (5, 9), [2]],
    "SOLVER.WARMUP_FACTOR": [0.0, 0.001, 1.0],
    "SOLVER.WARMUP_ITERS": [0, 1, 2, 100],
    "SOLVER.WARMUP_METHOD": ["linear", "constant"],
    "SOLVER.CHECKPOINT_PERIOD": [0, 1, 2],
    "SOLVER.IMS_PER_BATCH": [1, 2, 3],
    "SOLVER.REFERENCE_WORLD_SIZE": [0, 1, 2, 3],
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ["value", "norm", "full_model"],
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": [1.0, 0.001],
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": [1.0, 2.0, float("inf")],
    "TEST.EVAL_PERIOD": [0, 1, 2],
    "TEST.DETECTIONS_PER_IMAGE": [1, 5, 100],
    "TEST.PRECISE_BN.NUM_ITER": [1, 2],
    "OUTPUT_DIR": [""],
    "SEED": [0, 1, -1, 2**31, 2**40],
    "FLOAT32_PRECISION": ["", "high", "exact"],
    "TEST.KEYPOINT_OKS_SIGMAS": [[0.5]],
}
# What slips in: another type, another scale, nothing.
WRONG: list[Any] = ["abc", "", None, True, [], [[]], [1], ["a"], {"a": 1}, -1, 0, -0.5, float("nan"), float("inf")]
_HONOURED = sorted(HONOURED)
# Folder names like any other; the tests would write there.
_NEVER = {"OUTPUT_DIR": ["abc", "a"]}


def plausible(key: str) -> list[Any]:
    """Values for ``key`` that somebody may well write."""
    default = ALL_DEFAULTS[key]
    if key in PLAUSIBLE:
        return PLAUSIBLE[key]
    if isinstance(default, bool):
        return [True, False]
    if isinstance(default, (int, float)):
        return [default, default * 2, type(default)(default / 2)]
    return [default]


def wrong(key: str) -> list[Any]:
    """Values for ``key`` that are of another type, on another scale, or nothing."""
    return [value for value in WRONG if value not in _NEVER.get(key, [])]


def edits() -> st.SearchStrategy[list[Edit]]:
    """One to three edits of any keys, half of them plausible; keys that engines honour are drawn more often."""
    keys = st.one_of(st.sampled_from(sorted(ALL_DEFAULTS)), st.sampled_from(_HONOURED))

    def values(key: str) -> st.SearchStrategy[Edit]:
        value = st.one_of(st.sampled_from(plausible(key)), st.sampled_from(plausible(key) + wrong(key)))
        return st.tuples(st.just(key), value)

    return st.lists(keys.flatmap(values), min_size=1, max_size=3, unique_by=lambda item: item[0])


def plausible_edits(more: dict[str, list[Any]]) -> st.SearchStrategy[list[Edit]]:
    """One to three plausible edits of honoured keys; ``more`` replaces the values of some keys."""
    values = {key: more.get(key, plausible(key)) for key in _HONOURED}
    edit = st.sampled_from([key for key in _HONOURED if values[key]]).flatmap(
        lambda key: st.tuples(st.just(key), st.sampled_from(values[key]))
    )
    return st.lists(edit, min_size=1, max_size=3, unique_by=lambda item: item[0])
