"""What was compiled serves the next start; half-written, altered and foreign programs do not."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from nnjax.cli import compiled
from nnjax.cli.compiled import cache_folder, keep_programs, kept_programs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the folder is found by XDG")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of kept programs, empty, with no other cache in use."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    values = jax.config.values
    names = [name for name in values if "cache" in name and name.startswith("jax_")]
    before = {name: values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", True)
    yield cache_folder()
    for name, value in before.items():
        jax.config.update(name, value)


def own() -> Path:
    return Path(jax.config.jax_compilation_cache_dir)


def names(folder):
    return sorted(entry.name.split("-cache")[0] for entry in folder.glob("*-cache.*"))


def test_a_program_is_compiled_once(tmp_path):
    program = (
        "import jax; from nnjax.cli.compiled import kept_programs\n"
        "events = []; jax.monitoring.register_event_listener(lambda e, **_: events.append(e))\n"
        "with kept_programs():\n"
        "    print(jax.jit(lambda x: x * 3 + 1)(2.0))\n"
        "print(sum(e.endswith('/cache_hits') for e in events), sum('miss' in e for e in events))\n"
    )
    left_out = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        assert done.stderr == ""
        result, count = done.stdout.splitlines()
        assert float(result) == 7
        found.append(int(count.split()[0]))
    assert found[0] == 0 < found[1]


def test_whole_entries_are_kept_and_found_again(folder):
    with kept_programs():
        assert own().parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        (own() / "a-cache").write_bytes(b"program a")
        keep_programs()
        assert names(folder) == ["a"]
        (own() / "b-cache").write_bytes(b"program b")
    assert not list(folder.glob("in-use-*"))
    with kept_programs():
        assert {f.name: f.read_bytes() for f in own().iterdir()} == {
            "a-cache": b"program a",
            "b-cache": b"program b",
        }


def test_nothing_is_kept_of_what_breaks_off(folder):
    def command():
        with kept_programs():
            (own() / "half-cache").write_bytes(b"prog")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command()
    assert list(folder.iterdir()) == []


def test_an_altered_entry_is_removed(folder):
    with kept_programs():
        (own() / "a-cache").write_bytes(b"program a")
    (kept,) = folder.iterdir()
    kept.write_bytes(b"program b")
    with kept_programs():
        assert list(own().iterdir()) == []
    assert list(folder.iterdir()) == []


def test_two_processes_may_keep_the_same_program(folder):
    with kept_programs():
        (own() / "a-cache").write_bytes(b"program a")
        first = next(iter(own().iterdir())).read_bytes()
        (folder / "a-cache.other").write_bytes(b"of a version that does not match")
        keep_programs()
        keep_programs()
        (own() / "b-cache").write_bytes(b"program b")
    assert names(folder) == ["a", "a", "b"]
    with kept_programs():
        assert (own() / "a-cache").read_bytes() == first
    assert names(folder) == ["a", "b"]


def test_the_oldest_make_room(folder, monkeypatch):
    monkeypatch.setattr(compiled, "_LIMIT", 25)
    with kept_programs():
        for i, name in enumerate("abc"):
            entry = own() / f"{name}-cache"
            entry.write_bytes(bytes(10))
            os.utime(entry, (i, i))
    assert names(folder) == ["b", "c"]


def test_what_killed_processes_left_is_removed_after_a_day(folder):
    for name, age in (("in-use-old", 90_000), ("in-use-new", 80_000)):
        (folder / name).mkdir(parents=True, mode=0o700)
        os.utime(folder / name, (time.time() - age,) * 2)
    folder.chmod(0o700)
    with kept_programs():
        pass
    assert [f.name for f in folder.iterdir()] == ["in-use-new"]


@pytest.mark.parametrize("how", ["writable for others", "a link", "a file"])
def test_a_folder_that_others_could_write_to_is_not_used(folder, tmp_path, how):
    folder.parent.mkdir(parents=True)
    if how == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif how == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(0o770)
    with kept_programs():
        assert jax.config.jax_compilation_cache_dir is None


def test_the_cache_that_the_user_chose_is_left_alone(folder, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    with kept_programs():
        keep_programs()
        assert own() == tmp_path / "mine"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    with kept_programs():
        assert jax.config.jax_compilation_cache_dir is None
    assert not folder.exists()
