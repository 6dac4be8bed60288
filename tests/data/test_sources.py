"""Data sets by name and by path: one form, everything checked, nothing half-downloaded."""

import contextlib
import gzip
import hashlib
import http.server
import importlib.util
import pickle
import sys
import threading

import numpy as np
import pooch
import pytest

from nnjax.data import load, sources
from nnjax.data.readers import IDX_FILES


def idx(array):
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


def small_set(seed=0, n=12, n_test=3, side=4):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, 256, (n, side, side)),
        rng.integers(0, 10, n),
        rng.integers(0, 256, (n_test, side, side)),
        rng.integers(0, 10, n_test),
    ]


def write_set(folder, arrays, ending="", infix="-idx"):
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(IDX_FILES, arrays, strict=True):
        content = idx(array)
        path = folder / (file.replace("-idx", infix) + ending)
        path.write_bytes(gzip.compress(content) if ending == ".gz" else content)


def assert_holds(dataset, arrays):
    """The data set is those arrays, the last sixth of the first two as validation."""
    x, y, x_test, y_test = arrays
    n = len(x) - len(x) // 6
    expected = ((x[:n], y[:n]), (x[n:], y[n:]), (x_test, y_test))
    for (x_read, y_read), (x_part, y_part) in zip(dataset, expected, strict=True):
        assert (x_read.dtype, y_read.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(x_read, x_part[..., None])
        np.testing.assert_array_equal(y_read, y_part)


@pytest.fixture(autouse=True)
def no_folder_named(monkeypatch):
    monkeypatch.delenv("NNJAX_DATA", raising=False)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = sorted((x.tobytes(), y) for x, y in zip(bunch.data / 16, bunch.target, strict=True))
    got = sorted(
        (x.astype(float).tobytes(), y)
        for part in digits
        for x, y in zip(part[0].reshape(-1, 64), part[1], strict=True)
    )
    assert got == expected
    assert all(x.dtype == np.float32 and y.dtype == np.int32 for x, y in digits)
    assert [x.shape for x, _ in digits] == [(1257, 8, 8, 1), (180, 8, 8, 1), (360, 8, 8, 1)]


def test_digits_are_stratified_and_always_the_same(digits):
    total = np.bincount(np.concatenate([y for _, y in digits]))
    for (_, y), share in zip(digits, (0.7, 0.1, 0.2), strict=True):
        assert np.abs(np.bincount(y) - share * total).max() < 1.5
    for part, again in zip(digits, load("digits"), strict=True):
        np.testing.assert_array_equal(part[0], again[0])


def test_digits_do_without_the_file_of_scikit_learn(digits, monkeypatch):
    monkeypatch.setattr(sources.Path, "is_file", lambda self: False)
    for part, again in zip(digits, load("digits"), strict=True):
        np.testing.assert_array_equal(part[0], again[0])
        np.testing.assert_array_equal(part[1], again[1])


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[data\]"'):
        load("digits")


@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("infix", ["-idx", ".idx"])
def test_folder_of_idx_files(tmp_path, ending, infix):
    arrays = small_set()
    write_set(tmp_path, arrays, ending, infix)
    assert_holds(load(tmp_path), arrays)
    assert_holds(load(str(tmp_path)), arrays)


def test_data_dir_or_environment_names_the_folder(tmp_path, monkeypatch):
    mnist, fashion, other = small_set(1), small_set(2), small_set(3)
    write_set(tmp_path, mnist)
    write_set(tmp_path / "fashion-mnist", fashion)
    write_set(tmp_path / "other", other)
    assert_holds(load("mnist", data_dir=tmp_path), mnist)
    assert_holds(load("fashion-mnist", data_dir=tmp_path), fashion)
    monkeypatch.setenv("NNJAX_DATA", str(tmp_path))
    assert_holds(load("mnist"), mnist)
    assert_holds(load("fashion-mnist"), fashion)
    assert_holds(load("mnist", data_dir=tmp_path / "other"), other)


def test_the_same_file_names_do_not_pass_for_another_set(tmp_path, monkeypatch):
    arrays = small_set()
    write_set(tmp_path, arrays)
    labels = hashlib.sha256(arrays[3].astype(np.uint8).tobytes()).hexdigest()
    source = sources._SOURCES["mnist"]._replace(test_labels=labels)
    monkeypatch.setitem(sources._SOURCES, "mnist", source)
    assert_holds(load("mnist", data_dir=tmp_path), arrays)
    with pytest.raises(ValueError, match="holds the files of mnist, not of fashion-mnist"):
        load("fashion-mnist", data_dir=tmp_path)


def test_fewer_than_six_images_have_no_validation(tmp_path):
    write_set(tmp_path, small_set(n=5))
    dataset = load(tmp_path)
    assert len(dataset.train[0]) == 5
    assert dataset.validation is None


def test_missing_files_and_folders(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"data_dir: neither .* holds .* mnist: put train-im"
    ):
        load("mnist", data_dir=tmp_path / "empty")
    monkeypatch.setenv("NNJAX_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"NNJAX_DATA: neither .*nowhere nor"):
        load("mnist")
    write_set(tmp_path / "part", small_set())
    (tmp_path / "part" / IDX_FILES[1]).unlink()
    with pytest.raises(FileNotFoundError, match="part: missing train-labels-idx1-ubyte"):
        load(tmp_path / "part")


def test_unknown_names(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"data set 'minst'; did you mean 'mnist'\? Expected digits",
    ):
        load("minst")
    with pytest.raises(ValueError, match=r"data_dir says where .* 'digits' takes none"):
        load("digits", data_dir=tmp_path)
    (tmp_path / "data.txt").touch()
    with pytest.raises(
        ValueError,
        match=r"data\.txt: expected a folder with IDX files or pictures by class, or a \.npz",
    ):
        load(tmp_path / "data.txt")


def test_a_damaged_file_is_named(tmp_path):
    write_set(tmp_path, small_set())
    images = tmp_path / IDX_FILES[0]
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: truncated"):
        load(tmp_path)


def test_npz_by_either_spelling(tmp_path):
    x, y, x_test, y_test = (a.astype(np.uint8) for a in small_set(side=28))
    np.savez(tmp_path / "keras.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    keras = load(tmp_path / "keras.npz")
    np.testing.assert_array_equal(keras.train[0], x[..., None])
    np.testing.assert_array_equal(keras.test[1], y_test)
    assert keras.validation is None

    rows = x.reshape(-1, 784) / 255.0
    np.savez(tmp_path / "xy.npz", x=rows, y=y, x_validation=rows[:2], y_validation=y[:2])
    xy = load(tmp_path / "xy.npz")
    assert xy.train[0].dtype == np.float32
    np.testing.assert_array_equal(xy.train[0], (x[..., None] / 255.0).astype(np.float32))
    np.testing.assert_array_equal(xy.validation[1], y[:2])
    assert xy.test is None


def test_mapped_files_give_the_same_data_and_stay_in_the_files(tmp_path):
    arrays = small_set()
    write_set(tmp_path / "set", arrays)
    x, y = arrays[0].astype(np.uint8)[..., None], arrays[1]
    np.savez(tmp_path / "set.npz", x=x[:10], y=y[:10], x_validation=x[10:], y_validation=y[10:])
    for name in ("set", "set.npz"):
        mapped = load(tmp_path / name, mapped=True)
        for part, read in zip(mapped, load(tmp_path / name), strict=True):
            if read is not None:
                np.testing.assert_array_equal(part[0], read[0])
                np.testing.assert_array_equal(part[1], read[1])
                assert not part[0].flags.writeable


def test_rows_of_features_stay_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 5)), y=np.array([0, 1, 2], np.uint16))
    x, y = load(tmp_path / "a.npz").train
    assert (x.shape, x.dtype, y.dtype) == ((3, 5), np.float32, np.int32)


