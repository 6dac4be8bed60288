"""IDX, npz and pickle files: what was written comes back, what is damaged is refused."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nnjax.data.readers import (
    IDX_FILES,
    find_idx,
    map_member,
    read_idx,
    read_npz,
    read_pickle,
)
from nnjax.data.stream import Folder

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array):
    """The array as an IDX file, written from the description of the format."""
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim])
    lengths = struct.pack(f">{array.ndim}I", *array.shape)
    return header + lengths + array.astype(array.dtype.newbyteorder(">")).tobytes()


@given(data=st.data(), dtype=st.sampled_from(sorted(CODES)), zipped=st.booleans())
def test_idx_of_any_type_and_rank_comes_back(tmp_path_factory, data, dtype, zipped):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3))
    array = data.draw(hnp.arrays(dtype, shape))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx_bytes(array)) if zipped else idx_bytes(array))
    read = read_idx(path)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
ZIPPED = gzip.compress(idx_bytes(IMAGES), mtime=0)  # the same bytes whenever tests are collected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file.*got nothing"),
        (b"\0\0\x08", "not an IDX file.*got 00 00 08"),
        (b"\x89PNG....", "not an IDX file.*got 89 50 4e 47"),
        (b"\0\0\x0a\x01\0\0\0\0", "not an IDX file.*got 00 00 0a 01"),
        (idx_bytes(IMAGES)[:10], "truncated: it ends within its header of 16 bytes"),
        (
            idx_bytes(IMAGES)[:-1],
            r"truncated: 39 bytes, expected 40 for uint8 of shape \(2, 3, 4\)",
        ),
        (idx_bytes(IMAGES) + b"\0", "too long: 41 bytes, expected 40"),
        (b"\0\0\x0e\x03" + b"\xff" * 12, "truncated: 16 bytes"),
        (ZIPPED[:-9], "a truncated or corrupt gzip file"),
        (ZIPPED[:-8] + b"\0" * 8, "truncated or corrupt gzip file.*CRC"),
        (b"\x1f\x8b" + b"\xff" * 20, "a truncated or corrupt gzip file"),
    ],
)
def test_damaged_idx_is_refused_in_one_sentence(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_idx(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("infix", ["-idx", ".idx"])
def test_find_idx_knows_the_spellings(tmp_path, infix, ending):
    paths = {file: tmp_path / (file.replace("-idx", infix) + ending) for file in IDX_FILES}
    for path in paths.values():
        path.touch()
    assert find_idx(tmp_path) == paths


def test_npz_comes_back(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=IMAGES, y=np.array([1, 2]))
    arrays = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(arrays["x"], IMAGES)
    np.testing.assert_array_equal(arrays["y"], [1, 2])


def test_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=500))
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"truncated or corrupt \.npz"):
        read_npz(path)
    path.write_bytes(whole[:1000] + b"\0" * 100 + whole[1100:])
    with pytest.raises(ValueError, match=r"truncated or corrupt \.npz"):
        read_npz(path)
    path.write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        read_npz(path)


def test_mapped_files_hold_the_same_and_are_read_by_rows(tmp_path):
    idx, npz = tmp_path / "a-idx3-ubyte", tmp_path / "a.npz"
    idx.write_bytes(idx_bytes(IMAGES))
    np.savez(npz, x=IMAGES, y=np.array([1.5, 2.5]), none=np.zeros((0, 3)))
    images, arrays = read_idx(idx, mapped=True), read_npz(npz, mapped=True)
    np.testing.assert_array_equal(images, IMAGES)
    assert not images.flags.writeable  # of the file
    for name, array in read_npz(npz).items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    assert isinstance(arrays["x"], np.memmap)

    np.savez_compressed(npz, x=IMAGES)
    np.testing.assert_array_equal(read_npz(npz, mapped=True)["x"], IMAGES)
    idx.write_bytes(gzip.compress(idx.read_bytes()))
    np.testing.assert_array_equal(read_idx(idx, mapped=True), IMAGES)


@pytest.mark.parametrize("rows", [1, 4, 10**30])
def test_a_mapped_array_ends_where_it_ends_in_the_file(tmp_path, rows):
    path, said = tmp_path / "a.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(
        said, {"descr": "<f4", "fortran_order": False, "shape": (rows, 2)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", said.getvalue() + np.zeros((3, 2), np.float32).tobytes())
        archive.writestr("y.npy", bytes(1000))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo("x.npy")
    sentence = (
        rf"a\.npz: damaged: x\.npy has 152 bytes, expected [\d,]+ for float32 of shape \({rows}"
    )
    with pytest.raises(ValueError, match=sentence):
        map_member(path, member)
    with pytest.raises(ValueError, match=sentence):
        Folder(tmp_path)


def test_damage_to_a_mapped_npz_is_found(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.full(1000, 7, np.uint8))
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"truncated or corrupt \.npz file \(Bad CRC"):
        read_npz(path, mapped=True)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"not an \.npz file"):
        read_npz(path, mapped=True)


def test_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Surprise(tmp_path / "ran")], object))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_npz(tmp_path / "a.npz")
    assert not (tmp_path / "ran").exists()


class Surprise:
    """Pickled, it creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


