"""SLIC superpixels: compact patches of one colour, compiled.

Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", PAMI 2012.
"""

from __future__ import annotations

import numpy as np

from ssl_loc.saliency.compiled import compiled

# Assignment and update rounds; the maps are as good as with the paper's 10.
ROUNDS = 5
# A patch smaller than this share of the mean one joins a neighbour (paper: 1/4).
MIN_SHARE = 0.25


def slic(lab: np.ndarray, count: int, compactness: float = 20.0, rounds: int = ROUNDS) -> tuple[np.ndarray, int]:
    """Partition an image into about ``count`` superpixels.

    Args:
        lab: float32 (3, h, w), contiguous planes L 0..100, a, b.
        count: how many superpixels are asked for, >= 1.
        compactness: colour difference that weighs as much as the spacing of the superpixels.
        rounds: of assignment and update.

    Returns:
        int32 (h, w) labels 0..n-1 in reading order of their first pixels, each 4-connected; and n.
    """
    _, height, width = lab.shape
    spacing = max(1.0, np.sqrt(height * width / max(1, count)))
    rows, columns = max(1, round(height / spacing)), max(1, round(width / spacing))
    labels = np.empty((height, width), dtype=np.int32)
    _cluster(lab, rows, columns, np.float32((compactness / spacing) ** 2), rounds, labels)
    min_size = max(1, int(MIN_SHARE * height * width / (rows * columns)))
    return _connect(labels, min_size)


@compiled
def _cluster(lab, rows, columns, weight, rounds, labels):  # type: ignore[no-untyped-def]
    """k-means in colour and place, each centre looking only around itself; starts from a grid."""
    _, height, width = lab.shape
    count = rows * columns
    reach_y, reach_x = height / rows, width / columns
    for y in range(height):
        row = min(rows - 1, int(y / reach_y))
        for x in range(width):
            labels[y, x] = row * columns + min(columns - 1, int(x / reach_x))
    centres = np.zeros((count, 5), dtype=np.float32)
    best = np.empty((height, width), dtype=np.float32)
    for _ in range(rounds):
        _move(lab, labels, centres)
        best[:] = np.float32(np.inf)
        for k in range(count):
            _claim(lab, centres, k, reach_y, reach_x, weight, best, labels)


@compiled
def _move(lab, labels, centres):  # type: ignore[no-untyped-def]
    """Each centre to the mean of its pixels; one without pixels stays."""
    _, height, width = lab.shape
    sums = np.zeros((centres.shape[0], 6), dtype=np.float32)
    for y in range(height):
        for x in range(width):
            total = sums[labels[y, x]]
            total[0] += lab[0, y, x]
            total[1] += lab[1, y, x]
            total[2] += lab[2, y, x]
            total[3] += np.float32(y)
            total[4] += np.float32(x)
            total[5] += np.float32(1)
    for k in range(centres.shape[0]):
        if sums[k, 5] > 0:
            for i in range(5):
                centres[k, i] = sums[k, i] / sums[k, 5]


@compiled
def _claim(lab, centres, k, reach_y, reach_x, weight, best, labels):  # type: ignore[no-untyped-def]
    """Give centre ``k`` the pixels around it that it is nearest to so far."""
    _, height, width = lab.shape
    c0, c1, c2, cy, cx = centres[k, 0], centres[k, 1], centres[k, 2], centres[k, 3], centres[k, 4]
    top, bottom = max(0, int(cy - reach_y)), min(height, int(cy + reach_y) + 2)
    left, right = max(0, int(cx - reach_x)), min(width, int(cx + reach_x) + 2)
    label = np.int32(k)
    for y in range(top, bottom):
        dy = np.float32(y) - cy
        across = weight * dy * dy
        row0, row1, row2 = lab[0, y, left:right], lab[1, y, left:right], lab[2, y, left:right]
        near, owner = best[y, left:right], labels[y, left:right]
        for i in range(right - left):
            d0, d1, d2 = row0[i] - c0, row1[i] - c1, row2[i] - c2
            dx = np.float32(left + i) - cx
            distance = d0 * d0 + d1 * d1 + d2 * d2 + across + weight * dx * dx
            old, before = near[i], owner[i]
            closer = distance < old
            near[i] = distance if closer else old
            owner[i] = label if closer else before


@compiled
def _root(parent, i):  # type: ignore[no-untyped-def]
    """First run of the patch that run ``i`` belongs to."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def _runs(labels, run, parent, size, before):  # type: ignore[no-untyped-def]
    """Cut rows into runs of one label and join those that touch; returns the number of runs.

    Fills, per pixel, its ``run``; per run, its ``parent`` (an earlier run of the same patch, or itself), its ``size``
    and the run ``before`` it: to the left, at the start of a row above, -1 for the first.
    """
    height, width = labels.shape
    count = 0
    for y in range(height):
        x = 0
        while x < width:
            mine, start, root, last = labels[y, x], x, count, -1
            parent[count] = count
            before[count] = run[y, x - 1] if x > 0 else (run[y - 1, 0] if y > 0 else -1)
            while x < width and labels[y, x] == mine:
                run[y, x] = count
                if y > 0 and labels[y - 1, x] == mine and run[y - 1, x] != last:
                    last = run[y - 1, x]
                    above = _root(parent, last)
                    parent[max(root, above)] = min(root, above)
                    root = min(root, above)
                x += 1
            size[count] = x - start
            count += 1
    return count


@compiled
def _connect(labels, min_size):  # type: ignore[no-untyped-def]
    """Split labels into 4-connected patches, join small ones to the patch before them; labels in reading order."""
    height, width = labels.shape
    run = np.empty((height, width), dtype=np.int32)
    parent, size, before = (
        np.empty(height * width, dtype=np.int32),
        np.empty(height * width, dtype=np.int32),
        np.empty(height * width, dtype=np.int32),
    )
    runs = _runs(labels, run, parent, size, before)
    # Every root comes before the other runs of its patch, so it collects their sizes and decides first.
    for i in range(runs):
        parent[i] = _root(parent, i)
        if parent[i] != i:
            size[parent[i]] += size[i]
    final = np.empty(runs, dtype=np.int32)
    count = 0
    for i in range(runs):
        if parent[i] != i:
            final[i] = final[parent[i]]
        elif size[i] < min_size and before[i] >= 0:
            final[i] = final[before[i]]
        else:
            final[i] = count
            count += 1
    for y in range(height):
        for x in range(width):
            run[y, x] = final[run[y, x]]
    return run, count
