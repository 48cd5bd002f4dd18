"""Numbers of a run: averaged over a window and over processes, then written to files people and tools read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ssl_loc.utils import comm
from ssl_loc.utils.file_io import atomic_write

METRICS_FILE = "metrics.jsonl"


class ScalarWindow:
    """Collects numbers by name between two log steps.

    Tensors stay on their device until :meth:`reduce`, so that collecting never waits for a GPU.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        """Add one observation; a tensor must hold one element."""
        if isinstance(value, Tensor):
            value = value.detach().reshape(()).to(torch.float64 if value.device.type == "cpu" else torch.float32)
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def update(self, values: dict[str, Tensor | float]) -> None:
        """Add one observation of each."""
        for name, value in values.items():
            self.add(name, value)

    def reduce(self, device: torch.device | str = "cpu") -> dict[str, float]:
        """Mean of every number over its observations on all processes; empties the window. Collective.

        ``device`` is where the processes exchange tensors (the GPU under nccl). A number that only some processes
        saw (no image of the others had a mask, say) is averaged over those that did.
        """
        names = sorted(set().union(*comm.all_gather_object(list(self._sums))))
        sums = [torch.as_tensor(self._sums.get(n, 0.0), dtype=torch.float64, device=device) for n in names]
        counts = [float(self._counts.get(n, 0)) for n in names]
        self._sums, self._counts = {}, {}
        if not names:
            return {}
        table = torch.stack([torch.stack(sums), torch.tensor(counts, dtype=torch.float64, device=device)])
        total, count = (comm.all_reduce_mean(table) * comm.get_world_size()).tolist()
        return {name: t / c for name, t, c in zip(names, total, count, strict=True)}


class Writer(Protocol):
    """Receives the numbers of one logged step."""

    def write(self, iteration: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One json object per logged step: ``{"iteration": i, name: number, ...}``.

    Opening it at iteration S drops lines after S, which a run that died past its last checkpoint had written; so a
    resumed run's curve has one value per iteration.
    """

    def __init__(self, folder: str | os.PathLike, start_iteration: int = 0) -> None:
        self.path = Path(folder) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [row for row in read_metrics(self.path) if row["iteration"] <= start_iteration]
            with atomic_write(self.path, "w") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in kept)
        self._stream = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the run

    def write(self, iteration: int, values: dict[str, float]) -> None:
        self._stream.write(json.dumps({"iteration": iteration, **values}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class TensorBoardWriter:
    """Scalars for TensorBoard; steps after ``start_iteration`` of an earlier run in the folder are hidden."""

    def __init__(self, folder: str | os.PathLike, start_iteration: int = 0) -> None:
        # Heavy (about a second), and only this class needs it.
        from torch.utils.tensorboard import SummaryWriter

        purge = start_iteration + 1 if start_iteration else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def write_image(self, name: str, image: Tensor, iteration: int) -> None:
        """A picture, (3, H, W) uint8."""
        self._writer.add_image(name, image, iteration)

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl (or of the run folder that holds one); a last line cut short by a crash is left out."""
    path = Path(path)
    lines = (path / METRICS_FILE if path.is_dir() else path).read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number != len(lines):
                raise
    return rows
