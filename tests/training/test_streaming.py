"""Training on data that are read a window at a time: the same steps, resumable within an epoch."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnjax
from nnjax.data.stream import Folder, Iterated
from nnjax.training import DivergedError, initial_state
from nnjax.training.streaming import stream_epochs

RNG = np.random.default_rng(0)
X, Y = RNG.random((23, 5), dtype=np.float32), RNG.integers(0, 3, 23).astype(np.int32)
NET = nnjax.mlp([5, 3])
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    np.save(path / "x-0.npy", X[:10])
    np.save(path / "y-0.npy", Y[:10])
    np.savez(path / "more.npz", x=X[10:], y=Y[10:])
    return path


def steps(source, **settings):
    common = {"optimizer": optax.sgd(0.5), "epochs": 2, "batch_size": 4, "key": KEY}
    return stream_epochs(NET, source, **common | settings)


def test_a_window_is_trained_on_in_steps_of_gradient_descent(folder):
    source = Folder(folder, window=8, block=3, seed=1)
    *_, (state, record) = steps(source, epochs=1, validation=(X, Y))
    params = nnjax.training.initial_state(NET, optax.sgd(0.5), KEY).params
    total = 0.0
    for x, y in source.windows(epoch=0):
        for at in range(0, len(y), 4):
            batch = x[at : at + 4], y[at : at + 4]
            total += len(batch[1]) * float(nnjax.loss(NET, params, *batch))
            params = nnjax.sgd_step(NET, params, *batch, 0.5)
    np.testing.assert_allclose(state.params[0].w, params[0].w, rtol=1e-5)
    np.testing.assert_allclose(record["train_loss"], total / 23, rtol=1e-5)
    np.testing.assert_allclose(record["validation_loss"], nnjax.loss(NET, params, X, Y), rtol=1e-5)


def test_a_run_continues_bit_for_bit_in_the_middle_of_an_epoch(folder):
    net = nnjax.architecture.parse("dropout0.5", (5,), 3)
    common = {"optimizer": optax.sgd(0.1, momentum=0.9), "epochs": 2, "batch_size": 4, "key": KEY}
    source = Folder(folder, window=8, block=3)
    whole = list(stream_epochs(net, source, **common))
    for at in (0, 2, 3, 5):
        rest = list(stream_epochs(net, source, **common, state=whole[at][0]))
        assert len(rest) == len(whole) - at - 1
        assert (rest[-1][0].params[1].w == whole[-1][0].params[1].w).all()
        assert rest[-1][1]["train_loss"] == whole[-1][1]["train_loss"]


@pytest.mark.parametrize("kind", ["folder", "iterable"])
def test_every_epoch_visits_every_example_once_in_another_order(kind, folder):
    pairs = list(zip(X, Y, strict=True))
    source = Folder(folder, 8, 3) if kind == "folder" else Iterated(pairs, 23, window=8)
    orders = []
    for epoch in (0, 1):
        windows = list(source.windows(epoch))
        assert [len(y) for _, y in windows] == [8, 8, 7]
        rows = np.concatenate([x for x, _ in windows])
        found = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in rows]
        assert sorted(found) == list(range(23))
        assert (Y[found] == np.concatenate([y for _, y in windows])).all()
        orders.append(found)
        again = [x for x, _ in source.windows(epoch, first=1)]
        assert all((a == b).all() for a, (b, _) in zip(again, windows[1:], strict=True))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])


def test_a_pipeline_of_grain_is_trained_on_and_continued():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grain = pytest.importorskip("grain")
    pipeline = grain.MapDataset.source(range(23)).shuffle(seed=1).map(lambda i: (X[i], Y[i]))
    source = Iterated(pipeline, count=len(pipeline), window=8)
    rows = np.concatenate([x for x, _ in source.windows(0)])
    assert sorted(rows.tolist()) == sorted(X.tolist())
    whole = list(steps(source))
    rest = list(steps(source, state=whole[1][0]))
    assert (rest[-1][0].params[0].w == whole[-1][0].params[0].w).all()


def test_some_rows_of_a_window_are_those_of_the_whole_window(folder):
    pairs = list(zip(X, Y, strict=True))
    for source in (Folder(folder, 8, 3), Iterated(pairs, 23, window=8)):
        whole = list(source.windows(1))
        parts = source.windows(1, 1, lambda n: np.arange(n)[1::2])
        for (x, y), (some_x, some_y) in zip(whole[1:], parts, strict=True):
            assert (some_x == x[1::2]).all()
            assert (some_y == y[1::2]).all()


def test_a_mesh_changes_nothing(folder):
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    *_, (alone, one) = steps(Folder(folder, 8, 3), validation=(X, Y))
    *_, (divided, two) = steps(Folder(folder, 8, 3), validation=(X, Y), mesh=mesh)
    np.testing.assert_allclose(alone.params[0].w, divided.params[0].w, rtol=1e-6)
    np.testing.assert_allclose(one["validation_loss"], two["validation_loss"], rtol=1e-6)


def test_only_the_window_is_read_from_the_files(folder):
    source = Folder(folder, window=4, block=2)
    assert all(isinstance(x, np.memmap) for x, _ in source._parts)
    x, _ = next(source.windows(0))
    assert not isinstance(x, np.memmap)
    assert x.shape == (4, 5)


def test_what_does_not_fit_is_refused(tmp_path):
    def refused(sentence, error=ValueError):
        return pytest.raises(error, match=sentence)

    with refused("holds no data; expected x", FileNotFoundError):
        Folder(tmp_path)
    np.save(tmp_path / "x.npy", X)
    with refused("no such file; x.npy has no targets", FileNotFoundError):
        Folder(tmp_path)
    np.save(tmp_path / "y.npy", Y[:5])
    with refused(r"x has shape \(23, 5\) and y \(5,\); expected as many"):
        Folder(tmp_path)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "a.npz", x=X[:, :2], y=Y)
    with refused(r"examples are float32 \(2,\), but those of x.npy are float32 \(5,\)"):
        Folder(tmp_path)
    np.savez(tmp_path / "a.npz", x=X)
    with refused("holds no array y; expected x and y"):
        Folder(tmp_path)
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    with refused("compressed; save it with np.savez to read it in parts"):
        Folder(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"PK")
    with refused("damaged, or not an .npz file"):
        Folder(tmp_path)
    with refused("expected what can be gone through again for every epoch", TypeError):
        Iterated(iter([]), 3)
    short = Iterated(list(zip(X, Y, strict=True)), 30)
    with refused("examples ended after 23, but count is 30"):
        list(itertools.chain(short.windows(0)))
    with refused("source is a list; expected a Folder or an Iterated", TypeError):
        steps([])
    one = Iterated([(np.zeros(5), 0)], 1)
    with refused("state is .*; expected the StreamState of an earlier run", TypeError):
        steps(one, state=initial_state(NET, optax.sgd(0.5), KEY))
    with refused(r"validation is a tuple; expected a pair \(x, y\)", TypeError):
        steps(one, validation=(X,))
    with refused("x holds NaN or infinity"):
        list(steps(Iterated([(np.full(5, np.nan), 0)], 1), batch_size=1))


def test_a_run_that_diverges_keeps_the_state_before_that_window(folder):
    with pytest.raises(DivergedError, match="in epoch 0; training stopped and kept") as caught:
        list(steps(Folder(folder, 8, 3), optimizer=optax.sgd(float("inf")), batch_size=8))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.state.params))