def test_npz_with_the_wrong_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"expected arrays x_train and y_train .* got images"):
        load(path)
    np.savez(path, x=np.ones((2, 3)), y=np.arange(2), x_test=np.ones((2, 3)))
    with pytest.raises(ValueError, match="x_test and y_test go together, only x_test is there"):
        load(path)
    np.savez(path, x=np.ones((2, 3)), y=[0, 1], x_test=np.ones((2, 4)), y_test=[0, 1])
    with pytest.raises(
        ValueError, match=r"one dtype and shape, got float32 \(3,\) and float32 \(4,"
    ):
        load(path)


@pytest.mark.parametrize("name", ["mnist.pkl.gz", "mnist.pkl"])
def test_the_books_pickle(tmp_path, name):
    rng = np.random.default_rng(0)
    parts = tuple((rng.random((n, 784), np.float32), rng.integers(0, 10, n)) for n in (5, 2, 3))
    content = pickle.dumps(parts, 2)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for (x, y), (x_read, y_read) in zip(parts, load(tmp_path / name), strict=True):
        np.testing.assert_array_equal(x_read, x.reshape(-1, 28, 28, 1))
        np.testing.assert_array_equal(y_read, y)
        assert y_read.dtype == np.int32


@pytest.mark.parametrize("content", [3, (), ((1, 2), (3, 4)), [(np.ones((2, 3)),)] * 3, "abc"])
def test_a_pickle_of_something_else(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="expected three pairs"):
        load(tmp_path / "a.pkl")


