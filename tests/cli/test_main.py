"""The command line, mostly in this process: what it prints, what it leaves, how it refuses."""

import dataclasses
import errno
import gc
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import numpy as np
import pytest
from PIL import Image

import nnjax
from nnjax import data, initializers
from nnjax.cli import commands, main, train
from nnjax.cli.config import TrainConfig
from nnjax.cli.loaded import load_run
from nnjax.cli.options import GROUPS
from nnjax.cli.stop import Terminated, terminable
from nnjax.data import images
from nnjax.network import check_params
from nnjax.regularizers import L1, L2, MaxNorm
from nnjax.training import optimizers
from nnjax.training.augmentation import Distortion
from nnjax.training.early_stopping import EarlyStopping
from nnjax.training.run import Run

SMALL = ["--hidden", "16", "--epochs", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def usual_dtypes():
    """As outside of the tests: optax's own Adam and schedules rest on dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the run that `nnjax train` makes without options."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--out", str(folder)]) == 0
    return folder


def params_of(folder):
    run = load_run(folder)
    return run.net, run.params


def command(*argv, before=""):
    """Start the command line in a process of its own, after some other Python."""
    program = f"{before}\nimport sys; from nnjax.cli import main; sys.exit(main())"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *argv], **pipes)


# ---------------------------------------------------------------- train


@pytest.mark.slow
def test_default_run_reads_97_percent_of_the_digits_held_out(trained):
    net, params = params_of(trained)
    assert nnjax.accuracy(net, params, *data.load("digits").test) >= 0.97


def test_train_prints_and_keeps_what_it_does(here, capsys):
    assert main(["train", *SMALL]) == 0
    out, err = capsys.readouterr()
    *_, first, second, test, saved = out.splitlines()
    line = r"Epoch %d/2  train loss \d\.\d+  val accuracy \d\d\.\d %% \(\d+/180\)  \d+\.\d s"
    assert re.fullmatch(line % 1, first)
    assert re.fullmatch(line % 2, second)
    percent, right = re.fullmatch(
        r"Test accuracy (\d\d\.\d\d) % \((\d+)/360\), test loss \d\.\d+", test
    ).groups()
    folder = Path(re.fullmatch(r"Saved in (runs/digits-\d{4}-\d\d-\d\d-1)", saved).group(1))
    assert err == ""
    assert sorted(file.name for file in folder.iterdir() if file.name != ".lock") == [
        "checkpoints",
        "config.json",
        "history.jsonl",
        "params.safetensors",
    ]
    net, params = params_of(folder)
    result = nnjax.evaluate(net, params, *data.load("digits").test)
    assert int(right) == result.correct
    assert float(percent) == pytest.approx(100 * float(result.accuracy), abs=0.005)
    history = Run(folder).history
    assert [record["epoch"] for record in history] == [0, 1]
    assert f"({history[1]['validation_correct']}/180)" in second
    assert str(nnjax.summary(net)) in out
    assert out.startswith(
        "Data: digits (1,257 training, 180 validation, 360 test examples)\n"
        "Loss: log-likelihood\n"
        "Optimizer: SGD with momentum, learning rate η = 0.05, batch size 10\n"
    )
    assert max(map(len, out.splitlines())) <= 80


def test_each_run_gets_a_folder_of_its_own_and_the_seed_decides(here):
    for seed in ("0", "0", "1"):
        assert main(["train", *SMALL, "--seed", seed]) == 0
    runs = [params_of(folder)[1] for folder in sorted(Path("runs").iterdir())]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), runs[0], runs[1]))
    assert not jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), runs[0], runs[2]))


def test_every_option_reaches_the_training(here):
    options = {
        "--hidden": ["7"],
        "--activation": ["tanh"],
        "--loss": ["quadratic"],
        "--init": ["large"],
        "--optimizer": ["sgd"],
        "--rate": ["3.0"],
        "--batch-size": ["20"],
        "--epochs": ["3"],
        "--seed": ["5"],
    }
    argv = [word for name, values in options.items() for word in (name, *values)]
    assert main(["train", *argv, "--out", "run", "--platform", "cpu"]) == 0
    data_set = data.load("digits")
    net = nnjax.mlp(
        [64, 7, 10], nnjax.tanh, loss=nnjax.quadratic, initializer=nnjax.initializers.large
    )
    state, _ = nnjax.train(
        net,
        data_set,
        optimizer=nnjax.training.optimizers.by_name("sgd", 3.0),
        epochs=3,
        batch_size=20,
        key=jax.random.key(5),
    )
    again, params = params_of("run")
    assert again == net
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


def test_layers_in_words():
    net = TrainConfig(net=("conv4k3:tanh", "pool2 dropout0.5")).network((8, 8, 1), 10)
    described = [nnjax.architecture.describe(layer) for layer in net.layers]
    assert described == ["conv4k3:tanh", "pool2", "dropout0.5", "flatten", "dense10:softmax"]
    kinds = {"initializer": initializers.he}
    assert TrainConfig(net=("conv",)).network((28, 28, 1), 10) == nnjax.convnet(
        (28, 28, 1), 10, **kinds
    )
    small = nnjax.convnet((8, 8, 1), 10, filters=(20,), kernel=3, **kinds)
    assert TrainConfig(net=("conv",)).network((8, 8, 1), 10) == small


@pytest.mark.slow
def test_what_makes_networks_learn_better_reaches_the_training(here, usual_dtypes, capsys):
    argv = (
        "train --epochs 12 --hidden 16 --optimizer adam --rate 0.3 --l2 0.5 --l1 0.1 --max-norm 3 "
        "--evaluate-on train validation --monitors weight_norms --monitor-every 60 "
        "--patience 2 --measure validation_loss --lower-rate-to 0.5 --distort.shift 1 --out run"
    )
    assert main(argv.split()) == 0
    net = nnjax.mlp(
        [64, 16, 10], nnjax.relu, loss=nnjax.log_likelihood, initializer=initializers.he
    )
    state, history = nnjax.train(
        net,
        data.load("digits"),
        optimizer=optimizers.by_name("adam", 0.3),
        epochs=12,
        batch_size=10,
        key=jax.random.key(0),
        evaluate_on=["train", "validation"],
        regularizer=L2(0.5) + L1(0.1) + MaxNorm(3.0),
        augment=Distortion(shift=1),
        monitors=["weight_norms"],
        monitor_every=60,
        early_stopping=EarlyStopping(2, "validation_loss", 0.5),
    )
    again, params = params_of("run")
    assert again == net
    jax.tree.map(np.testing.assert_array_equal, params, state.best_params)
    records = Run("run").history
    assert len(records) == len(history["epoch"]) < 12
    best = int(state.stopping.best_epoch)
    out = capsys.readouterr().out
    assert "Early stopping after 2 epochs without improvement in validation loss" in out
    *_, last = (line for line in out.splitlines() if line.startswith("Epoch "))
    assert last.endswith(f"  best: {best + 1}")
    assert f"Restored the parameters of epoch {best + 1} (best validation loss)" in out
    for name in history.keys() - {"seconds"}:
        np.testing.assert_allclose([record[name] for record in records], history[name])


@pytest.mark.parametrize(
    ("options", "rate", "keywords"),
    [
        ({"optimizer": "momentum", "mu": 0.5}, 0.05, {"mu": 0.5}),
        ({"optimizer": "sgd"}, 0.3, {}),
        ({"optimizer": "sgd", "data": "mnist"}, 0.03, {}),
        ({"optimizer": "rmsprop"}, 0.001, {}),
        ({"schedule": "cosine", "epochs": 3}, optimizers.schedule("cosine", 0.05, 3 * 126), {}),
    ],
)
def test_the_optimizer_asked_for_is_used(options, rate, keywords):
    config = TrainConfig(**options)
    expected = optimizers.by_name(config.optimizer, rate, **keywords)
    net = config.network((8, 8, 1), 10)
    assert config.arguments(net, data.load("digits"))["optimizer"] is expected


def test_the_training_images_are_expanded():
    assert len(TrainConfig(expand=True).dataset().train[0]) == 5 * 1257


def test_several_parts_are_told_apart_and_parts_that_are_not_there_left_out(here, capsys):
    assert main(["train", *SMALL, "--evaluate-on", "validation", "test"]) == 0
    assert re.search(
        r"Epoch 1/2  train loss \S+  val accuracy \S+ %  test accuracy \S+ %  \S+ s\n",
        capsys.readouterr()[0],
    )
    x, y = data.load("digits").train
    np.savez("mine.npz", x=x, y=y)
    assert main(["train", *SMALL, "--data", "mine.npz"]) == 0
    out, _ = capsys.readouterr()
    assert re.search(r"^Epoch 1/2  train loss \S+  \S+ s$", out, re.MULTILINE)
    assert "Test" not in out
    assert "Saved in runs/mine-" in out


def test_what_is_measured_goes_to_tensorboard(here):
    assert main(["train", *SMALL, "--tensorboard", "--out", "run"]) == 0
    (file,) = Path("run", "tensorboard").iterdir()
    assert b"validation_accuracy" in file.read_bytes()


def test_on_a_terminal_the_same_lines_come_above_a_bar(here, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["train", *SMALL]) == 0
    assert re.search(r"Epoch 2/2  train loss", capsys.readouterr().out)


@pytest.mark.slow
def test_options_come_from_a_file(here, capsys):
    text = "hidden = [16]\nepochs = 1\nquiet = true\nstandardize = false\n[distort]\nshift = 1\n"
    Path("small.toml").write_text(text)
    assert main(["train", "--config", "small.toml", "--out", "run"]) == 0
    assert capsys.readouterr() == ("run\n", "")
    config = load_run("run").config
    assert (config.hidden, config.epochs, config.distort) == ((16,), 1, Distortion(shift=1))
    again = commands.parse(["train", "--config", "run/config.json", "--epochs", "2"])
    assert again.config == dataclasses.replace(config, epochs=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "o.toml",
            "hiden = [30]",
            r"o\.toml: Unrecognized options: --hiden, 30 \(did you mean --hi",
        ),
        ("o.json", '{"epochs": "ten"}', r"o\.json: --epochs: 'ten' is not an integer"),
        (
            "o.toml",
            'activation = "sigmod"',
            r"o\.toml: --activation: invalid choice 'sigmod' \(did",
        ),
        (
            "o.toml",
            "epochs = 2020-01-01",
            r"o\.toml: epochs is .*; expected text, a number or a li",
        ),
        ("o.toml", "x = [", r"o\.toml: not valid TOML: "),
        ("o.json", "[1]", r"o\.json: expected options by name, such as epochs = 30"),
        ("o.toml", 'resume = "run"', r"o\.toml: resume, from and config stand on the command line"),
        ("o.yaml", "", r"o\.yaml: expected a file of options that ends in \.toml or \.json"),
        ("other", "", r"o\.toml: No such file or directory"),
    ],
)
def test_a_file_of_options_is_refused_in_one_sentence(here, capsys, name, text, message):
    Path(name).write_text(text)
    path = "o.toml" if name == "other" else name
    assert main(["train", "--config", path]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"nnjax: {message}.*\n", err)


@pytest.mark.slow
def test_a_run_that_does_not_learn_says_so(here, capsys):
    argv = ["train", *SMALL, "--init", "zeros", "--activation", "tanh", "--evaluate-on", "test"]
    assert main(argv) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "did not learn: its test accuracy is" in said
    assert "try --init he." in said


# ---------------------------------------------------------------- resume

RESUMED = [
    *("--net", "dropout0.2", "dense12", "--optimizer", "adam", "--schedule", "cosine"),
    *("--patience", "100", "--save-every", "1", "--feedback", "kolen_pollack"),
]


def the_same_run(one, other):
    jax.tree.map(np.testing.assert_array_equal, params_of(one)[1], params_of(other)[1])
    records = [[{**record, "seconds": 0} for record in Run(run).history] for run in (one, other)]
    return records[0] == records[1]


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_never_been_killed(here, usual_dtypes, capsys):
    assert main(["train", *RESUMED, "--epochs", "20", "--out", "whole"]) == 0
    with command("train", *RESUMED, "--epochs", "20", "--out", "killed") as process:
        for line in process.stdout:
            if line.startswith("Epoch 4/"):
                process.kill()
                break
    assert len(Run("killed").history) < 20
    assert main(["evaluate", "killed"]) == 2
    assert "continue it with nnjax train --resume killed" in capsys.readouterr().err
    assert main(["train", "--resume", "killed"]) == 0
    assert the_same_run("whole", "killed")


@pytest.mark.slow
def test_a_run_that_was_killed_before_the_first_checkpoint_begins_again(here, usual_dtypes):
    for name in ("whole", "killed"):
        assert main(["train", *RESUMED, "--epochs", "6", "--out", name]) == 0
    shutil.rmtree("killed/checkpoints")
    Path("killed/params.safetensors").unlink()
    lines = Path("killed/history.jsonl").read_text().splitlines(keepends=True)
    Path("killed/history.jsonl").write_text(lines[0])
    assert main(["train", "--resume", "killed"]) == 0
    assert the_same_run("whole", "killed")


def test_a_run_without_its_checkpoints_is_not_begun_anew(here, capsys):
    assert main(["train", *SMALL, "--save-every", "1", "--out", "run"]) == 0
    shutil.rmtree("run/checkpoints")
    before = {file: file.read_bytes() for file in Path("run").iterdir()}
    assert main(["train", "--resume", "run"]) == 2
    assert "was trained for 2 epochs, but has no checkpoint" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path("run").iterdir()} == before


def test_a_finished_run_can_be_made_longer(here, capsys):
    assert main(["train", *SMALL, "--out", "run"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "4"]) == 0
    assert main(["train", *SMALL[:2], "--epochs", "4", "--out", "whole"]) == 0
    jax.tree.map(np.testing.assert_array_equal, params_of("run")[1], params_of("whole")[1])
    assert [record["epoch"] for record in Run("run").history] == [0, 1, 2, 3]
    assert Run("run").config["train"]["epochs"] == 4  # so that it may be killed and resumed
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--epochs", "3"]) == 2
    assert (
        "run was already trained for 4 epochs, and epochs is 3; expected" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_schedule_lasts_as_long_as_the_run(here, usual_dtypes, capsys):
    argv = [*SMALL, "--schedule", "cosine", "--save-every", "1", "--out", "run"]
    assert main(["train", *argv]) == 0
    assert main(["train", "--resume", "run", "--epochs", "4"]) == 2
    assert "run was trained with epochs 2, not 4; leave that option" in capsys.readouterr().err


@pytest.mark.parametrize("lock", [False, True])
def test_what_lies_in_a_folder_already_stays(here, capsys, lock):
    Path("mine").mkdir()
    Path("mine", "thesis.txt").write_text("precious")
    if lock:
        Path("mine", ".lock").mkdir()
    before = sorted(Path("mine").rglob("*"))
    assert main(["train", *SMALL, "--out", "mine"]) == 2
    assert "mine is not empty" in capsys.readouterr().err
    assert sorted(Path("mine").rglob("*")) == before


def test_an_empty_folder_stays_where_the_run_cannot_begin(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    Path("mine").mkdir()
    for out in ("mine", "new/run"):
        assert main(["train", *SMALL, "--out", out]) == 2
    assert [path.name for path in Path().iterdir()] == ["mine"]


def test_what_a_kill_leaves_of_a_configuration_is_no_obstacle(here):
    Path("run").mkdir()
    Path("run", ".config.json.123.tmp").touch()
    assert main(["train", *SMALL, "--out", "run"]) == 0
    assert not list(Path("run").glob(".config*"))


def test_any_error_keeps_what_is_trained(here, capsys, monkeypatch):
    log = Run.log

    def out_of_memory(run, record):
        log(run, record)
        if record["epoch"] == 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(Run, "log", out_of_memory)
    assert main(["train", *SMALL, "--epochs", "5", "--out", "run"]) == 2
    assert re.search(r"RESOURCE_EXHAUSTED.*run", capsys.readouterr().err)
    assert len(Run("run").history) == 2
    params_of("run")


def test_damaged_older_checkpoints_do_not_hold_up_a_run(here):
    assert main(["train", *SMALL, "--epochs", "3", "--save-every", "1", "--out", "run"]) == 0
    first, second, _ = Run("run").checkpoints
    first.write_bytes(first.read_bytes()[:500])
    second.write_bytes(second.read_bytes().replace(b'\\"info\\"', b'\\"inf0\\"'))
    assert main(["train", "--resume", "run", "--epochs", "5"]) == 0
    assert len(Run("run").history) == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--resume no-run", r"no-run is not a run folder \(config\.json not found\)"),
        ("--resume RUN --rate 3", r"was trained with rate None, not 3\.0; leave that option out"),
        ("--resume RUN --from RUN", "--resume and --from both say what the options are; give"),
        ("--resume RUN --out other", "leave out --out"),
    ],
)
def test_resume_refuses(trained, here, capsys, argv, message):
    before = {file: file.stat().st_mtime_ns for file in trained.rglob("*.*")}
    assert main(["train", *argv.replace("RUN", str(trained)).split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"nnjax: .*{message}.*\n", err)
    assert {file: file.stat().st_mtime_ns for file in trained.rglob("*.*")} == before


def swap_checkpoints(one, other):
    shutil.rmtree(Path(one, "checkpoints"))
    shutil.copytree(Path(other, "checkpoints"), Path(one, "checkpoints"))


def test_resume_refuses_what_does_not_belong_together(here, capsys):
    x, y = data.load("digits").train
    np.savez("mine.npz", x=x, y=y)
    argv = ["train", *SMALL, "--data", "mine.npz", "--save-every", "1"]
    assert main([*argv, "--out", "run"]) == 0
    assert main([*argv, "--out", "other", "--seed", "1"]) == 0
    before = Path("run/params.safetensors").read_bytes()
    more = ["train", "--resume", "run", "--epochs", "3"]

    def refused(message):
        assert main(more) == 2
        assert re.match(f"nnjax: .*{message}", capsys.readouterr().err)
        assert Path("run/params.safetensors").read_bytes() == before

    np.savez("mine.npz", x=x, y=y[::-1])
    refused("the data set mine.npz is not the one that run was trained on: its contents have")
    np.savez("mine.npz", x=x, y=y)
    swap_checkpoints("run", "other")
    refused(r"epoch-000002\.safetensors: was written with seed 1, but config\.json has 0: it belon")
    config = Path("run/config.json")
    config.write_text(config.read_text().replace('"seed": 0', '"seed": 1'))
    refused(
        r"run/config\.json: was changed after it was written: its digest differs; restore it, or"
    )
    content = json.loads(config.read_text())
    content.pop("sha256")  # as a version before digests wrote it
    config.write_text(json.dumps(content))
    Path("run/history.jsonl").write_text(Path("other/history.jsonl").read_text()[:-30])
    refused(r"run/history\.jsonl: the 2 records up to epoch-000002\.safetensors are not there")


def test_resume_takes_up_tensorboard(here):
    from training.test_tensorboard import steps

    assert main(["train", *SMALL, "--tensorboard", "--out", "run"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "4"]) == 0
    assert steps(Path("run/tensorboard"), "train_loss") == [0, 1, 2, 3]


def test_a_run_starts_from_the_parameters_of_another(here, capsys):
    assert main(["train", *SMALL, "--rate", "0.1", "--out", "first"]) == 0
    assert main(["train", "--from", "first", "--epochs", "1", "--seed", "7", "--out", "two"]) == 0
    first, second = load_run("first"), load_run("two")
    assert second.config == dataclasses.replace(first.config, epochs=1, seed=7)
    state, _ = nnjax.train(
        first.net,
        data.load("digits"),
        optimizer=optimizers.by_name("momentum", 0.1),
        epochs=1,
        batch_size=10,
        key=jax.random.key(7),
        params=first.params,
        evaluate_on=[],
    )
    jax.tree.map(np.testing.assert_array_equal, second.params, state.params)
    capsys.readouterr()
    assert main(["train", "--from", "first", "--hidden", "9"]) == 2
    assert "params" in capsys.readouterr().err


def kill_before_the_first_checkpoint(run):
    """Leave of a run what it would have left."""
    for path in Path(run, "checkpoints").glob("*"):
        if path.stem != "epoch-000000":
            path.unlink()
    Path(run, "params.safetensors").unlink()
    lines = Path(run, "history.jsonl").read_text().splitlines(keepends=True)
    Path(run, "history.jsonl").write_text(lines[0])


def test_a_run_from_another_begins_again_from_its_parameters(here, usual_dtypes, capsys):
    assert main(["train", *SMALL, "--out", "first"]) == 0
    for name in ("whole", "killed"):
        assert main(["train", "--from", "first", "--save-every", "2", "--out", name]) == 0
    kill_before_the_first_checkpoint("killed")
    assert main(["train", "--resume", "killed"]) == 0
    assert the_same_run("whole", "killed")
    capsys.readouterr()
    assert main(["train", "--from", "first", "--seed", "-1", "--out", "third"]) == 2
    assert not Path("third").exists()


@pytest.mark.parametrize("lost", ["run", "run/history.jsonl"])
def test_a_run_whose_folder_is_lost_is_saved_elsewhere(here, capsys, monkeypatch, lost):
    monkeypatch.setattr(tempfile, "tempdir", str(here))
    log = Run.log

    def losing(run, record):
        if record["epoch"] == 1:
            Path(lost).rename("gone")
        log(run, record)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", losing)
        assert main(["train", *SMALL, "--epochs", "4", "--out", "run"]) == 2
    found = re.fullmatch(
        r"nnjax: cannot write to run/history\.jsonl: No such file or directory; parameters saved "
        r"in (\S+)\n",
        capsys.readouterr().err,
    )
    saved = found.group(1)
    assert (saved == "run") == (lost != "run")
    assert [record["epoch"] for record in Run(saved).history] == [0, 1]
    assert main(["train", "--resume", saved, "--epochs", "4"]) == 0
    assert main(["train", *SMALL, "--epochs", "4", "--out", "whole"]) == 0
    assert the_same_run("whole", saved)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
@pytest.mark.slow
def test_output_that_is_not_utf8_is_no_obstacle(here, monkeypatch, capfd, encoding):
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
    assert main(["train", *SMALL]) == 0
    assert main(["explain"]) == 0
    assert main(["train", "--help"]) == 0
    assert main(["train", "--mu", "2"]) == 2
    sys.stdout.flush()
    assert rb"learning rate \u03b7 = 0.05" in sys.stdout.buffer.getvalue()
    sys.stderr.flush()
    assert rb"expected 0 \u2264 \u03bc \u2264 1" in sys.stderr.buffer.getvalue()


# ---------------------------------------------------------------- predict


def test_predict_reads_pictures(trained, here, capsys):
    x, y = data.load("digits").test
    for i in range(10):
        ink = Image.fromarray(np.uint8(255 * x[i, :, :, 0])).resize((90, 90))
        paper = Image.new("L", (150, 120), 255)
        paper.paste(Image.fromarray(255 - np.asarray(ink)), (40, 10))
        paper.save(f"{i}.png")
    files = [f"{i}.png" for i in range(10)]
    assert main(["predict", str(trained), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    net, params = params_of(trained)
    outputs = nnjax.feedforward(
        net, params, np.stack([images.prepare(file, (8, 8)) for file in files])
    )
    for file, line, output in zip(files, lines, np.asarray(outputs), strict=True):
        second, first = np.argsort(output)[-2:]
        assert line == (
            f"{file}: {first} ({100 * output[first]:.1f} %), "
            f"then {second} ({100 * output[second]:.1f} %)"
        )
    classes = [int(line.split()[1]) for line in lines]
    assert np.mean(classes == y[:10]) >= 0.8


def test_one_bad_picture_does_not_hide_the_others(trained, here, capsys):
    x, _ = data.load("digits").test
    Image.fromarray(np.uint8(255 * x[0, :, :, 0])).save("good.png")
    Path("bad.png").write_text("not a picture")
    assert main(["predict", str(trained), "bad.png", "good.png", "--json"]) == 2
    out, err = capsys.readouterr()
    bad, good = json.loads(out)
    assert bad["image"] == "bad.png"
    assert "not an image" in bad["error"]
    assert good["class"] == max(good["outputs"], key=good["outputs"].get)
    assert sum(good["outputs"].values()) == pytest.approx(1, abs=1e-5)
    assert err.startswith("nnjax: bad.png: not an image")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no-run", "7.png"], r"no-run is not a run folder \(config\.json not found\)"),
        (["RUN"], "no picture to classify: give at least one file after the run"),
        (["RUN", "7.png"], r"7\.png: file not found"),
        (["RUN", "RUN/config.json"], r"config\.json: not an image"),
    ],
)
def test_predict_refuses(trained, here, capsys, argv, message):
    assert main(["predict", *(word.replace("RUN", str(trained)) for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"nnjax: .*{message}.*\n", err)


def test_predict_refuses_a_network_that_has_seen_no_pictures(trained, here, capsys):
    shutil.copytree(trained, "run")
    content = json.loads(Path("run/config.json").read_text())
    content["config"]["input_shape"] = [64]
    content.pop("sha256")  # as a version before digests wrote it
    Path("run/config.json").write_text(json.dumps(content))
    assert main(["predict", "run", "7.png"]) == 2
    assert "run: was trained on examples of shape (64,)" in capsys.readouterr().err


def test_a_damaged_configuration_is_refused(trained, here, capsys):
    content = json.loads((trained / "config.json").read_text())
    content.pop("sha256")  # as a version before digests wrote it
    Path("run").mkdir()
    for change, message in [
        ({"train": {"brightness": 3}}, "the configuration holds brightness: update nnjax"),
        ({"n_out": None}, "a size in sizes is None"),
        ({"train": None}, r"run/config\.json: damaged, or not the configuration of a training run"),
    ]:
        config = content["config"] | change
        Path("run", "config.json").write_text(json.dumps(content | {"config": config}))
        assert main(["predict", "run", "7.png"]) == 2
        assert re.search(message, capsys.readouterr().err)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--rate -1", r"learning rate is -1\.0; expected"),
        ("--rate nan", "learning rate is nan; expected"),
        ("--rate fast", "--rate: 'fast' is not a number"),
        ("--epochs ten", "--epochs: 'ten' is not an integer"),
        ("--mu", "Missing value for argument '--mu'. Expected 1 values"),
        ("--epochs 0", "epochs is 0; expected an integer of at least 1"),
        ("--batch-size 2000", "batch_size is 2000, but there are 1257 training examples"),
        ("--batch-size 0", "batch_size is 0; expected"),
        ("--hidden 0", "a size in sizes is 0; expected"),
        ("--seed -1", "seed is -1; expected an integer from 0 to 4294967295"),
        (
            "--optimizer sdg",
            r"optimizer is 'sdg'; expected one of .*sgd.* \(did you mean 'sgd'\?\)",
        ),
        ("--activation sigmod", r"--activation: invalid choice 'sigmod' \(did you mean 'sigmoid'"),
        ("--data minst", r"unknown data set 'minst'; did you mean 'mnist'\?"),
        ("--data-dir there", "'digits' takes none"),
        ("--data mnist --data-dir .", "holds the files of mnist: put train-images"),
        ("--data empty.npz", "empty.npz: "),
        ("--platform tpu", "platform is tpu, but JAX finds no such device on this machine"),
        ("--l2 -1", "strength of L2 is -1.0; expected"),
        ("--patience 0", "patience is 0; expected"),
        (
            "--patience 2 --measure wit",
            "measure is 'wit'; expected one of train_loss, validation_l",
        ),
        ("--measure seconds", "measure is 'seconds'; expected one of train_loss, validation_loss"),
        (
            "--save-every 1 --measure validation_acuracy",
            r"measure is 'validation_acuracy'; .* \(did you mean 'validation_accuracy'\?\)",
        ),
        ("--measure test_loss", "measure is 'test_loss'; expected one of train_loss, validation_l"),
        ("--lower-rate-to 0.5", "lower_rate_to says what happens after patience epochs"),
        ("--mu 2", "mu is 2.0; expected 0 ≤ μ ≤ 1"),
        ("--optimizer sgd --mu 0.5", "the optimizer sgd has no option mu"),
        ("--schedule cosine --batch-size 0", "batch_size is 0; expected"),
        ("--monitor-every 0 --monitors dead", "monitor_every is 0; expected"),
        ("--distort.rotation 200", "nnjax: rotation of Distortion is 200.0; expected"),
        ("--save-every 0", "save_every is 0; expected an integer of at least 1"),
        ("--net dense30 --hidden 30", "net and hidden both say what the layers are"),
        ("--hiden 3", r"Unrecognized options: --hiden, 3 \(did you mean --hidden\?\)"),
        ("--hidden 3 few", "--hidden: got '3 few'; expected integers"),
        ("--sizes 3 2", "nnjax train has no option --sizes; see nnjax train --help"),
    ],
)
def test_train_refuses_in_one_sentence_and_writes_nothing(here, capsys, argv, message):
    Path("empty.npz").touch()
    before = sorted(here.rglob("*"))
    assert main(["train", *argv.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err)
    assert err.startswith("nnjax: ")
    assert err.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_an_architecture_that_does_not_parse_is_shown_where(here, capsys):
    assert main(["train", "--net", "conv4k3", "pol2", "dense30"]) == 2
    message, text, marks = capsys.readouterr().err.splitlines()
    assert message.startswith("nnjax: the architecture does not parse at 'pol2'")
    assert text[marks.index("^") : marks.rindex("^") + 1] == "pol2"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", "no command given; expected one of train, sweep, predict, "),
        ("trian", r"unknown command 'trian' \(did you mean 'train'\?\); expected one of train, "),
        ("--train", r"Unrecognized options: --train \(did you mean --train-size\?\)"),
        ("predict", "nnjax predict requires an argument: folder of a run, as saved by nnjax train"),
    ],
)
def test_unknown_commands_are_refused(capsys, argv, message):
    assert main(argv.split()) == 2
    assert re.match(f"nnjax: {message}", capsys.readouterr().err)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nnjax {nnjax.__version__}\n"


def test_help_is_no_error(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in commands.COMMANDS)
    for name in commands.COMMANDS:
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80
        assert "None" not in out
        if name == "train":
            titles = re.findall(r"^\W+(\w+) options\W*$", out, re.MULTILINE)
            assert set(titles) == {*GROUPS, "distort", "cluster"}


def test_missing_tyro_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["train"]) == 2
    said = capsys.readouterr().err
    assert said.startswith('nnjax: the command line requires tyro: pip install "nnjax[cli]"')
    assert said.endswith('(in a clone: pip install ".[all]")\n')


def test_data_that_are_not_finite_are_refused(here, capsys):
    np.savez("nan.npz", x=np.full((4, 3), np.nan, np.float32), y=np.array([0, 1, 0, 1]))
    assert main(["train", "--data", "nan.npz"]) == 2
    assert "NaN or Inf" in capsys.readouterr().err
    assert not Path("runs").exists()


# ---------------------------------------------------------------- what breaks off


def test_divergence_keeps_the_last_good_parameters(here, capsys):
    argv = ["--activation", "identity", "--loss", "cross_entropy", "--optimizer", "sgd"]
    assert main(["train", *SMALL, *argv, "--rate", "1e30", "--out", "run"]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(
        r"nnjax: the loss or a parameter became NaN or infinite in epoch \d+; .*; "
        r"parameters saved in run\n",
        err,
    )
    net, params = params_of("run")
    check_params(net, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_folder_with_something_in_it_is_left_alone(here, capsys):
    Path("run").mkdir()
    Path("run", "thesis.txt").write_text("my only copy")
    assert main(["train", *SMALL, "--out", "run"]) == 2
    assert "run is not empty" in capsys.readouterr().err
    assert Path("run", "thesis.txt").read_text() == "my only copy"


def test_a_folder_that_cannot_be_made_is_said(here, capsys):
    Path("file").touch()
    assert main(["train", *SMALL, "--out", "file/run"]) == 2
    assert re.fullmatch(r"nnjax: cannot create file/run: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_full_disk_leaves_no_half_written_file(here, capsys, monkeypatch, good):
    Path("mine").mkdir()
    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > good:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(["train", *SMALL, "--out", "mine/new/run"]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"nnjax: cannot write .*: No space left on device.*\n", err)
    left = {path.name for path in here.rglob("*.*")} - {".lock"}
    assert left == ({"config.json", "history.jsonl"} if good == 2 else set())
    assert good == 2 or list(here.rglob("*")) == [here / "mine"]


def test_a_file_size_limit_leaves_no_half_written_file(here):
    pytest.importorskip("resource")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    with command("train", *SMALL, before=limit) as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert re.fullmatch(r"nnjax: cannot write .*params\.safetensors: .*\n", err)
    left = {path.name for path in here.rglob("*.*")} - {".lock"}
    assert left == {"config.json", "history.jsonl"}  # what was measured is not lost


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_keeps_what_is_trained(here, number):
    with command("train", "--hidden", "16", "--epochs", "1000000") as process:
        for line in process.stdout:
            if line.startswith("Epoch 3/"):
                process.send_signal(number)
                break
        _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    word = "Interrupted" if number == signal.SIGINT else "Terminated"
    epoch, folder = re.fullmatch(
        rf"nnjax: {word} after epoch (\d+); parameters saved in (runs/\S+)\n", err
    ).groups()
    assert int(epoch) == len(Run(folder).history)
    net, params = params_of(folder)
    record = Run(folder).history[-1]
    assert record["epoch"] >= 2
    result = nnjax.evaluate(net, params, *data.load("digits").validation)
    assert int(result.correct) == record["validation_correct"]
    more = str(int(epoch) + 1)
    assert main(["train", "--resume", folder, "--epochs", more]) == 0
    assert main(["train", "--hidden", "16", "--epochs", more, "--out", "whole"]) == 0
    assert the_same_run("whole", folder)


def test_ctrl_c_before_the_first_epoch_leaves_nothing(here, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(train, "train_epochs", interrupted)
    assert main(["train", *SMALL]) == 130
    assert capsys.readouterr().err == "nnjax: Interrupted\n"
    assert list(here.iterdir()) == []


def test_ctrl_c_after_the_end_leaves_no_traceback(monkeypatch, capsys):
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "argv", ["nnjax", "--version"])
    try:
        assert main() == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost(number):
    def callback(phase, info):  # what it raises, Python ignores
        gc.callbacks.remove(callback)
        signal.raise_signal(number)

    def waiting():
        with terminable():
            gc.callbacks.append(callback)  # here, as a collection may begin at any time
            gc.collect()
            threading.Event().wait(10)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        with pytest.raises((KeyboardInterrupt, Terminated)):
            waiting()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_closed_pipe_ends_the_run_quietly(here):
    with command("train", "--hidden", "16", "--epochs", "1000000") as process:
        assert process.stdout.readline().startswith("Data: digits")
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize("name", ["activation", "loss", "init"])
def test_every_name_offered_builds_a_network(name):
    for choice in get_args(get_type_hints(TrainConfig)[name]):
        net = TrainConfig(**{name: choice}).network((8, 8, 1), 10)
        assert net.n_out == 10


def test_the_configuration_survives_json():
    config = TrainConfig(
        data="mnist",
        data_dir=Path("there"),
        distort=Distortion(shift=2),
        hidden=(3, 2),
        rate=0.25,
        monitors=("dead",),
    )
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert set(config.to_json()) == {field.name for field in dataclasses.fields(TrainConfig)}


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        ("train --rat 1", ["Unrecognized options: --rat, 1 (did you mean --rate?)"]),
        (
            "train --data minst",
            [
                "unknown data set 'minst'; did you mean 'mnist'? Expected digits, mnist,",
                "fashion-mnist or a path to a file or folder",
            ],
        ),
    ],
)
def test_a_refusal_on_a_terminal_has_no_colours_and_fits(here, monkeypatch, capsys, argv, lines):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(argv.split()) == 2
    assert capsys.readouterr().err == "nnjax: " + "\n".join(lines) + "\n"


def test_options_are_refused_in_a_sentence_where_there_are_no_frames(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    for argv, message in [
        ("train --epochs ten", "--epochs: 'ten' is not an integer"),
        ("train --distort.rotation 200", "rotation of Distortion is 200.0; expected degrees"),
        ("train --hiden 3", "Unrecognized options: --hiden, 3 (did you mean --hidden?)"),
        ("predict", "nnjax predict requires an argument: folder of a run"),
    ]:
        assert main(argv.split()) == 2
        assert capsys.readouterr().err.startswith(f"nnjax: {message}")
