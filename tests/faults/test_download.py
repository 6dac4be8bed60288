"""Mirrors that are slow, endless, lying or lost: a download ends, the next one is asked."""

import contextlib
import gzip
import hashlib
import http.server
import os
import threading
import time

import numpy as np
import pytest

from nnjax.data import load, sources
from nnjax.data.readers import IDX_FILES


def idx(array):
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.astype(np.uint8).tobytes()


RNG = np.random.default_rng(0)
ARRAYS = [
    RNG.integers(0, 256, (12, 4, 4)),
    np.arange(12) % 10,
    RNG.integers(0, 256, (3, 4, 4)),
    np.arange(3),
]
FILES = {f"{n}.gz": gzip.compress(idx(a), mtime=0) for n, a in zip(IDX_FILES, ARRAYS, strict=True)}


@contextlib.contextmanager
def server(answer):
    """A mirror on this machine; `answer(handler)` writes the response."""
    stopped = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(OSError):
                answer(self, stopped)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        running.block_on_close = False
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/"
        finally:
            stopped.set()
            running.shutdown()
            thread.join()


def good(handler, stopped):
    content = FILES[handler.path.lstrip("/")]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def begin(handler, length=10**9):
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()


def endless(handler, stopped):
    begin(handler, 10**12)
    while not stopped.is_set():
        handler.wfile.write(bytes(2**16))


def dripping(handler, stopped):
    begin(handler)
    while not stopped.wait(0.05):
        handler.wfile.write(b"a")


def dripping_headers(handler, stopped):
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    while not stopped.wait(0.05):
        handler.wfile.write(b"X")


def silent(handler, stopped):
    stopped.wait(20)


def redirecting(handler, stopped):
    handler.send_response(302)
    handler.send_header("Location", handler.path + "x")
    handler.end_headers()


def to_a_file(handler, stopped):
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/hostname")
    handler.end_headers()


def bomb(handler, stopped):
    content = gzip.compress(bytes(2**23))
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def half(handler, stopped):
    begin(handler, 10**6)
    handler.wfile.write(b"half")


def nonsense(handler, stopped):
    handler.wfile.write(b"\0\1\2\3")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("NNJAX_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(sources, "_GRACE", 0.5)
    monkeypatch.setattr(sources, "_LARGEST", 2**22)
    return tmp_path / "cache" / "mnist"


def mirrors(monkeypatch, *addresses):
    sums = tuple(hashlib.sha256(content).hexdigest() for content in FILES.values())
    monkeypatch.setitem(sources._SOURCES, "mnist", sources._Source(addresses, sums, ""))


HOSTILE = [
    endless,
    dripping,
    dripping_headers,
    silent,
    redirecting,
    to_a_file,
    bomb,
    half,
    nonsense,
]


@pytest.mark.slow
@pytest.mark.parametrize("answer", HOSTILE, ids=lambda f: f.__name__)
def test_the_next_mirror_has_its_turn(cache, monkeypatch, answer):
    with server(answer) as hostile, server(good) as honest:
        mirrors(monkeypatch, hostile, honest)
        assert len(load("mnist").train[0]) == 10
    assert sorted(path.name for path in cache.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("answer", [endless, dripping, bomb], ids=lambda f: f.__name__)
def test_no_other_mirror_is_one_sentence(cache, monkeypatch, answer):
    with server(answer) as hostile:
        mirrors(monkeypatch, hostile)
        with pytest.raises(ConnectionError, match=r"could not download train-im.*NNJAX") as c:
            load("mnist")
    assert "\n" not in str(c.value)
    assert list(cache.glob("*")) == []


def test_what_a_killed_download_left_is_removed(cache, monkeypatch):
    cache.mkdir(parents=True)
    for name, age in (("tmpdead", 10**5), ("tmpalive", 0)):
        (cache / name).touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    with server(good) as honest:
        mirrors(monkeypatch, honest)
        load("mnist")
    assert {path.name for path in cache.iterdir()} == {*FILES, "tmpalive"}


def test_a_cache_that_cannot_be_written(cache, monkeypatch):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with server(good) as honest:
        mirrors(monkeypatch, honest)
        with pytest.raises(OSError, match=r"cannot store mnist there: \w") as caught:
            load("mnist")
    assert "None" not in str(caught.value)


def test_a_cache_without_permission(cache, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError("no text of the system")  # as pooch raises it

    monkeypatch.setattr("pooch.retrieve", refused)
    with pytest.raises(OSError, match="cannot store mnist there: the folder cannot be written to"):
        load("mnist")
