"""Is there enough in a batch to take statistics of?"""

from __future__ import annotations

from torch import Tensor

from ssl_loc.utils.errors import ConfigError


def check_values(layer: str, input: Tensor, groups: int = 1) -> None:
    """Raise :class:`ConfigError` where (N, C, ...) holds one value per channel and group: it has no variance."""
    if input.numel() != groups * input.shape[1]:
        return
    per, cure = "channel", "set MODEL.NORM SyncBN or FrozenBN"
    if layer == "SyncBN":
        cure = "set MODEL.NORM FrozenBN"
    elif groups > 1:
        per, cure = f"channel and group ({groups} groups)", "lower MODEL.NORM_GROUPS"
    raise ConfigError(
        f"MODEL.NORM {layer} got one value per {per} in this process (input {tuple(input.shape)}); a variance needs "
        f"more: raise SOLVER.IMS_PER_BATCH (or lower SOLVER.ACCUMULATE) or AUGMENT.SIZE, or {cure}"
    )
