"""A file is written as a whole or not at all, and never through a link."""

import os
import threading

import pytest

from nnjax.files import write_atomically


def test_threads_may_write_to_one_path(tmp_path):
    path = tmp_path / "shared"
    contents = [bytes([65 + i]) * 50_000 for i in range(6)]
    failures = []

    def write(content):
        try:
            for _ in range(10):
                write_atomically(path, content)
                assert path.read_bytes() in contents
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / ".note.guessed.tmp").symlink_to(victim)
    with pytest.raises(OSError, match=r"cannot write .*note: .*; nothing was overwritten"):
        write_atomically(tmp_path / "note", b"evil")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "note").exists()


def test_temporary_names_cannot_be_foreseen(tmp_path, monkeypatch):
    names = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (names.append(a.name), replace(a, b)))
    for _ in range(20):
        write_atomically(tmp_path / "note", b"")
    assert len(set(names)) == 20
    assert all(name.startswith(".note.") and name.endswith(".tmp") for name in names)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "note", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "note").stat().st_mode & 0o777 == 0o666 & ~mask


def test_an_interruption_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "note", b"half")
    assert list(tmp_path.iterdir()) == []
