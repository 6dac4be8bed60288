"""A checkpoint comes back bit for bit, or says what is wrong with it."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file, save_file

import nnjax
from nnjax.training import checkpoint

KEY = jax.random.key(0)
PARAMS = nnjax.init(nnjax.mlp([4, 3, 2]), KEY)


def saved(tmp_path, tree, **info):
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, tree, info)
    return path


def bits(tree):
    def of(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes()

    return [(str(leaf.dtype), leaf.shape, of(leaf)) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "tree",
    [
        PARAMS,
        {"params": PARAMS, "opt_state": optax.adam(1e-3).init(PARAMS)},
        {"key": KEY, "keys": jax.random.split(jax.random.key(1, impl="rbg"), 3)},
        {"half": jnp.array([1.5, jnp.nan, -0.0], jnp.bfloat16), "flag": jnp.array(True)},
        {"empty": jnp.zeros((0, 3), jnp.int8), "none": None, "layer": ()},
        {"transposed": np.arange(6.0, dtype=np.float32).reshape(2, 3).T},
    ],
)
def test_a_tree_comes_back_bit_for_bit(tmp_path, tree):
    again = checkpoint.load(saved(tmp_path, tree), tree)
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    assert bits(again) == bits(tree)


def test_float64_comes_back_where_it_is_enabled(tmp_path):
    with jax.enable_x64(True):
        tree = {"x": jnp.array([1 / 3, 1e300])}
        assert bits(checkpoint.load(saved(tmp_path, tree), tree)) == bits(tree)


def test_shapes_alone_are_a_template(tmp_path):
    template = jax.eval_shape(lambda: nnjax.init(nnjax.mlp([4, 3, 2]), jax.random.key(7)))
    assert bits(checkpoint.load(saved(tmp_path, PARAMS), template)) == bits(PARAMS)


def test_the_file_is_plain_safetensors_with_paths_for_names(tmp_path):
    arrays = load_file(saved(tmp_path, PARAMS))
    assert sorted(arrays) == ["0.b", "0.w", "1.b", "1.w"]
    np.testing.assert_array_equal(arrays["1.w"], PARAMS[1].w)


def test_equal_trees_make_equal_files(tmp_path):
    first, second = (
        saved(tmp_path / name, {"key": KEY, "x": PARAMS}, epoch=3).read_bytes() for name in "ab"
    )
    assert first == second


def test_info_comes_back(tmp_path):
    path = saved(tmp_path, PARAMS, epoch=3, names=["a"], score=None)
    assert checkpoint.read_info(path) == {"epoch": 3, "names": ["a"], "score": None}


def test_every_difference_from_the_template_is_named(tmp_path):
    path = saved(tmp_path, {"a": jnp.zeros(3), "b": jnp.zeros(2), "c": jnp.zeros(1), "k": KEY})
    template = {"a": jnp.zeros(4), "b": jnp.zeros(2, jnp.int32), "d": jnp.zeros(1), "k": KEY}
    with pytest.raises(ValueError, match="does not fit") as error:
        checkpoint.load(path, template)
    assert str(error.value).split("does not fit: ")[1].split("; ") == [
        "a is float32 (3,), expected float32 (4,)",
        "b is float32 (2,), expected int32 (2,)",
        "c is not expected",
        "d is missing",
    ]


def test_many_differences_are_counted(tmp_path):
    path = saved(tmp_path, {str(i): jnp.zeros(1) for i in range(8)})
    with pytest.raises(ValueError, match=r"0 is not expected; .*; and 3 more$"):
        checkpoint.load(path, {})


def test_a_key_of_another_implementation_is_refused(tmp_path):
    path = saved(tmp_path, {"key": jax.random.key(0, impl="rbg")})
    with pytest.raises(ValueError, match=r"key is key<rbg> \(\), expected key<fry> \(\)"):
        checkpoint.load(path, {"key": KEY})


def test_another_network_is_refused(tmp_path):
    path = saved(tmp_path, PARAMS)
    with pytest.raises(ValueError, match=r"0\.w is float32 \(3, 4\), expected float32 \(5, 4\)"):
        checkpoint.load(path, nnjax.init(nnjax.mlp([4, 5, 2]), KEY))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = saved(tmp_path, PARAMS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="truncated, or not a safetensors file"):
        checkpoint.load(path, PARAMS)


def test_any_changed_byte_is_noticed(tmp_path):
    path = saved(tmp_path, PARAMS, epoch=3)
    good = path.read_bytes()
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1
        path.write_bytes(changed)
        try:
            again = checkpoint.load(path, PARAMS)
        except (ValueError, FileNotFoundError):
            continue
        # What is left to change without harm is white space between the header's entries.
        assert bits(again) == bits(PARAMS)
        assert checkpoint.read_info(path) == {"epoch": 3}


def test_a_file_of_someone_else_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"0.w": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="not one written by nnjax"):
        checkpoint.load(path, PARAMS)


def test_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "new.safetensors"
    save_file({}, path, metadata={"nnjax": json.dumps({"version": 2})})
    with pytest.raises(ValueError, match="has version 2 of the format, and this nnjax reads up to"):
        checkpoint.read_info(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "none.safetensors", PARAMS)


def test_without_safetensors_the_way_to_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[cli\]"'):
        checkpoint.save(tmp_path / "x.safetensors", PARAMS)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = saved(tmp_path, PARAMS)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device; nothing was overwritten"):
        checkpoint.save(path, jax.tree.map(jnp.zeros_like, PARAMS))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(json.dumps("old").encode())
    killed = textwrap.dedent("""
        import os, signal, sys
        from nnjax.files import write_atomically
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        write_atomically(sys.argv[1], b'"new"')
    """)
    done = subprocess.run([sys.executable, "-c", killed, str(path)], check=False)
    assert done.returncode == -9
    assert json.loads(path.read_text()) == "old"


@pytest.mark.parametrize(
    "leaf", [np.array([2**40, -1]), np.array([1e300, 1 / 3]), np.float64(1e300), np.uint64(2**63)]
)
def test_numpy_arrays_keep_what_jax_cannot_hold(tmp_path, leaf):
    again = checkpoint.load(saved(tmp_path, {"a": leaf}), {"a": leaf})["a"]
    assert again.dtype == leaf.dtype
    np.testing.assert_array_equal(again, leaf)


def test_the_order_of_bytes_does_not_matter(tmp_path):
    leaf = np.array([1.0, 2.5], ">f4")
    again = checkpoint.load(saved(tmp_path, {"a": leaf}), {"a": leaf})["a"]
    np.testing.assert_array_equal(again, leaf)


def test_a_part_of_the_tree_can_be_loaded(tmp_path):
    path = saved(tmp_path, {"params": PARAMS, "epoch": 3})
    assert bits(checkpoint.load(path, PARAMS, under="params")) == bits(PARAMS)
    with pytest.raises(ValueError, match=r"0\.w is missing"):
        checkpoint.load(path, PARAMS, under="stopping")


def test_the_digest_depends_on_values_shapes_dtypes_and_paths():
    trees = [
        {"a": np.arange(4)},
        {"b": np.arange(4)},
        {"a": np.arange(4)[::-1]},
        {"a": np.arange(4).reshape(2, 2)},
        {"a": np.arange(4, dtype=np.uint64)},
    ]
    assert len({checkpoint.digest(tree) for tree in trees}) == len(trees)


@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        ({"a": {"b": 1}, "a.b": 2}, ValueError, r"two leaves have the path a\.b; rename one"),
        ({"a": 1e300}, ValueError, r"a is 1e\+300, which is too large for JAX's default dtype"),
        ({"a": 2**40}, ValueError, "a is 1099511627776, which is too large"),
        ({"a": "text"}, TypeError, "a is 'text'; expected an array, a number or a random key"),
        ({"a": jnp.zeros(2, jnp.int4)}, TypeError, "a has dtype int4, which safetensors files can"),
        ({"a": jnp.zeros(2, jnp.float8_e5m2)}, TypeError, "a has dtype float8_e5m2, which saf"),
        ({"a": np.array(["x"])}, TypeError, "a has dtype <U1, which safetensors"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(tmp_path, tree, error, message):
    with pytest.raises(error, match=message):
        saved(tmp_path, tree)
    assert list(tmp_path.iterdir()) == []
