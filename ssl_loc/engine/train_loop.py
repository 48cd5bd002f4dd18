"""The iteration loop and what hangs on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ssl_loc.engine.step import StepResult, TrainStep
from ssl_loc.structures import Views


class Hook:
    """Something that happens around every step. The loop calls, in the order in which hooks were given::

        for hook in hooks: hook.before_train(loop)
        while loop.iteration < loop.max_iter and not loop.stopped_by:
            for hook in hooks: hook.before_step(loop)
            batch = next(loop.batches)
            loop.result = loop.step(batch, loop.iteration, loop.monitor)
            for hook in hooks: hook.after_step(loop)    # loop.iteration is still the step just made
            loop.iteration += 1
        for hook in hooks: hook.after_train(loop)       # not after an exception
        for hook in hooks: hook.close()                 # always: close files and bars

    All processes run all hooks at the same iterations, so a hook may use collectives.
    """

    def before_train(self, loop: TrainLoop) -> None: ...

    def before_step(self, loop: TrainLoop) -> None: ...

    def after_step(self, loop: TrainLoop) -> None: ...

    def after_train(self, loop: TrainLoop) -> None: ...

    def close(self) -> None: ...


class TrainLoop:
    """Runs steps ``start_iteration`` .. ``max_iter - 1``.

    Attributes:
        iteration: the step in progress, 0-based; after the loop, the number of steps made since the run began.
        result: what the last step gave.
        extra: numbers that hooks have measured after the step in progress; hooks that write come after them.
        monitor: set by a hook in before_step: this step shall also compute the monitor's numbers.
        data_seconds: time the last step waited for its batch.
        stopped_by: number of the signal that ended the loop early, 0 if none; set by a hook in after_step.
    """

    def __init__(
        self,
        step: TrainStep,
        batches: Iterator[Views],
        hooks: Sequence[Hook],
        max_iter: int,
        start_iteration: int = 0,
    ) -> None:
        self.step, self.batches, self.hooks = step, batches, list(hooks)
        self.max_iter, self.start_iteration, self.iteration = max_iter, start_iteration, start_iteration
        self.result: StepResult | None = None
        self.monitor = False
        self.extra: dict[str, float] = {}
        self.data_seconds = 0.0
        self.stopped_by = 0

    @property
    def is_last(self) -> bool:
        """True if no step follows the one in progress."""
        return self.iteration + 1 >= self.max_iter or bool(self.stopped_by)

    def train(self) -> None:
        """Run to the end, to a stop request, or to an exception."""
        try:
            for hook in self.hooks:
                hook.before_train(self)
            while self.iteration < self.max_iter and not self.stopped_by:
                self._one_step()
            for hook in self.hooks:
                hook.after_train(self)
        finally:
            for hook in self.hooks:
                hook.close()

    def _one_step(self) -> None:
        self.extra = {}
        for hook in self.hooks:
            hook.before_step(self)
        start = time.perf_counter()
        batch = next(self.batches)
        self.data_seconds = time.perf_counter() - start
        self.result = self.step(batch, self.iteration, self.monitor)
        for hook in self.hooks:
            hook.after_step(self)
        self.iteration += 1
