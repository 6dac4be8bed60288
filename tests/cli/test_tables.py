"""Tables on the command line: regressions, two classes with one output, several labels at once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nnjax
from nnjax.cli import main
from nnjax.cli.config import TrainConfig

RNG = np.random.default_rng(0)
X = RNG.normal([10, -5, 300], [1, 2, 50], (150, 3))
PRICE = 4000 + 500 * (X[:, 0] - 10) - 100 * (X[:, 1] + 5) + 20 * RNG.normal(size=150)
RED, BIG = X[:, 0] > 10, X[:, 2] > 300
SMALL = ["--hidden", "8", "--standardize", "--batch-size", "10"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, **columns):
    rows = [",".join(f"{v}" for v in row) for row in zip(*columns.values(), strict=True)]
    Path(name).write_text("\n".join([",".join(columns), *rows]))


def features():
    return {name: X[:, j].round(3) for j, name in enumerate(("size", "age", "area"))}


def test_a_regression_from_a_table(here, capsys):
    write("houses.csv", **features(), price=PRICE.round(2))
    options = ["--data", "houses.csv", "--target", "price", *SMALL, "--patience", "30"]
    assert main(["train", *options, "--epochs", "30", "--out", "runs/a", "--save-every", "10"]) == 0
    out = capsys.readouterr().out
    assert "Task: regression, 1 target: price (choose with --task)\nLoss: quadratic" in out
    assert re.search(r"Epoch 30/30  train loss \S+  val RMSE \S+  R² 0\.\d+  ", out)
    assert "best validation rmse" in out
    assert "accuracy" not in out
    assert re.search(r"Test RMSE \S+, MAE \S+, R² 0\.9\d+, test loss ", out)

    run = nnjax.load_run("runs/a")
    assert not [name for name in run.history if "accuracy" in name]
    x, y = run.part("test")
    found = run.predict(np.asarray(x) * run.standardization[1] + run.standardization[0])
    mean, deviation = run.target_standardization
    rmse = np.sqrt(np.mean((found - (mean + deviation * np.asarray(y))) ** 2))
    assert main(["evaluate", "runs/a", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"examples", "loss", "rmse", "mae", "r2"}
    assert told["rmse"] == pytest.approx(rmse, rel=1e-4)
    assert 20 < told["rmse"] < 200  # in the units of the table
    assert main(["evaluate", "runs/a", "--best"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"RMSE \S+, MAE \S+, R² \S+, loss \S+ \(30 examples\)\n", out)
    assert main(["plot", "runs/a"]) == 0
    assert capsys.readouterr().out.split() == [
        f"plots/a-{kind}.png"
        for kind in ("learning-curves", "activation-functions", "estimates-test")
    ]
    assert main(["runs"]) == 0
    assert "val RMSE" in capsys.readouterr().out

    write("new.csv", id=range(3), area=X[:3, 2], age=X[:3, 1], size=X[:3, 0])
    assert main(["predict", "runs/a", "new.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" price ")[0] for line in lines] == [f"new.csv:{i}:" for i in (2, 3, 4)]
    values = [float(line.split()[-1]) for line in lines]
    np.testing.assert_allclose(values, PRICE[:3], atol=400)
    assert main(["predict", "runs/a", "new.csv", "7.png", "--json"]) == 2
    *rows, bad = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose([r["outputs"]["price"] for r in rows], values, rtol=1e-4)
    assert "expected a .csv or .tsv file" in bad["error"]
    write("new.csv", size=X[:3, 0], area=X[:3, 2])
    assert main(["predict", "runs/a", "new.csv"]) == 2
    assert "has no column 'age'; expected the features size, age, area" in capsys.readouterr().err
    assert main(["train", "--resume", "runs/a", "--epochs", "31"]) == 0


def test_the_columns_of_other_data_are_found_by_name(here, capsys):
    write("houses.csv", **features(), price=PRICE.round(2))
    assert main(["train", "--data", "houses.csv", *SMALL, "--epochs", "5", "--out", "run"]) == 0
    capsys.readouterr()

    def evaluated(*options):
        assert main(["evaluate", "run", *options]) == 0
        return capsys.readouterr().out

    columns = features()
    area = columns.pop("area")
    write("moved.csv", price=PRICE.round(2), area=area, number=range(150), **columns)
    assert evaluated("--data", "moved.csv") == evaluated()
    write("few.csv", **columns, price=PRICE.round(2))
    assert main(["evaluate", "run", "--data", "few.csv"]) == 2
    assert "few.csv has no feature 'area' among size, age; expected" in capsys.readouterr().err
    write("moved.csv", area=area, **columns, price=PRICE.round(2))
    assert main(["train", "--from", "run", "--data", "moved.csv", "--epochs", "6"]) == 2
    assert "run was trained on size, age, area; bring the" in capsys.readouterr().err


def test_the_classes_of_other_data_are_the_column_that_is_left_over(here, capsys):
    kind = np.where(RED, "red", "blue")
    write("kinds.csv", **features(), kind=kind)
    assert main(["train", "--data", "kinds.csv", *SMALL, "--epochs", "1", "--out", "run"]) == 0
    columns = features()
    area = columns.pop("area")
    capsys.readouterr()
    told = []
    for name in ("kind", "colour"):  # the last column is a feature
        write("moved.csv", **{name: kind}, **columns, area=area)
        assert main(["evaluate", "run", "--data", "moved.csv"]) == 0
        told.append(capsys.readouterr().out)
    assert main(["evaluate", "run"]) == 0
    assert told == [capsys.readouterr().out] * 2


def test_outputs_that_are_not_finite_are_said(here, capsys, monkeypatch):
    write("kinds.csv", **features(), kind=np.where(RED, "red", "blue"))
    assert main(["train", "--data", "kinds.csv", *SMALL, "--epochs", "1", "--out", "run"]) == 0
    capsys.readouterr()
    Path("new.csv").write_text("size,age,area\n1,2,3\n\n4,nan,6\n")
    assert main(["predict", "run", "new.csv", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "new.csv: line 4, column 'age': expected a finite number" in err
    assert json.loads(out) == [{"row": "new.csv", "error": err.removeprefix("nnjax: ").strip()}]

    Path("new.csv").write_text("size,age,area\n1,2,3\n\n4,5,6\n")
    told = np.array([[0.25, 0.75], [np.nan, 1.0]], np.float32)
    monkeypatch.setattr("nnjax.cli.predict.feedforward", lambda *args: told)
    assert main(["predict", "run", "new.csv", "--json"]) == 2
    out, err = capsys.readouterr()
    good, bad = json.loads(out)
    assert (good["row"], good["class"], bad["row"]) == ("new.csv:2", "red", "new.csv:4")
    assert f"nnjax: {bad['error']}\n" == err
    assert "new.csv:4: the outputs of the network are not finite; look for values" in err


@pytest.mark.slow
def test_two_classes_with_one_output(here, capsys):
    write("colours.csv", **features(), colour=np.where(RED, "red", "blue"))
    options = ["--data", "colours.csv", *SMALL, "--task", "binary", "--class-weight", "balanced"]
    assert main(["train", *options, "--epochs", "20", "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "Task: binary, 2 classes: blue, red (choose with --task)\nLoss: cross-entropy" in out
    assert re.search(r"Test accuracy (9\d|100)\.\d\d %", out)
    assert nnjax.load_run("run").net.n_out == 1
    assert main(["evaluate", "run"]) == 0
    assert "blue" in capsys.readouterr().out
    assert main(["predict", "run", "colours.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = [line.split()[1] for line in lines]
    assert np.mean(np.array(said) == np.where(RED, "red", "blue")) > 0.9
    percents = [float(p) for p in re.findall(r"\((\S+) %\)", lines[0])]
    assert sum(percents) == pytest.approx(100, abs=0.11)


@pytest.mark.slow
def test_several_labels_at_once(here, capsys):
    write("things.csv", **features(), red=RED.astype(int), big=BIG.astype(int))
    options = ["--data", "things.csv", "--target", "red", "big", *SMALL]
    assert main(["train", *options, "--epochs", "20", "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "Task: multilabel, 2 labels: red, big (choose with --task)" in out
    assert re.search(r"val label accuracy \S+ %  exact match \S+ %", out)
    assert main(["evaluate", "run"]) == 0
    assert re.search(r"  red +\d+ +(9\d|100)\.", capsys.readouterr().out)
    assert main(["predict", "run", "things.csv", "--json"]) == 0
    labels = [entry["labels"] for entry in json.loads(capsys.readouterr().out)]
    assert np.mean([("red" in found) == red for found, red in zip(labels, RED, strict=True)]) > 0.9


@pytest.mark.slow
def test_pictures_by_class(here, capsys):
    for i in range(40):
        path = here / "stripes" / ("across", "down")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stripes = 255 * (np.arange(12) // 2 % 2) + np.zeros((12, 1))
        pixels = np.uint8((stripes if i % 2 else stripes.T) * RNG.uniform(0.5, 1, (12, 12)))
        Image.fromarray(pixels).resize((12 + i % 3, 12)).save(path)
    options = ["--data", "stripes", "--hidden", "8", "--epochs", "10", "--out", "run"]
    assert main(["train", *options, "--rate", "0.02"]) == 0
    assert re.search(r"Test accuracy (8|9|10)\d", capsys.readouterr().out)
    assert nnjax.load_run("run").input_shape == (12, 13, 1)
    assert main(["predict", "run", "stripes/down/1.png", "stripes/across/2.png"]) == 0
    assert re.findall(r": (\w+) \(", capsys.readouterr().out) == ["down", "across"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "binary", "--target", "kind"], r"houses\.csv has 3 classes, and the task is b"),
        (["--loss", "cross_entropy"], "the task is a regression; give quadratic"),
        (["--class-weight", "balanced"], "class_weight gives weights to classes, and the"),
        (["--target", "kind", "--class-weight", "5"], "class_weight has 1 number for 3 classes"),
        (["--target", "kind", "--class-weight", *"1111"], "class_weight has 4 numbers for 3"),
        (["--class-weight", "5"], "class_weight gives weights to classes, and the task is regr"),
        (["--class-weight", "much"], "class_weight is much; expected balanced, or one number"),
        (["--task", "regression", "--data", "digits"], "the targets of 'digits' are classes"),
        (["--task", "multilabel"], r"y must be zeros and ones of shape \(n, k\)"),
    ],
)
def test_what_does_not_suit_the_task_is_refused(here, capsys, options, message):
    write("houses.csv", **features(), kind=np.arange(150) % 3, price=PRICE.round(2))
    assert main(["train", "--data", "houses.csv", *options, "--epochs", "1"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_run_of_an_earlier_version_had_one_target():
    assert TrainConfig.from_json({"target": "kind"}).target == ("kind",)
    assert TrainConfig.from_json({"target": None}).target == ()
