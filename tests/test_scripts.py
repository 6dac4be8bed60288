"""Every script starts, and its help says what its options mean."""

import argparse
import importlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import nnjax
from nnjax.data import Dataset
from nnjax.descent import loss_and_gradient
from nnjax.regularizers import MaxNorm

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))


HELP = """
import contextlib, io, json, os, runpy, sys
said = {}
for path in sys.argv[1:]:
    sys.argv, sys.path[0] = [path, "--help"], os.path.dirname(path)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            said[path] = end.code, out.getvalue()
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said():
    """What each script prints when it is asked for help, in one process: they import alike."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, *SCRIPTS], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "path",
    [path for path in SCRIPTS if path.stem not in ("common", "convolutions", "scale")],
    ids=lambda path: path.stem,
)
def test_help(path, said):
    code, text = said[str(path)]
    assert code == 0
    assert path.name in text
    options = text.split("options:")[1]
    for option in re.findall(r"^  (--\S+)", options, re.MULTILINE):
        line = options.split(option, 1)[1]
        assert re.match(r"[^\n]*(  |\n {8,})\S", line), f"{option} has no help"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    return importlib.import_module("bench")


def test_figures_are_held_against_those_before(bench, monkeypatch, tmp_path, capsys):
    def one(options):
        bench.table("A table", {name: bench.Rival(time.perf_counter) for name in seconds})

    def timed(title, rivals, repeats):
        bench.RESULTS[title] = {name: list(seconds[name]) for name in rivals}
        return bench.spreads(bench.RESULTS[title])

    monkeypatch.setattr(bench, "SECTIONS", {"one": one})
    monkeypatch.setattr(bench, "RESULTS", {})
    monkeypatch.setattr(bench, "timed", timed)
    seconds = {"nnjax": (1.0, 0.9, 1.2), "peer": (4.0, 3.9, 4.1)}
    file = str(tmp_path / "before.json")
    assert bench.main(["one", "--json", file]) == 0
    assert re.search(r"peer +4\.000 s +4\.00 x +3\.900 to 4\.100", capsys.readouterr().out)
    seconds = {"nnjax": (1.1, 1.0, 1.3), "peer": (2.0, 1.9, 2.1), "other": (1.0, 1.0, 1.0)}
    assert bench.main(["--compare", file]) == 0
    out = capsys.readouterr().out
    assert re.search(r"nnjax +1\.10 x\n", out)
    assert re.search(r"peer +0\.50 x  faster\n", out)
    assert re.search(r"other  not measured before\n", out)


def test_the_repeats_of_several_processes_stand_together(bench, monkeypatch, tmp_path, capsys):
    measured = iter([[0.002, 0.001], [0.004, 0.003, 0.005]])

    def process(command, check):
        assert command[2:5] == ["calls", "--repeats", "7"]
        content = {"seconds": {"A table": {"nnjax": next(measured), "peer": [0.006]}}}
        Path(command[command.index("--json") + 1]).write_text(json.dumps(content))

    monkeypatch.setattr(bench, "RESULTS", {})
    monkeypatch.setattr(bench.subprocess, "run", process)
    file = tmp_path / "all.json"
    arguments = ["calls", "--repeats", "7", "--processes", "2", "--json", str(file)]
    assert bench.main(arguments) == 0
    out = capsys.readouterr().out
    assert re.search(r"nnjax +3\.000 ms +1\.000 to 5\.000", out)
    assert re.search(r"peer +6\.000 ms +2\.00 x +6\.000 to 6\.000", out)
    found = json.loads(file.read_text())["seconds"]["A table"]["nnjax"]
    assert found == [0.002, 0.001, 0.004, 0.003, 0.005]


