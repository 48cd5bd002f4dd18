"""Keys that every pretraining run has. Everything else is owned by the component that reads it.

Each key is preceded by its meaning, unit, choices and source. Key names follow detectron2 where it has them.
"""

from __future__ import annotations

from ssl_loc.config.fragments import attach
from ssl_loc.config.node import CfgNode


def base_cfg() -> CfgNode:
    """A fresh config: the shared defaults plus the node of every component registered so far."""
    cfg = _shared()
    attach(cfg)
    return cfg


def _shared() -> CfgNode:
    c = CfgNode()
    # Version of the key names; raised when a key changes its meaning.
    c.VERSION = 1
    # Project parts to read before anything else: .py files relative to the yaml, or module names.
    c.IMPORTS = []
    # Where checkpoints, logs, curves and the report of this run go.
    c.OUTPUT_DIR = "./output"
    # Seed of initialisation, data order and every augmentation draw.
    c.SEED = 0
    # "auto" takes the GPU where there is one; "cpu" or "cuda" insist.
    c.DEVICE = "auto"
    c.DATA = _data()
    c.AUGMENT = _augment()
    c.MODEL = _model()
    c.LOSS = _loss()
    c.SOLVER = _solver()
    c.ENGINE = _engine()
    return c


def _data() -> CfgNode:
    c = CfgNode()
    # Dataset to pretrain on: a registered name (tools/list_components.py prints them) or "folder:PATH" and the other
    # path forms of ssl_loc/data/catalog.py.
    c.TRAIN = "scenes_train"
    # Use only the first N images (0 = all).
    c.LIMIT = 0
    # Worker processes per training process; 0 loads in the main process. The batches do not depend on it.
    c.NUM_WORKERS = 2
    # Corrupt images in a row that are named in a warning and passed over before the run stops (cast.md section 7).
    c.MAX_BAD_IMAGES = 10
    c.MASKS = CfgNode()
    # Where saliency masks come from: "none", "folder" (ROOT below, with manifest.json), or "ground_truth" (the
    # dataset's own objects; an oracle that uses labels).
    c.MASKS.SOURCE = "none"
    # Folder of maps with its manifest.json (made by tools/make_saliency.py); for SOURCE "folder".
    c.MASKS.ROOT = ""
    # A map pixel counts as salient if its grey value is greater than this (official CAST code: > 128 of 255).
    c.MASKS.THRESHOLD = 128
    # Missing, unreadable or wrong-size map: "error" stops at build; "skip_att" trains that image without a mask.
    c.MASKS.ON_BAD = "error"
    # Map without a salient pixel: "drop" the image from the index (counted in the log) or "skip_att".
    c.MASKS.EMPTY = "drop"
    # Masks are kept at 1/N of the image size in memory (cheaper; coverage is then exact to N px).
    c.MASKS.REDUCE = 1
    return c


def _augment() -> CfgNode:
    c = CfgNode()
    # Side of the square views in px.
    c.SIZE = 224
    # One list of augmenters per view, applied in order. An entry is a registered name, or {Name: {KEY: value}} to
    # change keys of its node (AUGMENT.<NODE>) for this view only.
    c.VIEWS = [["RandomResizedCrop", "RandomFlip"], ["RandomResizedCrop", "RandomFlip"]]
    # Where colour and blur run: "worker" (on uint8 images) or "device" (batched tensor ops after the transfer).
    c.PHOTOMETRIC_ON = "worker"
    return c


def _model() -> CfgNode:
    c = CfgNode()
    # Registered method.
    c.METHOD = "MoCo"
    # Pixel statistics, RGB, 0..255 (ImageNet, torchvision).
    c.PIXEL_MEAN = [123.675, 116.28, 103.53]
    c.PIXEL_STD = [58.395, 57.12, 57.375]
    # Normalisation layers of trunk and heads: "BN", "SyncBN" (statistics of the global batch, CPU and GPU), "SplitBN"
    # (NORM_GROUPS groups of the global batch), "FrozenBN".
    c.NORM = "SplitBN"
    # Groups that SplitBN cuts the global batch into; 8 emulates the papers' 8 GPUs.
    c.NORM_GROUPS = 8
    # Start from these weights instead of random ones (weights only; to continue a run use --resume): a run folder, a
    # checkpoint, an exported backbone, or a checkpoint of other code (docs/weights.md).
    c.INIT_FROM = ""
    # Stages of the trunk, from the input, that stay as INIT_FROM gave them, weights and norm statistics, in the target
    # too; the stem counts with the first. 0 = all are trained, 4 = none is. CVSA's second stage: 2.
    c.FREEZE_AT = 0
    # Pool the last map of each training view over its saliency mask only: the naive use of saliency that the DiLo paper
    # tried (section 4.2; about 19 points lost). Views without a mask are pooled whole, as all images in evaluation.
    c.FEATURE_MASK_POOL = False
    # NHWC memory for the convolutions: faster on tensor cores and on CPUs with bf16.
    c.CHANNELS_LAST = False
    # torch.compile the trunk (never the head: Grad-CAM differentiates through it).
    c.COMPILE = False
    c.BACKBONE = CfgNode()
    # Registered backbone.
    c.BACKBONE.NAME = "ResNet"
    return c