X, Y = np.ones((2, 3, 3), np.float32), np.array([0, 1])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X * np.nan, Y, "x has 18 NaN or Inf"),
        (np.full((2, 3), 1e300), Y, "x has 6 NaN or Inf"),
        (X, np.arange(3), "x has 2 examples and y has 3 labels"),
        (X[:0], Y[:0], r"empty: x has shape \(0, 3, 3\)"),
        (X[:, :0], Y, r"empty: x has shape \(2, 0, 3\)"),
        (X, Y - 1, "classes must be counted from 0 and fit int32, got -1 to 0"),
        (X, Y + 2**31, "fit int32, got 2147483648 to 2147483649"),
        (X, Y * 1.0, r"y must be integer classes of shape \(n,\), got float64"),
        (X, np.eye(2, dtype=int), r"got int64 of shape \(2, 2\); one-hot .*argmax\(axis=1\)"),
        (X.astype(str), Y, "x must hold real numbers, got dtype <U32"),
        (X * 1j, Y, "x must hold real numbers, got dtype complex64"),
        (X * 255, Y, "real numbers should lie between about 0 and 1, and these reach 255; divide"),
        (X.astype(int) * 16, Y, r"grey levels 0 to 255, and these reach only 16; store x / 16"),
        (X, Y.astype("m8[s]"), r"y must be integer classes of shape \(n,\), got timedelta64"),
        (X.astype(int) * 256, Y, "grey levels 0 to 255, got 256 to 256"),
        (X.astype(int) - 2, Y, "grey levels 0 to 255, got -1 to -1"),
        (np.ones(2), Y, r"x must be images .* got shape \(2,\)"),
        (np.ones((2, 1, 1, 1, 1)), Y, "x must be images"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path, x, y, message):
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(ValueError, match=f"training data: .*{message}"):
        load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_test=x, y_test=y)
    with pytest.raises(ValueError, match=f"test data: .*{message}"):
        load(tmp_path / "a.npz")


def test_a_label_that_is_not_a_class(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y, x_test=X, y_test=Y + 10**8)
    with pytest.raises(ValueError, match=r"labels are .* and 100,000,001 among them"):
        load(tmp_path / "a.npz")


@pytest.mark.parametrize("names", ["X_train Y_train X_val y_val", "X y x_valid y_valid"])
def test_common_spellings_of_the_names(tmp_path, names):
    x, y, x_validation, y_validation = names.split()
    arrays = {x: X, y: Y, x_validation: X[:1], y_validation: Y[:1]}
    np.savez(tmp_path / "a.npz", **arrays)
    data = load(tmp_path / "a.npz")
    assert (len(data.train[0]), len(data.validation[0])) == (2, 1)


@pytest.mark.parametrize(
    ("extra", "shown"), [("x_tset", "x_tset"), ("x", "x"), ("\x1b[2J", r"\\x1b\[2J")]
)
def test_arrays_that_would_be_ignored_are_named(tmp_path, extra, shown):
    np.savez(tmp_path / "a.npz", **{"x_train": X, "y_train": Y, extra: X})
    with pytest.raises(ValueError, match=f"x_validation, y_validation, .*each once; got .*{shown}"):
        load(tmp_path / "a.npz")


def test_features_stay_what_they_are(tmp_path):
    """Whole numbers are grey levels only in images."""
    x = np.array([[1800, -3], [70, 400]])
    np.savez(tmp_path / "a.npz", x=x, y=Y)
    np.testing.assert_array_equal(load(tmp_path / "a.npz").train[0], x.astype(np.float32))


@pytest.mark.parametrize("name", [None, 5, ["digits"], X])
def test_names_that_are_not_names(name):
    with pytest.raises(TypeError, match="name_or_path must be the name of a data set or a path"):
        load(name)


def test_whole_numbers_and_truth_values(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.astype(np.int64) * 255, y=Y)
    assert load(tmp_path / "a.npz").train[0].dtype == np.uint8
    np.savez(tmp_path / "a.npz", x=X > 0, y=Y)
    x, _ = load(tmp_path / "a.npz").train
    assert x.dtype == np.float32
    assert x.max() == 1


