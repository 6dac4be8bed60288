"""What TensorBoard reads back is what was recorded."""

import struct
import sys

import numpy as np
import pytest

from nnjax.training.tensorboard import tensorboard


def test_every_number_becomes_a_point(tmp_path, monkeypatch):
    points = {}

    class Writer:
        def __init__(self, folder):
            assert folder == str(tmp_path)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            points["closed"] = True

        def add_scalar(self, tag, value, step):
            points[tag, step] = value

        def flush(self):
            pass

    monkeypatch.setattr("tensorboardX.SummaryWriter", Writer)
    with tensorboard(tmp_path, often=["dead"]) as write:
        write({"epoch": 0, "train_loss": 0.5, "error_norms": np.array([0.1, 0.2])})
        write({"epoch": 1, "train_loss": 0.25, "error_norms": [[1.0], [2.0]]})
        write({"epoch": 2, "dead": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]})
    assert points == {
        ("train_loss", 0): 0.5,
        ("error_norms/0", 0): 0.1,
        ("error_norms/1", 0): 0.2,
        ("train_loss", 1): 0.25,
        ("error_norms/0/0", 1): 1.0,
        ("error_norms/1/0", 1): 2.0,
        ("dead/0", 6): 0.1,
        ("dead/1", 6): 0.2,
        ("dead/0", 7): 0.3,
        ("dead/1", 7): 0.4,
        ("dead/0", 8): 0.5,
        ("dead/1", 8): 0.6,
        "closed": True,
    }


def test_without_tensorboardx_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with (
        pytest.raises(ImportError, match=r'pip install "nnjax\[tensorboard\]"'),
        tensorboard(tmp_path),
    ):
        pass


def steps(folder, tag):
    """Return the steps of all points of a curve, from the event files (TFRecords) in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in folder.glob("events.out.tfevents.*"):
        content, start = file.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            found += [event.step for value in event.summary.value if value.tag == tag]
            start += 12 + length + 4
    return sorted(found)


def test_a_run_that_continues_writes_every_point_once(tmp_path):
    records = [{"epoch": epoch, "train_loss": 1.0 / (1 + epoch)} for epoch in range(4)]
    with tensorboard(tmp_path) as write:
        for record in records[:3]:
            write(record)
    (tmp_path / "notes.txt").touch()
    with tensorboard(tmp_path, records=records[:2]) as write:  # the third was after the checkpoint
        for record in records[2:]:
            write(record)
    assert steps(tmp_path, "train_loss") == [0, 1, 2, 3]
    assert (tmp_path / "notes.txt").exists()
