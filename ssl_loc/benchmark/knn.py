"""What k-NN on a million training features costs: rate, memory, and a plain search of a part of them beside it.

The features are simulated: a block of rows is drawn (half precision, as it would lie on disk) when the search asks for
it, so nothing but the search and its block is in memory. Drawing is not part of the times.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_loc.benchmark.rows import Row
from ssl_loc.engine.log_hook import max_memory_mb
from ssl_loc.layers.neighbours import CHUNK_ELEMENTS, neighbours, vote
from ssl_loc.utils.errors import ConfigError
from ssl_loc.utils.progress import progress_bar

# ImageNet-1k in round numbers: training images, numbers of a ResNet-50's pooled vector, classes, neighbours that vote.
ROWS, DIM, CLASSES, K, TEMPERATURE = 1_000_000, 2048, 1000, 200, 0.07
QUERIES = 512
# Rows of the part that the plain search holds as a whole.
PART = 32_768
MEMORY_GOAL_GB = 4.0
# Queries are drawn apart from the training rows, whose blocks have their first row as seed (torch keeps 32 bits).
QUERY_SEED = 1 << 31
# Of class scores, blocks to plain: float32 sums in another order, relative to the largest score.
TOLERANCE = 1e-3
# ImageNet's validation images, for the time of a whole evaluation.
WHOLE = 50_000


class SimulatedRows:
    """Random features (rows, dim) in half precision, the same for the same slice; counts what it gave.

    Attributes:
        largest: rows of the largest slice that was asked for.
        seconds: (wall, CPU) time spent in drawing.
    """

    def __init__(self, rows: int, dim: int, progress: bool = False, seed: int = 0) -> None:
        self.rows, self.dim, self.largest, self.seed = rows, dim, 0, seed
        self.seconds = (0.0, 0.0)
        self._bar = progress_bar(total=rows, desc="k-NN", unit="row", show=progress)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> Tensor:
        wall, cpu = time.perf_counter(), time.process_time()
        start, stop, _ = rows.indices(self.rows)
        # Uniform numbers cost a tenth of normal ones and are as good for timing.
        generator = torch.Generator().manual_seed(self.seed + start)
        block = torch.rand(stop - start, self.dim, generator=generator).sub_(0.5).half()
        self.largest = max(self.largest, len(block))
        if len(block) > 1:
            self._bar.update(len(block))
        past = self.seconds
        self.seconds = (past[0] + time.perf_counter() - wall, past[1] + time.process_time() - cpu)
        return block


def run(rows: int = ROWS, queries: int = QUERIES, rounds: int = 3, progress: bool = True) -> list[Row]:
    """All rows of the benchmark.

    Args:
        rows: simulated training features.
        queries: test features.
        rounds: comparisons with the plain search on a part.
        progress: show a bar.
    """
    if rows < 1 or queries < 1 or rounds < 1:
        raise ConfigError(
            f"k-NN benchmark got {rows} rows, {queries} queries, {rounds} rounds; expected 1 or more each"
        )
    test = SimulatedRows(queries, DIM, seed=QUERY_SEED)[0:queries].float()
    ratio, plain = compare(min(PART, rows), test, rounds)
    where = f"{rows:,} x {DIM}, {queries:,} queries, k {K}, {torch.get_num_threads()} threads"
    train = SimulatedRows(rows, DIM, progress)
    wall, cpu = time.perf_counter(), time.process_time()
    classify(train, test)
    wall = time.perf_counter() - wall - train.seconds[0]
    cpu = time.process_time() - cpu - train.seconds[1]
    pairs = rows * queries
    whole = wall / queries * WHOLE / 60
    goal = f"k-NN peak memory of this process, {where}"
    return [
        Row(f"k-NN rate, {where}", queries / wall, "queries/s"),
        Row("k-NN similarities per CPU second", pairs / cpu / 1e6, "million/s"),
        Row(f"k-NN of {WHOLE:,} queries, extrapolated", whole, "min"),
        Row("k-NN CPU time per similarity on a part, blocks to plain", ratio, "x", f"plain {plain:.1f} million/s"),
        Row.at_most(goal, max_memory_mb(torch.device("cpu")) / 1e3, "GB", "", MEMORY_GOAL_GB),
        Row("k-NN largest block of training rows", train.largest, "rows", f"{CHUNK_ELEMENTS:,} elements allowed"),
    ]


def compare(part: int, test: Tensor, rounds: int) -> tuple[float, float]:
    """CPU time of the search in blocks to the plain one on ``part`` rows (median of ``rounds``), and the plain rate in
    million similarities per second. Both start from the same stored features, normalise, search and vote.

    Raises:
        RuntimeError: they disagree; a rate of wrong answers is worth nothing.
    """
    stored = SimulatedRows(part, DIM)[0:part]
    ratios, rates = [], []
    for _ in range(rounds):
        start = time.process_time()
        expected = plain(stored, test)
        middle = time.process_time()
        scores = classify(stored, test)
        end = time.process_time()
        agree(scores, expected)
        ratios.append((end - middle) / (middle - start))
        rates.append(part * len(test) / (middle - start) / 1e6)
    return statistics.median(ratios), statistics.median(rates)


def agree(scores: Tensor, expected: Tensor) -> None:
    """Raise a RuntimeError where the class scores of two searches differ by more than rounding."""
    apart = float((scores - expected).abs().max() / expected.abs().max())
    if not apart <= TOLERANCE:
        raise RuntimeError(f"the search in blocks and the plain one differ by {apart:.2g} of the largest score")


def classify(train: Tensor | SimulatedRows, test: Tensor) -> Tensor:
    """Class scores by the project's search; labels go round."""
    cosines, indices = neighbours(train, test, K)
    return vote(cosines, indices % CLASSES, CLASSES, TEMPERATURE)


def plain(train: Tensor, test: Tensor) -> Tensor:
    """Class scores as scripts write it: everything at once, all similarities in memory."""
    similarity = F.normalize(test, dim=1) @ F.normalize(train.float(), dim=1).T
    cosines, indices = similarity.topk(min(K, len(train)), dim=1)
    return vote(cosines, indices % CLASSES, CLASSES, TEMPERATURE)