class BuiltinSurprise(Surprise):
    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


def python2_array(array):
    """Opcodes of protocol 2 with which Python 2 and the NumPy of its time wrote an array."""

    def string(text):
        return b"T" + struct.pack("<I", len(text)) + text

    def integer(value):
        return b"J" + struct.pack("<i", value)

    shape = b"(" + b"".join(map(integer, array.shape)) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        + integer(0) + b"\x85" + string(b"b") + b"\x87R("
        + integer(1) + shape
        + b"cnumpy\ndtype\n" + string(array.dtype.str[1:].encode()) + integer(0) + integer(1)
        + b"\x87R(" + integer(3) + string(b"<") + b"NNN" + integer(-1) + integer(-1) + integer(0)
        + b"tb" + b"\x89" + string(array.tobytes()) + b"tb"
    )  # fmt: skip


def python2_pickle(parts):
    """Three pairs of arrays as Python 2 pickled them: the book's `mnist.pkl.gz`."""
    pairs = (python2_array(x) + python2_array(y) + b"\x86" for x, y in parts)
    return b"\x80\x02" + b"".join(pairs) + b"\x87."


def arrays():
    rng = np.random.default_rng(0)
    return tuple(
        (rng.random((n, 784), np.float32), rng.integers(0, 10, n, np.int64)) for n in (5, 2, 3)
    )


@pytest.mark.parametrize("protocol", ["python 2", *range(pickle.HIGHEST_PROTOCOL + 1)])
def test_pickled_arrays_come_back(tmp_path, protocol):
    parts = arrays()
    content = python2_pickle(parts) if protocol == "python 2" else pickle.dumps(parts, protocol)
    (tmp_path / "a.pkl.gz").write_bytes(gzip.compress(content))
    read = read_pickle(tmp_path / "a.pkl.gz")
    for (x, y), (x_read, y_read) in zip(parts, read, strict=True):
        assert (x_read.dtype, y_read.dtype) == (x.dtype, y.dtype)
        np.testing.assert_array_equal(x_read, x)
        np.testing.assert_array_equal(y_read, y)


@pytest.mark.parametrize("kind", [Surprise, BuiltinSurprise])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(tmp_path, kind, protocol):
    trap, mark = tmp_path / "a.pkl", tmp_path / "ran"
    trap.write_bytes(pickle.dumps([np.ones(3), kind(mark)], protocol))
    with pytest.raises(ValueError, match=r"refused: only NumPy arrays.*asks for \w+\.\w+$"):
        read_pickle(trap)
    assert not mark.exists()
    pickle.loads(trap.read_bytes())  # the trap is a real one
    assert mark.exists()


def test_an_object_array_does_not_smuggle(tmp_path):
    trap, mark = tmp_path / "a.pkl", tmp_path / "ran"
    trap.write_bytes(pickle.dumps(np.array([Surprise(mark)], object)))
    with pytest.raises(ValueError, match="refused"):
        read_pickle(trap)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x80\x05", pickle.dumps(arrays())[:-500], b"(((((.", b"}."[1:]]
)
def test_damaged_pickle_is_refused(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match="truncated or corrupt pickle") as caught:
        read_pickle(tmp_path / "a.pkl")
    assert "\n" not in str(caught.value)
