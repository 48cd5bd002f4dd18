"""Building blocks of methods: norms, shuffle-BN, EMA, queue, memory bank. Depends on torch and utils only."""

from ssl_loc.layers.counter_draw import draw
from ssl_loc.layers.ema import ema_update
from ssl_loc.layers.feature_queue import FeatureQueue
from ssl_loc.layers.memory_bank import MemoryBank
from ssl_loc.layers.norm import NORMS, FrozenBN, frozen_statistics, make_norm, needs_shuffle
from ssl_loc.layers.shuffle_bn import ShuffleBN
from ssl_loc.layers.split_bn import SplitBN, average_split_statistics
from ssl_loc.layers.sync_bn import SyncBN

__all__ = [
    "NORMS",
    "FeatureQueue",
    "FrozenBN",
    "MemoryBank",
    "ShuffleBN",
    "SplitBN",
    "SyncBN",
    "average_split_statistics",
    "draw",
    "ema_update",
    "frozen_statistics",
    "make_norm",
    "needs_shuffle",
]