def _loss() -> CfgNode:
    c = CfgNode()
    # Registered losses, base loss included; each has its weight in its own node LOSS.<NODE>.WEIGHT (0 = not built).
    c.NAMES = ["InfoNCE"]
    # "sum": sum of weight * loss. "convex": the same divided by the sum of weights (official CAST code, cast.md D4).
    c.WEIGHTING = "sum"
    return c


def _solver() -> CfgNode:
    c = CfgNode()
    # Registered optimiser: "SGD", or "LARS" for batches of thousands (SimCLR, BYOL).
    c.OPTIMIZER = "SGD"
    # Images per optimiser step over all processes and accumulation steps.
    c.IMS_PER_BATCH = 256
    # Learning rate at REFERENCE_BATCH images.
    c.BASE_LR = 0.03
    c.REFERENCE_BATCH = 256
    # lr = BASE_LR * (IMS_PER_BATCH / REFERENCE_BATCH) ** {none: 0, linear: 1, sqrt: 0.5}.
    c.LR_SCALING = "linear"
    c.MOMENTUM = 0.9
    c.NESTEROV = False
    c.WEIGHT_DECAY = 1e-4
    # Weight decay of norm layers and biases; -1 = by custom: WEIGHT_DECAY with SGD (MoCo, InstDisc), 0 with LARS.
    c.WEIGHT_DECAY_NORM = -1.0
    # Length of the run: MAX_ITER steps, or, where MAX_ITER is 0, EPOCHS passes over the data.
    c.EPOCHS = 200.0
    c.MAX_ITER = 0
    # "cosine" to 0, or "step": times GAMMA at each of STEPS (fractions of the run).
    c.SCHEDULE = "cosine"
    c.STEPS = [0.6, 0.8]
    c.GAMMA = 0.1
    # Change the lr every "iter" or every "epoch" (MoCo's code: per epoch).
    c.LR_UPDATE = "iter"
    # Linear warm-up in optimiser steps, starting at WARMUP_FACTOR * lr.
    c.WARMUP_ITERS = 0
    c.WARMUP_FACTOR = 0.001
    # Cut each batch into this many parts, one after the other; a memory saver (negatives and queue see the whole).
    c.ACCUMULATE = 1
    # Clip the global gradient norm to this (0 = off; official CAST code: 2.0).
    c.CLIP_NORM = 0.0
    c.AMP = CfgNode()
    # Automatic mixed precision of the trunk; heads, losses and Grad-CAM stay in fp32.
    c.AMP.ENABLED = False
    # "bf16" (CPU and GPU) or "fp16" (GPU, with loss scaling).
    c.AMP.DTYPE = "bf16"
    return c


def _engine() -> CfgNode:
    c = CfgNode()
    # Write scalars every N steps.
    c.LOG_PERIOD = 20
    # Write a checkpoint every N steps (0 = only at the end or when stopped).
    c.CHECKPOINT_PERIOD = 1000
    # Periodic checkpoints to keep (the newest ones; the last one is always kept).
    c.KEEP_CHECKPOINTS = 2
    # Ask torch for deterministic kernels (CPU runs are deterministic anyway).
    c.DETERMINISTIC = False
    c.EVAL_KNN = _eval_knn()
    c.COLLAPSE = _collapse()
    return c


def _collapse() -> CfgNode:
    c = CfgNode()
    # What to do when the features have collapsed: warn | stop (end with an error, keep the last checkpoint) | off.
    c.ACTION = "warn"
    # Collapsed below this share of the even spread, 1 / sqrt(D), of the embedding or of the trunk's features ...
    c.STD = 0.05
    # ... or below this effective rank of either, dimensions.
    c.RANK = 2.0
    # Measurements in a row before the alarm, one per LOG_PERIOD steps.
    c.PATIENCE = 3
    # Measurements between two warnings while it lasts.
    c.REPEAT = 50
    return c


def _eval_knn() -> CfgNode:
    c = CfgNode()
    # Measure the k-NN accuracy of the trunk every N steps and at the end (0 = never); the training is the same with it.
    c.PERIOD = 0
    # Labelled images: a folder with train/ and val/ of class folders, or two datasets separated by a comma.
    c.DATA = ""
    # Use only this many images of each part, evenly spread (0 = all).
    c.LIMIT = 0
    # Neighbours that vote; clamped to the training images. A neighbour with cosine c votes exp(c / T) (InstDisc).
    c.K = 200
    c.T = 0.07
    # Side of the network's input in px; 0 takes AUGMENT.SIZE.
    c.SIZE = 0
    # Images per forward pass, of each process.
    c.BATCH_SIZE = 64
    return c
