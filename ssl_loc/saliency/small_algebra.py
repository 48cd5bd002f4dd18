"""What a process needs to be fast on many small matrices: one thread for them, and memory that is not given back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import numpy as np
from threadpoolctl import ThreadpoolController

# Larger than all matrices of one image together.
KEPT_BYTES = 24 << 20


def small_algebra() -> AbstractContextManager:
    """A context in which the linear algebra of this process uses one thread.

    More threads are slower on matrices of some hundred rows, and far slower where processes compete for the cores.
    """
    return _blas().limit(limits=1)


@cache
def _blas() -> ThreadpoolController:
    # glibc gives free memory back to the system above a limit that follows the largest block freed so far. Below it the
    # matrices of every image would be fresh pages, which the system clears: 2 of 10 ms.
    block = np.empty(KEPT_BYTES, dtype=np.uint8)
    del block
    # Looking for the libraries takes 20 ms, so it is done once; numpy and scipy have loaded theirs by now.
    return ThreadpoolController().select(user_api="blas")
