"""`nnjax evaluate` and `nnjax plot`; `nnjax predict` is tested in test_cli.py."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnjax
from nnjax import data
from nnjax.cli import main
from nnjax.cli.saved import open_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of two short runs, one of them convolutional."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["--net", "conv4k3", "pool2"]
    monitors = ["--monitors", "weight_norms", "dead"]
    assert main(["train", "--epochs", "2", "--out", str(folder / "dense"), *monitors]) == 0
    assert main(["train", "--epochs", "1", "--out", str(folder / "conv"), *words]) == 0
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_evaluate_counts_what_was_read(trained, capsys, part):
    assert main(["evaluate", str(trained / "dense"), "--part", part]) == 0
    out = capsys.readouterr().out
    x, y = getattr(data.load("digits"), part)
    right, n = map(int, re.match(r"(\d+) / (\d+) right", out).groups())
    assert n == len(x)
    run, _, net, _ = open_run(trained / "dense")
    params = run.load_params(nnjax.init(net, nnjax.cli.config.TrainConfig().key()))
    assert right == int(nnjax.evaluate(net, params, x, y).correct)
    matrix = [list(map(int, line.split()[1:])) for line in out.splitlines()[-10:]]
    assert np.trace(matrix) == right
    assert np.sum(matrix, axis=1).tolist() == np.bincount(y).tolist()


def test_evaluate_takes_other_data(trained, here, capsys):
    x, y = data.load("digits").validation
    np.savez("mine.npz", x=x[:7], y=y[:7])
    argv = ["evaluate", str(trained / "dense"), "--data", "mine.npz"]
    assert main([*argv, "--part", "train"]) == 0
    assert re.match(r"\d / 7 right", capsys.readouterr().out)
    assert main(argv) == 2
    assert "mine.npz has no test data; ask for another --part" in capsys.readouterr().err
    np.savez("wide.npz", x=np.zeros((2, 9, 9, 1), np.float32), y=y[:2])
    assert main([*argv[:-1], "wide.npz", "--part", "train"]) == 2
    assert "x has shape (2, 9, 9, 1); this network takes (n, 64)" in capsys.readouterr().err


def test_plot_draws_one_run(trained, here, capsys):
    assert main(["plot", str(trained / "dense")]) == 0
    kinds = ["curves", "weight_norms", "dead", "weights", "activations", "confusion", "misread"]
    files = [Path("plots", f"{kind}.png") for kind in kinds]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 200


def test_plot_draws_several_runs(trained, here, capsys):
    runs = [str(trained / "dense"), str(trained / "conv")]
    assert main(["plot", *runs, "--format", "svg", "--out", "drawn", "--part", "validation"]) == 0
    names = {Path(line).name for line in capsys.readouterr().out.split()}
    assert {"curves.svg", "dense-weights.svg", "conv-weights.svg", "conv-misread.svg"} <= names
    curves = Path("drawn", "curves.svg").read_text()
    assert curves.startswith("<?xml")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plot"], "no run to draw: name at least one folder"),
        (["plot", "no-run"], r"no-run is no run: it has no config\.json"),
        (["evaluate", "no-run"], r"no-run is no run: it has no config\.json"),
    ],
)
def test_what_is_not_there_is_refused(here, capsys, argv, message):
    assert main(argv) == 2
    assert re.fullmatch(rf"nnjax: {message}\n", capsys.readouterr().err)
    assert list(here.iterdir()) == []


def test_plot_says_where_it_cannot_write(trained, here, capsys):
    Path("file").touch()
    assert main(["plot", str(trained / "dense"), "--out", "file"]) == 2
    assert re.fullmatch(r"nnjax: file: .*\n", capsys.readouterr().err)


def test_runs_of_one_name_do_not_share_pictures(trained, here, capsys):
    for parent in ("a", "b"):
        shutil.copytree(trained / "conv", here / parent / "run")
    assert main(["plot", "a/run", "b/run"]) == 0
    files = capsys.readouterr().out.split()
    assert len(files) == len({*files})
    assert "plots/a-run-confusion.png" in files


@pytest.mark.parametrize(
    ("name", "value"), [("activation", "abc"), ("loss", None), ("net", 3), ("distort", [1])]
)
def test_an_edited_configuration_is_said_to_be_damaged(trained, here, capsys, name, value):
    shutil.copytree(trained / "conv", here / "run")
    config = json.loads(Path("run/config.json").read_text())
    config["config"]["train"][name] = value
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["evaluate", "run"]) == 2
    assert capsys.readouterr().err == "nnjax: run/config.json: damaged, or not of a training run\n"
