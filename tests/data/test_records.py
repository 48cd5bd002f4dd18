"""Records: what goes in comes out, and a million of them stay one buffer."""

import os

import numpy as np

from ssl_loc.data.records import Record, RecordTable


def test_round_trip_of_every_field():
    code = {"size": [4, 4], "counts": [0, 16]}
    full = Record(
        path="/a/b.jpg",
        label=3,
        key="b",
        boxes=np.array([[0, 1, 2.5, 3]], dtype=np.float32),
        segments=[[np.array([0.5, 0, 2, 0, 2, 2])], code],
    )
    table = RecordTable.pack(iter([full, Record("/a/c.jpg")]))
    back, plain = table
    assert (back.path, back.label, back.key) == ("/a/b.jpg", 3, "b")
    assert back.boxes.tolist() == [[0, 1, 2.5, 3]]
    assert back.segments[0][0].tolist() == [0.5, 0, 2, 0, 2, 2]
    assert back.segments[1] == code
    assert (plain.path, plain.label, plain.key, plain.boxes, plain.segments) == ("/a/c.jpg", -1, "", None, None)
    assert table.labels.tolist() == [3, -1]


def test_select_and_slice_share_the_buffer_and_keep_labels():
    table = RecordTable.pack(Record(f"{i}.png", label=i) for i in range(6))
    part = table.select([4, 0, 2])
    assert [r.path for r in part] == ["4.png", "0.png", "2.png"]
    assert part.labels.tolist() == [4, 0, 2]
    assert [r.path for r in part[1:]] == ["0.png", "2.png"]
    assert np.shares_memory(part._buffer, table._buffer)
    assert [r.label for r in table[:2]] == [0, 1]


def _private_kib(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup") as stream:
        rows = dict(line.split(":", 1) for line in stream if ":" in line)
    return int(rows["Private_Dirty"].split()[0])


def test_a_million_records_are_one_buffer_that_a_forked_worker_does_not_copy():
    count = 1_000_000
    table = RecordTable.pack(Record(f"/data/photos/train/{i:012d}.jpg", key=f"{i:012d}") for i in range(count))
    assert len(table) == count
    assert table[654_321].path == "/data/photos/train/000000654321.jpg"
    assert table.nbytes < 120 * count
    if not os.path.exists("/proc/self/smaps_rollup"):
        return
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:  # a worker that reads a lot of records
        before = _private_kib(os.getpid())
        for i in range(0, count, 20):
            table[i]
        os.write(write_end, str(_private_kib(os.getpid()) - before).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    grown_kib = int(os.read(read_end, 32))
    assert grown_kib * 1024 < table.nbytes / 10