@contextlib.contextmanager
def mirror(respond):
    """A server on the loopback; `respond(name)` is the body, or an error code, or (body, claimed
    length) for a connection that breaks off. Yields its address and the names asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.lstrip("/"))
            answer = respond(asked[-1])
            if isinstance(answer, int):
                self.send_error(answer)
                return
            body, length = answer if isinstance(answer, tuple) else (answer, len(answer))
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", asked
        finally:
            server.shutdown()
            thread.join()


class Published:
    """A small "mnist" of which the checksums are known, and an empty cache."""

    def __init__(self, cache, monkeypatch):
        self.cache, self.monkeypatch = cache, monkeypatch
        self.arrays = small_set(7)
        self.files = {
            f"{file}.gz": gzip.compress(idx(array), mtime=0)
            for file, array in zip(IDX_FILES, self.arrays, strict=True)
        }
        monkeypatch.setattr("pooch.os_cache", lambda project: cache)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def mirrors(self, *addresses):
        sums = tuple(hashlib.sha256(content).hexdigest() for content in self.files.values())
        self.monkeypatch.setitem(sources._SOURCES, "mnist", sources._Source(addresses, sums, ""))

    def cached(self):
        return sorted(path.name for path in self.cache.rglob("*") if path.is_file())


@pytest.fixture
def published(tmp_path, monkeypatch):
    return Published(tmp_path / "cache", monkeypatch)


def test_downloaded_once_then_cached(published, capfd, monkeypatch):
    said = []
    monkeypatch.setattr(pooch.get_logger(), "handle", said.append)
    with mirror(published.files.__getitem__) as (address, asked):
        published.mirrors(address)
        assert_holds(load("mnist"), published.arrays)
        assert asked == list(published.files)
    published.mirrors("http://127.0.0.1:9/")  # nobody answers there
    assert_holds(load("mnist"), published.arrays)
    assert published.cached() == sorted(published.files)
    assert capfd.readouterr() == ("", "")  # no bar where nobody looks, and no word
    assert said == []


def test_a_bar_on_a_terminal(published, monkeypatch, capfd):
    said = []
    monkeypatch.setattr(pooch.get_logger(), "handle", said.append)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with mirror(published.files.__getitem__) as (address, _):
        published.mirrors(address)
        load("mnist")
    assert "100%" in capfd.readouterr().err
    assert len(said) == len(IDX_FILES)  # what is being downloaded


def test_the_second_mirror_stands_in(published):
    with (
        mirror(lambda name: 403) as (refuses, _),
        mirror(lambda name: b"something else") as (wrong, _),
        mirror(lambda name: (published.files[name][:20], 1000)) as (breaks, _),
        mirror(published.files.__getitem__) as (good, asked),
    ):
        published.mirrors("http://127.0.0.1:9/", refuses, wrong, breaks, good)
        assert_holds(load("mnist"), published.arrays)
        assert asked == list(published.files)
    assert published.cached() == sorted(published.files)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda content: b"something else", "wrong SHA-256"),
        (lambda content: content[:-1], "wrong SHA-256"),
        (lambda content: (content[:-1], len(content)), "Error"),
        (lambda content: 404, "HTTPError"),
    ],
)
def test_what_is_not_the_published_file_is_refused(published, answer, reason):
    with mirror(lambda name: answer(published.files[name])) as (address, _):
        published.mirrors(address)
        with pytest.raises(
            ConnectionError, match=rf"could not download train-im.*{reason}\): put"
        ) as c:
            load("mnist")
    assert published.cached() == []
    assert all(file in str(c.value) for file in published.files)
    assert "NNJAX_DATA" in str(c.value)
    assert "\n" not in str(c.value)


def test_offline(published):
    published.mirrors("http://127.0.0.1:9/", "http://127.0.0.1:9/again/")
    with pytest.raises(
        ConnectionError, match=r"ConnectionError.*ConnectionError.*put train-images"
    ):
        load("mnist")
    assert published.cached() == []


def test_an_interruption_leaves_nothing_partial(published, monkeypatch):
    import requests

    def interrupted(self, chunk_size):
        yield b"the beginning"
        raise KeyboardInterrupt

    with mirror(published.files.__getitem__) as (address, _):
        published.mirrors(address)
        with monkeypatch.context() as patch:
            patch.setattr(requests.Response, "iter_content", interrupted)
            with pytest.raises(KeyboardInterrupt):
                load("mnist")
        assert published.cached() == []
        assert_holds(load("mnist"), published.arrays)


def test_a_damaged_cache_is_repaired(published):
    with mirror(published.files.__getitem__) as (address, _):
        published.mirrors(address)
        load("mnist")
        next(published.cache.rglob("t10k-images*")).write_bytes(b"damaged")
        assert_holds(load("mnist"), published.arrays)


def test_a_full_disk(published, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with mirror(published.files.__getitem__) as (address, _):
        published.mirrors(address, "http://127.0.0.1:9/")
        monkeypatch.setattr("shutil.move", full)
        with pytest.raises(OSError, match="cannot store mnist there: No space left on device"):
            load("mnist")
    assert published.cached() == []


def test_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(ImportError, match=r'pip install "nnjax\[data\]"; or put train-images'):
        load("mnist")


def test_the_published_sets_are_described_in_full():
    for source in sources._SOURCES.values():
        assert len(source.sha256) == len(IDX_FILES)
        assert all(len(sha256) == 64 for sha256 in (*source.sha256, source.test_labels))
        assert len(source.mirrors) >= 2
        assert all(address.endswith("/") for address in source.mirrors)
