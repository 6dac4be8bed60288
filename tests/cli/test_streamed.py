"""`nnjax train` on a folder of .npy and .npz files, which is read a window at a time."""

import json
import shutil

import jax
import numpy as np
import pytest

import nnjax
from nnjax.cli import main, streamed
from nnjax.cli.config import TrainConfig
from nnjax.data.stream import Folder

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    centres = RNG.random((3, 6), dtype=np.float32)
    for part, n in {"train": 70, "validation": 20, "test": 20}.items():
        (folder / part).mkdir()
        y = RNG.integers(0, 3, n)
        x = centres[y] + 0.1 * RNG.random((n, 6), dtype=np.float32)
        np.save(folder / part / "x-0.npy", x[:10])
        np.save(folder / part / "y-0.npy", y[:10])
        np.savez(folder / part / "more.npz", x=x[10:], y=y[10:])
    return folder


@pytest.fixture(scope="module")
def words(folder):
    network = ["--hidden", "--schedule", "cosine", "--batch-size", "6", "--rate", "0.3"]
    return ["train", "--data", str(folder), "--window", "24", "--epochs", "3", *network]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with jax.numpy_dtype_promotion("standard"):  # as a user's process is
        assert main([*words, "--out", str(folder)]) == 0
    return folder


def without_seconds(run):
    lines = (run / "history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_the_run_is_one_that_the_other_commands_read(run, capsys):
    loaded = nnjax.load_run(run)
    assert loaded.net.shapes == ((6,), (3,))
    assert loaded.history["validation_accuracy"][-1] > 0.9
    assert main(["evaluate", str(run)]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--part", "train"]) == 2
    assert "are read a window at a time; choose another --part" in capsys.readouterr().err


@pytest.mark.parametrize("after", [2, 3, 4])
def test_a_run_continues_bit_for_bit_in_the_middle_of_an_epoch(
    after, words, run, tmp_path, monkeypatch, capsys
):
    def interrupted(*args, **options):
        for count, step in enumerate(streamed_epochs(*args, **options), start=1):
            yield step
            if count == after:
                raise KeyboardInterrupt

    streamed_epochs, folder = streamed.stream_epochs, tmp_path / "run"
    with monkeypatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(streamed, "stream_epochs", interrupted)
        assert main([*words, "--out", str(folder)]) == 130
    said = f"Interrupted after epoch {after // 4}; parameters saved in"
    assert said in capsys.readouterr().err
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", "--resume", str(folder)]) == 0
    one, other = nnjax.load_run(run), nnjax.load_run(folder)
    assert (np.asarray(one.params[0].w) == np.asarray(other.params[0].w)).all()
    assert without_seconds(run) == without_seconds(folder)


def test_a_run_from_another_begins_again_from_its_parameters(words, run, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with jax.numpy_dtype_promotion("standard"):
        for folder in (whole, killed):
            assert main(["train", "--from", str(run), "--out", str(folder)]) == 0
        (killed / "checkpoints" / "epoch-000003.safetensors").unlink()
        (killed / "params.safetensors").unlink()
        assert main(["train", "--resume", str(killed)]) == 0
    one, other = nnjax.load_run(whole), nnjax.load_run(killed)
    assert (np.asarray(one.params[0].w) == np.asarray(other.params[0].w)).all()
    assert without_seconds(whole) == without_seconds(killed)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--patience", "3"], "patience needs all data in memory, and the files in"),
        (["--task", "regression"], "task is regression, and the targets in"),
        (["--tensorboard"], "tensorboard is for data in memory; leave it out"),
        (["--window", "0"], "window is 0; expected an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_one_sentence(more, sentence, words, tmp_path, capsys):
    assert main([*words, *more, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sweep_refuses_it_and_so_does_a_folder_that_has_changed(folder, run, tmp_path, capsys):
    assert main(["sweep", "--data", str(folder), "--out", str(tmp_path / "run")]) == 2
    assert "a sweep needs its data in memory, and the files in" in capsys.readouterr().err
    more = folder / "train" / "new.npz"
    np.savez(more, x=np.zeros((1, 6), np.float32), y=np.zeros(1, int))
    try:
        assert main(["train", "--resume", str(run), "--epochs", "3"]) == 2
    finally:
        more.unlink()
    said = f"the data set {folder} is not the one that {run} was trained on: its contents have"
    assert said in capsys.readouterr().err


def test_a_run_is_not_continued_on_other_contents_of_the_same_size(words, folder, tmp_path, capsys):
    here, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(folder, here)
    with jax.numpy_dtype_promotion("standard"):
        assert main([*words[:2], str(here), *words[3:], "--out", str(run)]) == 0
    data = dict(np.load(here / "train" / "more.npz"))
    said = f"the data set {here} is not the one that {run} was trained on: its contents have"
    for place in (0, 30, 59):  # the last is not in the first window
        y = data["y"].copy()
        y[place] = (y[place] + 1) % 3
        np.savez(here / "train" / "more.npz", x=data["x"], y=y)
        capsys.readouterr()
        assert main(["train", "--resume", str(run)]) == 2
        assert said in capsys.readouterr().err

    np.savez(here / "train" / "more.npz", **data)
    config = json.loads((run / "config.json").read_text())
    del config["config"]["files_sha256"], config["sha256"]  # as an earlier version wrote it
    (run / "config.json").write_text(json.dumps(config))
    with jax.numpy_dtype_promotion("standard"):
        assert main(["train", "--resume", str(run)]) == 0


def test_files_are_known_by_all_of_the_small_and_pieces_of_the_large(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((500_000, 1), np.float32))  # 2 MB
    np.save(tmp_path / "y.npy", np.zeros(500_000, np.int8))  # 0.5 MB

    def digest():
        return Folder(tmp_path).files_sha256

    known = digest()
    for name, places in {"y.npy": (0, 123_456, 499_999), "x.npy": (0, 499_999)}.items():
        for place in places:
            whole = (tmp_path / name).read_bytes()
            array = np.load(tmp_path / name)
            array[place] = 1
            np.save(tmp_path / name, array)
            assert digest() != known
            (tmp_path / name).write_bytes(whole)
            assert digest() == known
    (tmp_path / "y.npy").rename(tmp_path / "z.npy")
    np.save(tmp_path / "y.npy", np.zeros(500_000, np.int8))
    assert digest() != known


def test_a_data_set_is_known_by_its_name_whatever_folders_there_are(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "digits")
    assert TrainConfig(data="digits").source() is None
    assert TrainConfig(data="digits").dataset().train[0].shape == (1257, 8, 8, 1)
    assert len(TrainConfig(data="./digits").source()) == 70
