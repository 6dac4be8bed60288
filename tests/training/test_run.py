"""A run's folder: its history, its checkpoints, its lock."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnjax
from nnjax.training import checkpoint
from nnjax.training.run import Run

PARAMS = nnjax.init(nnjax.mlp([4, 3, 2]), jax.random.key(0))


@pytest.fixture
def run(tmp_path):
    with Run.create(tmp_path / "run", {"eta": 0.5, "hidden": (30,), "path": tmp_path}) as run:
        yield run


def names(run):
    return [path.stem for path in run.checkpoints]


def test_config_and_parameters_come_back(run, tmp_path):
    run.save_params(PARAMS)
    again = Run(run.folder)
    assert again.config == {"eta": 0.5, "hidden": [30], "path": str(tmp_path)}
    np.testing.assert_array_equal(again.load_params(PARAMS)[0].w, PARAMS[0].w)


def test_history_holds_numbers_and_arrays_in_plain_json(run):
    run.log({"epoch": 0, "loss": np.float32(0.1), "norms": jnp.array([1.0, jnp.inf]), "ok": True})
    run.log({"epoch": 1, "loss": float("nan"), "norms": [1, 2], "ok": False})
    for line in (run.folder / "history.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    first, second = run.history
    assert first["loss"] == float(np.float32(0.1))
    np.testing.assert_array_equal(first["norms"], [1, np.nan])
    np.testing.assert_equal(second, {"epoch": 1, "loss": np.nan, "norms": [1, 2], "ok": False})


def test_a_line_that_is_not_complete_is_left_out(run):
    run.log({"epoch": 0})
    with open(run.folder / "history.jsonl", "a") as file:
        file.write('{"epoch": 1, "lo')
    assert run.history == [{"epoch": 0}]


def test_a_damaged_history_is_said(run):
    (run.folder / "history.jsonl").write_text('{"epoch": 0}\n{"epoch"\n')
    with pytest.raises(ValueError, match=r"history\.jsonl: damaged: line 2: not a record of"):
        _ = run.history


def test_the_last_checkpoints_and_the_best_are_kept(run):
    for epoch, score in enumerate([0.1, 0.9, 0.3, 0.9, 0.5, 0.4], start=1):
        run.save_checkpoint(PARAMS, epoch, score=score, keep=2)
    assert names(run) == ["epoch-000002", "epoch-000005", "epoch-000006"]
    assert run.best_checkpoint == run.checkpoints[0]


def test_without_a_score_only_the_last_checkpoints_are_kept(run):
    for epoch in range(1, 6):
        run.save_checkpoint(PARAMS, epoch, score=float("nan") if epoch == 1 else None, keep=2)
    assert names(run) == ["epoch-000004", "epoch-000005"]
    assert run.best_checkpoint is None


def test_restoring_cuts_the_history_back_to_the_checkpoint(run):
    run.log({"epoch": 0})
    run.save_checkpoint({"params": PARAMS}, 1)
    run.log({"epoch": 1})
    with open(run.folder / "history.jsonl", "a") as file:
        file.write('{"epoch": 2')
    tree = run.restore({"params": PARAMS})
    np.testing.assert_array_equal(tree["params"][1].w, PARAMS[1].w)
    assert (run.folder / "history.jsonl").read_text() == '{"epoch": 0}\n'


def test_resuming_goes_on_from_the_last_checkpoint_and_clears_what_a_kill_left(tmp_path):
    with Run.create(tmp_path / "run", {}) as run:
        for epoch in (1, 2):
            run.save_checkpoint({"epoch": jnp.array(epoch)}, epoch)
    left_over = run.folder / "checkpoints" / ".epoch-000003.safetensors.1.tmp"
    left_over.write_bytes(b"half")
    mine = [run.folder / ".notes.tmp", run.folder / "checkpoints" / ".mine.tmp"]
    for file in mine:
        file.touch()
    with Run.resume(run.folder) as run:
        assert int(run.restore({"epoch": jnp.array(0)})["epoch"]) == 2
        assert not left_over.exists()
        assert all(file.exists() for file in mine)


def test_a_damaged_last_checkpoint_is_said_with_what_to_do(run):
    for epoch in (1, 2):
        run.save_checkpoint(PARAMS, epoch)
    path = run.checkpoints[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"epoch-000002.*delete that file to resume from the one"):
        run.restore(PARAMS)
    path.unlink()
    assert bool((run.restore(PARAMS)[0].w == PARAMS[0].w).all())


def test_a_folder_in_use_is_refused(run):
    with (
        pytest.raises(BlockingIOError, match="in use: another process trains in it"),
        Run.resume(run.folder),
    ):
        pass
    trying = "import sys; from nnjax.training.run import Run; Run.resume(sys.argv[1]).__enter__()"
    done = subprocess.run(
        [sys.executable, "-c", trying, str(run.folder)], capture_output=True, text=True, check=False
    )
    assert "in use" in done.stderr


@pytest.mark.slow
def test_the_lock_falls_with_the_process(tmp_path):
    killed = (
        "import os, sys; from nnjax.training.run import Run\n"
        "with Run.create(sys.argv[1], {}): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(tmp_path / "run")], check=False)
    assert done.returncode == -9
    with Run.resume(tmp_path / "run") as run:
        assert run.config == {}


def test_a_folder_that_holds_something_is_not_overwritten(run, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty"), Run.create(tmp_path / "notes", {}):
        pass
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot create"), Run.create(tmp_path / "file" / "run", {}):
        pass


def test_a_folder_without_a_run_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a run folder \(config\.json not found\)"):
        Run(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": "1", "config": {}}']
)
def test_a_damaged_config_is_said(run, content):
    (run.folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match="damaged, or not written by nnjax"):
        Run(run.folder)


def test_a_config_that_was_edited_is_refused_unless_it_has_no_digest(run):
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))
    assert Run(run.folder).config == content["config"]  # laid out otherwise, the same content
    content["config"]["eta"] = 0.25
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json: was changed after it was written: its"):
        Run(run.folder)
    del content["sha256"]
    path.write_text(json.dumps(content))
    assert Run(run.folder).config["eta"] == 0.25


def test_a_newer_run_is_refused(run):
    content = json.loads((run.folder / "config.json").read_text()) | {"version": 2}
    (run.folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has version 2 of the format, and this nnjax reads up to"):
        Run(run.folder)


def test_parameters_or_a_checkpoint_that_are_not_there_are_said(run):
    with pytest.raises(FileNotFoundError, match="has not saved its parameters yet"):
        run.load_params(PARAMS)
    with pytest.raises(FileNotFoundError, match="has no checkpoint to resume from"):
        run.restore(PARAMS)


def test_keep_is_checked(run):
    with pytest.raises(ValueError, match="keep is 0; expected an integer of at least 1"):
        run.save_checkpoint(PARAMS, 1, keep=0)


def test_checkpoints_are_complete_pytrees(run):
    run.save_checkpoint({"a": jnp.ones(2)}, 1, score=0.25)
    info = checkpoint.read_info(run.checkpoints[0])
    assert {name: info[name] for name in ("epoch", "records", "score", "settings")} == {
        "epoch": 1,
        "records": 0,
        "score": 0.25,
        "settings": {},
    }


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("5", "line 2: not a record of numbers by name"),
        ("{}", "line 2: other names or shapes than in line 1"),
        ('{"epoch": 1, "lose": 2}', "line 2: other names"),
        ('{"epoch": 1, "loss": [1, 2]}', "line 2: other names or shapes"),
        ('{"epoch": 1, "loss": "abc"}', "line 2: not a record"),
        ('{"epoch": 1, "loss": [1, [2]]}', "line 2: not a record"),
        ('{"epoch": 2, "loss": 1}', "line 2: epoch 2; expected epoch 1"),
        ("[" * 100_000, "line 2: not a record"),
    ],
)
def test_a_history_that_cannot_be_one_is_refused(run, second, message):
    (run.folder / "history.jsonl").write_text(f'{{"epoch": 0, "loss": 1.5}}\n{second}\n')
    with pytest.raises(ValueError, match=rf"history\.jsonl: damaged: {message}"):
        _ = run.history


def history_of(run, change):
    """Write three records and a checkpoint, then change the lines of the history."""
    for epoch in range(3):
        run.log({"epoch": epoch, "loss": 0.5})
    run.save_checkpoint(PARAMS, 3)
    path = run.folder / "history.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: lines[:2],
        lambda lines: lines[::-1],
        lambda lines: [b"{}\n"] * 3,
        lambda lines: [lines[0], lines[1].replace(b"0.5", b"0.4"), lines[2]],
    ],
)
def test_a_history_other_than_the_one_up_to_the_checkpoint_is_refused(run, change):
    history_of(run, change)
    before = (run.folder / "history.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"the 3 records up to epoch-000003\.safetensors are not"):
        run.restore(PARAMS)
    assert (run.folder / "history.jsonl").read_bytes() == before


def test_a_changed_number_in_the_history_is_refused_where_a_checkpoint_knows_it(run):
    def edited(lines):
        return [lines[0], lines[1].replace(b"0.5", b"0.4"), *lines[2:]]

    history_of(run, edited)
    with pytest.raises(ValueError, match=r"the 3 records up to epoch-000003\.safetensors are not"):
        _ = run.history
    (path,) = run.checkpoints
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of a damaged checkpoint nothing is known
    path.write_bytes(content)
    assert run.history[1]["loss"] == 0.4


def test_a_longer_history_is_cut_back(run):
    history_of(run, lambda lines: [*lines, b'{"epoch": 3, "loss": 0.1}\n', b'{"ep'])
    run.restore(PARAMS)
    assert [record["epoch"] for record in run.history] == [0, 1, 2]


def test_a_checkpoint_of_another_run_is_refused(run):
    run.save_checkpoint(PARAMS, 1, settings={"seed": 0, "sizes": (4, 3)})
    run.restore(PARAMS, {"seed": 0, "sizes": [4, 3], "new": True})
    with pytest.raises(ValueError, match=r"with seed 0, but config\.json has 1: it belongs"):
        run.restore(PARAMS, {"seed": 1, "sizes": (4, 3)})


def test_the_history_is_on_the_disk_before_the_checkpoint(run, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    run.log({"epoch": 0})
    history = (run.folder / "history.jsonl").stat().st_ino
    run.save_checkpoint(PARAMS, 1)
    assert synced[0] == history
    assert len(synced) > 1


def test_a_history_that_was_deleted_is_not_begun_again(run):
    run.log({"epoch": 0})
    (run.folder / "history.jsonl").unlink()
    with pytest.raises(OSError, match=r"cannot write to .*history\.jsonl: No such file"):
        run.log({"epoch": 1})


def test_the_whole_history_can_be_written_at_once(run):
    records = [{"epoch": 0, "loss": np.float32(0.1), "norms": np.array([1.0, np.nan])}]
    run.log(records[0])
    before = (run.folder / "history.jsonl").read_bytes()
    run.save_history(records)
    assert (run.folder / "history.jsonl").read_bytes() == before


def test_the_parameters_of_the_best_checkpoint_come_back(run):
    with pytest.raises(FileNotFoundError, match="no checkpoint with a validation accuracy; train"):
        run.load_best_params(PARAMS)
    for epoch, score in enumerate([0.1, 0.9, 0.3], start=1):
        tree = {"params": jax.tree.map(lambda leaf, k=epoch: k + 0 * leaf, PARAMS), "other": 1}
        run.save_checkpoint(tree, epoch, score=score)
    assert float(run.load_best_params(PARAMS)[0].w[0, 0]) == 2


@pytest.mark.parametrize("content", ["[" * 100_000, '{"version": 1, "config": 5}'])
def test_nonsense_for_a_configuration_is_said(run, content):
    (run.folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json: damaged, or not written by nnjax"):
        Run(run.folder)


def test_a_configuration_that_was_deleted_is_written_again(run):
    (run.folder / "config.json").unlink()
    run.save_config({"eta": 0.5})
    assert run.config == {"eta": 0.5}
