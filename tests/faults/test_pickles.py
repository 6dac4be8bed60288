"""Hostile pickles: nothing that a pickle names is called, built or changed."""

import contextlib
import gzip
import pickle
import pickletools
import struct
import subprocess
import sys

import numpy as np
import pytest

from nnjax.data import load, pickles
from nnjax.data.readers import read_pickle

FORGED = b"A" * 8  # as a pointer it points at nothing


def opcodes(*parts):
    return b"\x80\x04" + b"".join(parts) + b"."


def text(string):
    return b"X" + struct.pack("<I", len(string)) + string.encode()


def data(content):
    return b"B" + struct.pack("<I", len(content)) + content


DTYPE = b"cnumpy\ndtype\n"
NDARRAY = b"cnumpy\nndarray\n"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n" + NDARRAY + b"K\x00\x85C\x01b\x87R"


def float4(*state):
    """The dtype f4, with a state set on it if one is given."""
    made = DTYPE + text("f4") + b"\x89\x88\x87R"
    return made + b"(" + b"".join(state) + b"tb" if state else made


def array_state(shape, dtype, content):
    return b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


HOSTILE = {
    "an object array of raw pointers": opcodes(
        NDARRAY, b"(K\x01\x85", text("O"), data(FORGED), b"tR"
    ),
    "records of pointers": opcodes(
        NDARRAY, b"(K\x01\x85](", text("a"), text("O"), b"\x86e", data(FORGED), b"tR"
    ),
    "a dtype that forgets it holds objects": opcodes(
        NDARRAY, b"(K\x01\x85", DTYPE, text("O"), b"\x85R",
        b"(K\x03", text("|"), b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        data(FORGED), b"tR",
    ),
    "a dtype with fields": opcodes(
        RECONSTRUCT,
        array_state(
            b"K\x01\x85",
            float4(b"K\x03", text("|"), b"N(", text("a"), b"t}", text("a"), DTYPE, text("O"),
                   b"\x85RK\x00\x86sK\x08K\x01K\x00"),
            data(FORGED),
        ),
    ),
    "ndarray with strides": opcodes(
        NDARRAY, b"(K\x01\x85", text("f8"), data(b"\0" * 8), b"K\x00J\x00\x00\x00\x40\x85tR"
    ),
    "objects in the state of an array": opcodes(
        RECONSTRUCT, array_state(b"K\x01\x85", DTYPE + text("O") + b"\x89\x88\x87R", b"]K\x01a")
    ),
    "a list in place of bytes": opcodes(
        RECONSTRUCT, array_state(b"K\x01\x85", float4(), b"]K\x01a")
    ),
    "a shape larger than the bytes": opcodes(
        RECONSTRUCT, array_state(b"\x8a\x08" + b"\xff" * 7 + b"\x7f\x85", float4(), data(b"\0" * 4))
    ),
    "a negative shape": opcodes(
        RECONSTRUCT,
        array_state(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86", float4(), data(b"\0" * 4)),
    ),
    "a shape of a million lengths": opcodes(
        RECONSTRUCT, array_state(b"(" + b"K\x01" * 1_000_000 + b"t", float4(), data(b"\0" * 4))
    ),
    "a shape that is no tuple": opcodes(
        RECONSTRUCT, array_state(b"K\x01", float4(), data(b"\0" * 4))
    ),
    "a dtype by a dict": opcodes(DTYPE, b"}", text("names"), b"]s\x85R"),
    "a dtype of text": opcodes(DTYPE, text("U1000000000"), b"\x85R"),
    "a dtype of a long list": opcodes(DTYPE, b"](" + (text("f4") * 10_000) + b"e\x85R"),
    "changing a function": opcodes(DTYPE, b"}", text("x"), b"K\x01sb"),
    "changing a tuple": opcodes(b")N}", text("x"), b"K\x01s\x86b"),
    "the two steps of a class": opcodes(NDARRAY, b")\x81"),
    "an instance": b"(inumpy\nndarray\n.",
    "a persistent name": b"Pevil\n.",
    "an extension": opcodes(b"\x82\x01"),
    "a buffer from elsewhere": b"\x80\x05\x97.",
    "a memo of two billion places": opcodes(b"Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e"),
    "bytes that are not there": opcodes(b"\x8e" + b"\xff" * 7 + b"\x7f"),
    "a bytearray that is not there": b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.",
    "a frame that is not there": b"\x80\x04\x95" + b"\xff" * 8,
    "a mark that is not there": opcodes(b"t"),
    "nothing to pop": opcodes(b"000"),
    "nothing at all": b"\x80\x04.",
    "no end": b"\x80\x04N",
    "a list as a key": opcodes(b"}]K\x01s"),
    "a tuple of tuples of itself as text": opcodes(
        DTYPE, text("x"), *[b"\x94h" + bytes([i]) + b"\x86" for i in range(60)], b"\x85R"
    ),
    "a tuple of tuples of itself as a name": opcodes(
        text("x"), *[b"\x94h" + bytes([i]) + b"\x86" for i in range(20)], text("y"), b"\x93"
    ),
    "an encoding": opcodes(b"c_codecs\nencode\n", text("a"), text("rot13"), b"\x86R"),
    "terminal escapes": b"c\x1b[2Jos\nsystem\n.",
    "an array twice filled": opcodes(
        RECONSTRUCT, *[array_state(b"K\x01\x85", float4(), data(b"\0" * 4))] * 2
    ),
    "an array never filled": opcodes(RECONSTRUCT),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_ends_in_a_sentence(tmp_path, name):
    path = tmp_path / "evil.pkl"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match=r"refused: only NumPy|truncated or corrupt") as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert said.isprintable()
    assert len(said) < 300 + len(str(path))


def test_a_forged_pointer_is_not_followed(tmp_path):
    """In a process of its own: what used to happen was a segmentation fault."""
    for i, (name, content) in enumerate(HOSTILE.items()):
        if "pointer" in name or "forgets" in name or "fields" in name:
            (tmp_path / f"{i}.pkl").write_bytes(content)
    code = (
        "import pathlib, sys\n"
        "from nnjax.data import load\n"
        "for path in pathlib.Path(sys.argv[1]).iterdir():\n"
        "    try: [[x, y] for x, y in load(path)]\n"
        "    except ValueError as error: print('refused' in str(error))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["True"] * 4


def test_no_function_of_numpy_is_called(monkeypatch):
    """Not even by a pickle that is in order: its arrays are made by np.frombuffer."""
    content = pickle.dumps([np.arange(3), np.zeros((2, 2), np.float32)], 2)

    def called(*arguments):
        raise AssertionError("called")

    reconstruct = np.empty(0).__reduce_ex__(2)[0]
    monkeypatch.setattr(sys.modules[reconstruct.__module__], "_reconstruct", called)
    with pytest.raises(AssertionError):
        pickle.loads(content)
    assert pickles.loads(content)[0].tolist() == [0, 1, 2]


def test_one_container_in_many_places_takes_no_more_memory(tmp_path):
    """Ten tuples of ten tuples of ... : 10^12 leaves in 300 bytes."""
    content = opcodes(b"N", *[b"\x94" + b"h" + bytes([i]) + b"\x86" for i in range(40)])
    assert isinstance(pickles.loads(content), tuple)
    for nested in (content, opcodes(b"(" * 200_000 + b"t" * 200_000)):
        (tmp_path / "a.pkl").write_bytes(nested)
        with pytest.raises(ValueError, match="expected three pairs"):
            load(tmp_path / "a.pkl")


BYTES, U1 = data(bytes(100_000)), DTYPE + text("u1") + b"\x85R"
LENGTH = b"J" + struct.pack("<i", 100_000) + b"\x85"


@pytest.mark.parametrize(
    ("remembered", "array"),
    [
        (BYTES + U1 + LENGTH + text("C"), b"cnumpy.core.numeric\n_frombuffer\nh\0R"),
        (text("a" * 100_000) + text("latin1"), b"c_codecs\nencode\nh\0R"),
        (b"K\x01" + LENGTH + U1 + b"\x89" + BYTES, RECONSTRUCT + b"h\0b"),
    ],
    ids=["from bytes", "from text", "state"],
)
def test_the_same_bytes_are_not_copied_again_and_again(tmp_path, remembered, array):
    """A few opcodes for every copy: a megabyte took gigabytes."""

    def copies(n):
        (tmp_path / "a.pkl").write_bytes(opcodes(b"(", remembered, b"tq\0", b"](", array * n, b"e"))
        return read_pickle(tmp_path / "a.pkl")

    assert [len(each) for each in copies(2)] == [100_000] * 2
    with pytest.raises(
        ValueError, match=r"it asks for more than 20\d,\d{3} bytes of arrays, though"
    ):
        copies(3)


def test_lengths_that_no_array_has_are_not_multiplied():
    with pytest.raises(ValueError, match="the shape of an array is not a few lengths"):
        pickles.array_from_bytes(b"", np.dtype("u1"), (0, 10**100))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6)[::2],
        np.array([True, False]),
        np.arange(3, dtype=">i4"),
        np.zeros((0, 3), np.float16),
        np.array(2.5),
    ],
    ids=["columns", "strided", "bool", "big-endian", "empty", "scalar"],
)
def test_arrays_of_every_layout_come_back(protocol, array):
    plain = {"a": [array, (array,)], 2: ["text", b"bytes", None, 2.5, -(10**30), True, {}]}
    read = pickles.loads(pickle.dumps(plain, protocol))
    assert read[2] == plain[2]
    for found in (read["a"][0], read["a"][1][0]):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
        assert found.flags.owndata
        assert found.flags.writeable


def test_every_opcode_is_known_or_refused():
    """Whatever opcodes a pickle holds, in whatever order, it ends in a sentence."""
    rng = np.random.default_rng(0)
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    good = pickle.dumps([np.arange(5), {"a": (1.5, "b")}], 2)
    for _ in range(3000):
        content = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(content))
            content[place : place + rng.integers(3)] = codes[rng.integers(len(codes))]
        with contextlib.suppress(ValueError):
            pickles.loads(bytes(content))


def test_a_gzipped_bomb(tmp_path):
    (tmp_path / "a.pkl.gz").write_bytes(gzip.compress(bytes(2**28 + 1), 1))
    with pytest.raises(
        ValueError, match=r"a\.pkl\.gz: its .* bytes unpack to more than 268,435,456"
    ):
        read_pickle(tmp_path / "a.pkl.gz")
