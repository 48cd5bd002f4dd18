"""The compiler of the saliency estimators' inner loops, and what to do where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from ssl_loc.utils.errors import UserError

Function = TypeVar("Function", bound=Callable[..., Any])


class CompilerMissingError(UserError):
    """numba is not installed."""


def compiled(function: Function) -> Function:
    """Compile a function of numbers and arrays to machine code at its first call; kept on disk for later processes.

    Without fast-math: the same input gives the same bits in every process.

    Raises:
        CompilerMissingError: numba cannot be imported.
    """
    try:
        from numba import njit
    except ImportError as error:
        raise CompilerMissingError(
            f"saliency estimators need numba, which cannot be imported ({error}); install it with: "
            "pip install 'numba>=0.59', or use stored maps (--method precomputed), which need no compiler"
        ) from None
    return cast(Function, njit(cache=True, error_model="numpy", boundscheck=False)(function))
