"""How many optimiser steps a method has made, for draws that are a function of the step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class StepCount(nn.Module):
    """A number in the state dict that can be read without waiting for a GPU."""

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        # The same number for the CPU; None = read it from the buffer (which stalls a GPU) after weights were loaded.
        self._number: int | None = 0
        self.register_load_state_dict_post_hook(_forget_number)

    def value(self) -> int:
        """Steps made."""
        if self._number is None:
            self._number = int(self.step)
        return self._number

    def advance(self) -> None:
        """One more."""
        self._number = self.value() + 1
        self.step.fill_(self._number)


def _forget_number(count: StepCount, incompatible_keys: Any) -> None:
    count._number = None