@pytest.mark.skipif(shutil.which("cc") is None, reason="requires a C compiler")
def test_loops_in_c_learn_what_numpy_learns(bench):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(40, 7), dtype=np.uint8), rng.integers(3, size=40)
    problem = [7, 4, 3], x, y, 10, 0.5
    in_c, in_numpy = bench._epoch_of_c(*problem)(), bench._epoch_of_numpy(*problem)()
    for ours, theirs, start in zip(in_c, in_numpy, bench._start([7, 4, 3])[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert np.abs(ours - start).min() > 1e-4
    assert np.float32(1e-40) * np.float32(1) > 0  # subnormal numbers are as before in this process


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    return importlib.import_module("records")


def of_one_pixel(n, shown):
    """Images of 2x2 whose brightest pixel is the class, or is another: nothing can be learned."""
    y = np.arange(n) % 4
    x = np.zeros((n, 4), np.uint8)
    x[np.arange(n), shown(y)] = 255
    return x.reshape(n, 2, 2, 1), y


@pytest.fixture
def pixels():
    right, wrong = of_one_pixel(40, lambda y: y), of_one_pixel(40, lambda y: (y + 1) % 4)
    return Dataset(train=right, validation=wrong, test=right)


@pytest.fixture
def reported(records, monkeypatch, tmp_path):
    """A function that trains for a record, and returns the results that --json keeps."""

    def results(record, data, seeds, choose):
        monkeypatch.setattr(records, "RECORDS", {"mlp": record})
        monkeypatch.setattr(records.nnjax.data, "load", lambda name, data_dir: data)
        asked = {"record": "mlp", "data_dir": None, "seeds": seeds, "choose": choose}
        file = tmp_path / "record.json"
        with jax.numpy_dtype_promotion("standard"):  # as a user's process is
            records.report(argparse.Namespace(**asked, json=file))
        return json.loads(file.read_text())["results"]

    return results


@pytest.mark.slow
def test_a_record_tells_validation_from_test(records, reported, pixels, capsys):
    recipe = records.Recipe("", 2, 10, 0.5, shifts=1)
    record = records.Record(0.9, recipe, (recipe,))
    [result] = reported(record, pixels, seeds=3, choose=False)
    assert (result["validation"], result["test"]) == ([0.0] * 3, [1.0] * 3)
    assert result["parameters"] == 20
    assert len(result["seconds"]) == len(result["processor_seconds"]) == 3
    said = capsys.readouterr().out
    assert re.search(r"validation accuracy, % +0\.00 +0\.00 +0\.00\n", said)
    assert re.search(r"test accuracy, % +100\.00 +100\.00 +100\.00\n", said)
    assert "90.00% of the test images reached from 3 seeds\n" in said
    reached = sum(accuracy >= 0.9 for accuracy in result["test_averaged"])
    assert f"reached from {reached} seeds, outputs averaged\n" in said

    results = reported(record, pixels._replace(test=None), seeds=1, choose=True)
    assert [result["recipe"] for result in results] == [str(recipe)] * 2
    assert [result["test"] for result in results] == [[], []]
    assert "test accuracy" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_record_may_learn_from_the_validation_images_once_chosen(
    records, reported, pixels, capsys
):
    x, y = pixels.train
    outer = (y == 0) | (y == 3)  # of the other classes only validation has images
    data = Dataset(train=(x[outer], y[outer]), validation=(x[~outer], y[~outer]), test=(x, y))
    recipe = records.Recipe("", 30, 10, 0.5)
    record = records.Record(0.9, recipe, (recipe,), all_images=True)
    [result] = reported(record, data, seeds=1, choose=False)
    assert (result["validation"], result["test"]) == ([], [1.0])
    said = capsys.readouterr().out
    assert "Training on 40 images\n" in said
    assert re.search(r"Seed 0: trained after [0-9.]+ s \(\)\n", said)

    results = reported(record, data, seeds=1, choose=True)
    assert [result["validation"] for result in results] == [[0.0]] * 2
    assert "Training on 20 images\n" in capsys.readouterr().out


@pytest.mark.slow
def test_mixup_mixes_targets_as_it_mixes_images(records, pixels, monkeypatch):
    steps = []

    def seen(net, params, x, y, key):
        steps.append((x.reshape(len(x), -1), y))
        return loss_and_gradient(net, params, x, y, key)

    monkeypatch.setattr(records, "loss_and_gradient", seen)
    recipe = records.Recipe("", 1, 10, 0.5, regularizer=MaxNorm(0.01), mixup=0.5)
    with jax.disable_jit(), jax.numpy_dtype_promotion("standard"):
        [params] = recipe.epochs_of_training(pixels, 0)
    assert [x.shape for x, _ in steps] == [(10, 4)] * 4
    for x, y in steps:  # of these images, each pixel is that of a class
        np.testing.assert_allclose(x, y, rtol=1e-6)
        np.testing.assert_allclose(y.sum(-1), 1.0, rtol=1e-6)
    shares = [float(y.max(-1).min()) for _, y in steps]
    assert len(set(shares)) == 4
    assert min(shares) < 0.99
    assert jax.numpy.linalg.norm(params[-1].w, axis=1).max() <= 0.01001


@pytest.mark.slow
def test_mixup_learns_from_each_seed_anew(records, pixels):
    recipe = records.Recipe("", 20, 10, 0.5, mixup=0.5)
    with jax.numpy_dtype_promotion("standard"):
        ends = [list(recipe.epochs_of_training(pixels, seed))[-1] for seed in (0, 0, 1)]
    net = recipe.network(pixels)
    assert [records._accuracy(net, params, pixels.train) for params in ends] == [1.0] * 3
    first, again, other = (np.asarray(params[-1].w) for params in ends)
    assert (first == again).all()
    assert (first != other).any()


def test_a_record_averages_outputs_over_shifts(records):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 4, 5, 1)).astype(np.uint8)
    net = records.Recipe("dense9", 1, 10, 0.5).network(Dataset((x, np.arange(30) % 6), None, None))
    params = nnjax.init(net, jax.random.key(1))
    total = np.zeros((30, 6))
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        moved = np.zeros_like(x)
        for row, column in itertools.product(range(4), range(5)):
            if 0 <= row + down < 4 and 0 <= column + right < 5:
                moved[:, row + down, column + right] = x[:, row, column]
        total += np.asarray(nnjax.predict_proba(net, params, moved))
    y = total.argmax(1)
    result = records.Result("", 0, 0.0, [1.0], [1.0])
    result.measure("test", net, params, (x, y), shifts=1)
    result.measure("validation", net, params, (x, y), shifts=0)
    assert result.test_averaged == [1.0]
    assert result.test[0] < 1.0
    assert result.test == result.validation
    assert result.validation_averaged == []
    assert re.search(r"test accuracy, %, averaged +100\.00 +100\.00 +100\.00", str(result))


def test_a_recipe_does_not_mix_what_it_distorts(records):
    with pytest.raises(ValueError, match="has mixup or augment; leave one of them out"):
        records.Recipe("", 1, 10, 0.5, augment=records.noisy, mixup=0.5)


def test_a_record_needs_a_seed(records):
    with pytest.raises(ValueError, match="--seeds is 0; expected at least 1"):
        records.report(argparse.Namespace(record="fastest", seeds=0))


def test_every_recipe_builds_its_network(records):
    digits = Dataset((np.zeros((10, 28, 28, 1), np.uint8), np.arange(10)), None, None)
    for record in records.RECORDS.values():
        for recipe in (record.chosen, *record.others):
            assert recipe.network(digits).n_out == 10
