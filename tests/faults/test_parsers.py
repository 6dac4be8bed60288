"""Any bytes at all, given to every reader of data: a result of the promised form or a sentence."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnjax.data import load, readers
from nnjax.data.images import prepare


def npz():
    content = io.BytesIO()
    np.savez(content, x=np.eye(4, dtype=np.float32), y=np.arange(4))
    return content.getvalue()


PARTS = [(np.eye(4, dtype=np.float32), np.arange(4))] * 3
SEEDS = {
    ".npz": npz(),
    ".pkl": pickle.dumps(PARTS, 2),
    ".pkl.gz": pickle.dumps(PARTS, 5),
    "-idx1-ubyte": bytes([0, 0, 8, 1]) + struct.pack(">I", 3) + b"abc",
    ".png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0",
}
READERS = {"-idx1-ubyte": readers.read_idx, ".png": prepare}


@pytest.mark.parametrize("ending", SEEDS)
@given(data=st.data())
def test_any_bytes(tmp_path_factory, ending, data):
    seed = SEEDS[ending]
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=200))
    else:
        start = data.draw(st.integers(0, len(seed)))
        end = data.draw(st.integers(start, min(len(seed), start + 20)))
        content = seed[:start] + data.draw(st.binary(max_size=8)) + seed[end:]
    path = tmp_path_factory.getbasetemp() / f"fuzzed{ending}"
    path.write_bytes(content)
    try:
        READERS.get(ending, load)(path)
    except ValueError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)


@given(
    st.recursive(
        LEAF,
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
        max_leaves=10,
    )
)
def test_any_json_as_the_form_of_images(content):
    from nnjax.data.image_format import ImageFormat

    fields = json.loads(json.dumps(content))
    if isinstance(fields, dict) and fields.keys() == {"dtype", "paper", "ink"}:
        return
    with pytest.raises((TypeError, ValueError)):
        ImageFormat(**fields).checked()
