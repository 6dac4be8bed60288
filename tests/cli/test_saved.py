"""What is done with saved runs: `nnjax evaluate`, `nnjax plot`, `nnjax.load_run`."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnjax
from nnjax import data
from nnjax.cli import main
from nnjax.cli.loaded import load_run


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
    right, n = map(int, re.match(r"accuracy \S+ % \((\d+)/(\d+)\)", out).groups())
    assert n == len(x)
    run = load_run(trained / "dense")
    assert right == int(nnjax.evaluate(run.net, run.params, x, y).correct)
    matrix = [list(map(int, line.split()[1:])) for line in out.splitlines()[-10:]]
    assert np.trace(matrix) == right
    assert np.sum(matrix, axis=1).tolist() == np.bincount(y).tolist()


def test_evaluate_takes_other_data(trained, here, capsys):
    x, y = data.load("digits").validation
    np.savez("mine.npz", x=x[:7], y=y[:7])
    argv = ["evaluate", str(trained / "dense"), "--data", "mine.npz"]
    assert main([*argv, "--part", "train"]) == 0
    assert re.match(r"accuracy \S+ % \(\d/7\)", capsys.readouterr().out)
    assert main(argv) == 2
    assert "mine.npz has no test data; choose another --part" in capsys.readouterr().err
    np.savez("wide.npz", x=np.zeros((2, 9, 9, 1), np.float32), y=y[:2])
    assert main([*argv[:-1], "wide.npz", "--part", "train"]) == 2
    assert "x has shape (2, 9, 9, 1); this network takes (n, 64)" in capsys.readouterr().err


@pytest.mark.slow
def test_plot_draws_one_run(trained, here, capsys):
    assert main(["plot", str(trained / "dense")]) == 0
    kinds = ["learning-curves", "weight-norms-by-layer", "dead-by-layer", "first-layer-weights"]
    kinds += ["activation-functions", "confusion-matrix-test", "misclassified-test"]
    files = [Path("plots", f"dense-{kind}.png") for kind in kinds]
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    for file in files:
        with Image.open(file) as picture:
            assert min(picture.size) > 200
    before = {file: file.read_bytes() for file in files}
    files[0].unlink()
    assert main(["plot", str(trained / "dense")]) == 2
    assert re.fullmatch(
        r"nnjax: plots/dense-weight-norms-by-layer\.png and 5 other figures exist already; replace "
        r"them with --overwrite, or choose another folder with --out\n",
        capsys.readouterr().err,
    )
    assert {file: file.read_bytes() for file in files[1:]} == {f: before[f] for f in files[1:]}
    assert not files[0].exists()


@pytest.mark.slow
def test_plot_replaces_files_where_it_is_told_to(trained, here, capsys):
    for _ in range(2):
        assert main(["plot", str(trained / "dense"), "--overwrite"]) == 0
    assert len(list(Path("plots").iterdir())) == 7


@pytest.mark.slow
def test_plot_draws_several_runs(trained, here, capsys):
    runs = [str(trained / "dense"), str(trained / "conv")]
    assert main(["plot", *runs, "--format", "svg", "--out", "drawn", "--part", "validation"]) == 0
    names = {Path(line).name for line in capsys.readouterr().out.split()}
    assert {
        "dense-conv-learning-curves.svg",
        "dense-first-layer-weights.svg",
        "conv-first-layer-weights.svg",
        "conv-misclassified-validation.svg",
    } <= names
    curves = Path("drawn", "dense-conv-learning-curves.svg").read_text()
    assert curves.startswith("<?xml")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["plot"], "no run to plot: give at least one folder"),
        (["plot", "no-run"], r"no-run is not a run folder \(config\.json not found\)"),
        (["evaluate", "no-run"], r"no-run is not a run folder \(config\.json not found\)"),
    ],
)
def test_what_is_not_there_is_refused(here, capsys, argv, message):
    assert main(argv) == 2
    assert re.fullmatch(rf"nnjax: {message}\n", capsys.readouterr().err)
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_plot_says_where_it_cannot_write(trained, here, capsys):
    Path("file").touch()
    assert main(["plot", str(trained / "dense"), "--out", "file"]) == 2
    assert re.fullmatch(r"nnjax: file: .*\n", capsys.readouterr().err)


@pytest.mark.slow
def test_runs_of_one_name_do_not_share_pictures(trained, here, capsys):
    for parent in ("a", "b"):
        shutil.copytree(trained / "conv", here / parent / "run")
    assert main(["plot", "a/run", "b/run"]) == 0
    files = capsys.readouterr().out.split()
    assert len(files) == len({*files})
    assert "plots/a-run-confusion-matrix-test.png" in files


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("activation", "abc", "activation is 'abc'; expected one of"),
        ("init", "annotations", "init is 'annotations'; expected one of"),
        ("loss", None, "loss is None; expected one of"),
        ("evaluate_on", ["foo"], "evaluate_on is 'foo'; expected one of"),
        ("distort", [1], r"distort is \(1,\); expected strengths"),
        ("net", 3, "damaged, or not the configuration of a training run"),
    ],
)
def test_an_edited_configuration_is_refused(trained, here, capsys, name, value, message):
    shutil.copytree(trained / "conv", here / "run")
    config = json.loads(Path("run/config.json").read_text())
    config["config"]["train"][name] = value
    config.pop("sha256")  # as a version before digests wrote it
    Path("run/config.json").write_text(json.dumps(config))
    assert main(["evaluate", "run"]) == 2
    assert re.match(rf"nnjax: run/config\.json: {message}", capsys.readouterr().err)


def test_a_damaged_history_is_not_plotted(trained, here, capsys):
    shutil.copytree(trained / "dense", here / "run")
    path = Path("run/history.jsonl")
    path.write_text(path.read_text().replace('"train_loss"', '"train_lose"', 1))
    assert main(["plot", "run"]) == 2
    assert "run/history.jsonl: damaged: line 2: other names" in capsys.readouterr().err
    assert not Path("plots").exists()


def test_evaluate_prints_json(trained, capsys):
    assert main(["evaluate", str(trained / "conv"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["examples"] == 360
    assert np.sum(result["confusion"]) == 360


@pytest.mark.parametrize(
    ("measure", "best"),
    [
        pytest.param("validation_accuracy", np.argmax, marks=pytest.mark.slow),
        ("validation_loss", np.argmin),
    ],
)
def test_the_best_checkpoint_is_evaluated(here, capsys, measure, best):
    argv = "train --hidden 16 --epochs 3 --rate 3 --save-every 1 --patience 5 --out run"
    # patience keeps the best parameters, the reference here
    assert main([*argv.split(), "--measure", measure]) == 0
    capsys.readouterr()
    run = load_run("run")
    assert run.run.best_checkpoint.stem == f"epoch-{1 + best(run.history[measure]):06d}"
    np.testing.assert_array_equal(run.best_params[0].w, run.params[0].w)
    assert main(["evaluate", "run", "--best", "--part", "validation"]) == 0
    correct = run.history["validation_correct"][best(run.history[measure])]
    assert f"({correct}/180)" in capsys.readouterr().out


def test_what_belongs_to_others_is_shown_harmlessly(trained, here, capsys):
    shutil.copytree(trained / "dense", here / "a\x1b[2Jrun")
    assert main(["plot", "a\x1b[2Jrun", "--out", "b\x1b[2J"]) == 0
    assert main(["evaluate", "no\x1b[2Jrun"]) == 2
    config = Path("a\x1b[2Jrun/config.json")
    config.write_text(config.read_text().replace('"seed"', '"se\\u001b[2Jed"'))
    assert main(["evaluate", "a\x1b[2Jrun"]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "b\\x1b[2J/a\\x1b[2Jrun-learning-curves.png" in out
    assert "nnjax: no\\x1b[2Jrun is not a run folder" in err


def test_a_run_is_loaded(trained):
    run = nnjax.load_run(trained / "dense")
    assert nnjax.accuracy(run.net, run.params, *data.load("digits").test) > 0.9
    assert run.config.epochs == 2
    assert run.history["epoch"].tolist() == [0, 1]
    assert run.input_shape == (8, 8, 1)


def test_runs_are_listed_with_what_differs(trained, here, capsys, monkeypatch):
    shutil.copytree(trained, here / "runs")
    shutil.copytree("runs/conv", "runs/damaged")
    Path("runs/damaged/history.jsonl").write_text("5\n")
    assert main(["runs"]) == 0
    header, conv, dense, damaged = capsys.readouterr().out.splitlines()
    columns = ["run", "epochs", "val accuracy", "best epoch", "seconds", "net", "monitors"]
    assert re.split(r"  +", header) == columns
    best = load_run("runs/dense").history["validation_accuracy"].max()
    assert re.match(rf"dense +2 +{100 * best:.2f} % +\d +\d+\.\d +weight_norms dead$", dense)
    assert re.search(r" conv4k3 pool2$", conv)
    assert damaged.startswith("runs/damaged/history.jsonl: damaged: line 1")
    config = json.loads(Path("runs/conv/config.json").read_text())
    config["config"]["train"]["distort"]["shift"] = 1
    config.pop("sha256")  # as a version before digests wrote it
    Path("runs/conv/config.json").write_text(json.dumps(config))
    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "isatty", lambda: True)
        patch.setenv("COLUMNS", "80")
        assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()[:-1]
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines[2::2]] == [
        "net conv4k3 pool2, distort.shift 1",
        "monitors weight_norms dead, distort.shift 0",
    ]
    assert main(["runs", "runs", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == ["conv", "dense", "damaged"]
    assert rows[1]["val accuracy"] == best
    assert main(["runs", "nowhere"]) == 2
    assert "nowhere is not a folder; give the folder that holds" in capsys.readouterr().err
    Path("empty").mkdir()
    assert main(["runs", "empty"]) == 2
    assert "empty holds no runs; give the folder that holds" in capsys.readouterr().err
