"""`nnjax train --distributed` and `nnjax sweep --distributed`: the first process writes the run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import nnjax
from nnjax.cli import distributed, main

WORDS = [
    *["train", "--hidden", "8", "--train-size", "60", "--batch-size", "9", "--patience", "3"],
    *["--save-every", "1", "--epochs"],
]


WHERE = ["--coordinator", "a:1", "--processes"]
SWEEP = [
    *["sweep", "--rate", "0.1", "0.5", "1e9", "--batch-size", "20", "30", "--seeds", "2"],
    *["--hidden", "4", "--train-size", "60", "--epochs"],
]


def start(*words, processes=2):
    """Start a command in processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    more = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", str(processes)]
    return [
        subprocess.Popen(
            [sys.executable, "-u", "-m", "nnjax", *words, *more, "--process", str(number)],
            env={**os.environ, **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def together(*words, processes=2):
    """Run a command in processes of two devices each; return what they printed."""
    running = start(*words, processes=processes)
    done = [process.communicate(timeout=300) for process in running]
    for process, (_, complaint) in zip(running, done, strict=True):
        assert process.returncode == 0, complaint[-2000:]
    return [out for out, _ in done]


@pytest.mark.slow
def test_two_processes_train_what_one_trains_and_either_continues_the_other(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*WORDS, "2", "--out", str(alone)]) == 0
    first, second = together(*WORDS, "1", "--out", str(shared))
    assert "Epoch 1/1" in first
    assert "Epoch" not in second
    together("train", "--resume", str(shared), "--epochs", "2")
    one, other = nnjax.load_run(alone), nnjax.load_run(shared)
    np.testing.assert_allclose(one.params[0].w, other.params[0].w, rtol=1e-4, atol=1e-6)
    assert (
        one.history["validation_correct"].tolist() == other.history["validation_correct"].tolist()
    )
    assert main(["train", "--resume", str(shared), "--epochs", "3"]) == 0


@pytest.mark.slow
def test_processes_share_the_settings_of_a_sweep_and_one_continues_it(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main([*SWEEP, "2", "--out", str(alone)]) == 0
    printed, nothing = together(*SWEEP, "2", "--json", "--out", str(shared))
    assert nothing == ""
    whole, other = (json.loads((run / "sweep.json").read_text()) for run in (alone, shared))
    assert json.loads(printed)["best"]["settings"] == whole["best"]["settings"]
    for one, two in zip(whole["table"], other["table"], strict=True):
        assert one["diverged"] == two["diverged"]
        np.testing.assert_allclose(
            one["validation_accuracy"] or 0, two["validation_accuracy"] or 0, atol=0.01
        )
    one, two = nnjax.load_run(alone), nnjax.load_run(shared)
    np.testing.assert_allclose(one.params[0].w, two.params[0].w, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_each_process_reads_its_rows_of_data_that_are_larger_than_memory(tmp_path):
    x, y = nnjax.data.load("digits").train
    data = tmp_path / "data"
    (data / "train").mkdir(parents=True)
    np.savez(data / "train" / "all.npz", x=x, y=y)
    words = ["train", "--data", str(data), "--window", "320", "--batch-size", "16", "--hidden"]
    words += ["--epochs", "2", "--rate", "0.05", "--out"]
    assert main([*words, str(tmp_path / "alone")]) == 0
    together(*words, str(tmp_path / "shared"))
    one, other = (nnjax.load_run(tmp_path / name) for name in ("alone", "shared"))
    np.testing.assert_allclose(one.params[0].w, other.params[0].w, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.history["train_loss"], other.history["train_loss"], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("dies", [0, 1])
def test_a_killed_process_ends_the_other_with_one_sentence_and_one_continues(dies, tmp_path):
    folder = tmp_path / "run"
    running = start(*SWEEP, "10000", "--out", str(folder))
    for line in running[0].stdout:
        if line.startswith("Epoch 3/"):
            break
    running[dies].send_signal(signal.SIGKILL)
    _, complaint = running[1 - dies].communicate(timeout=120)
    assert running[1 - dies].returncode != 0
    assert complaint.startswith("nnjax: another process of this run has ended; start all of them")
    assert len(complaint.splitlines()) == 1
    running[dies].communicate()
    steps = start("sweep", "--resume", str(folder), processes=1)[0]
    first = next(line for line in steps.stdout if line.startswith("Epoch "))
    assert not first.startswith("Epoch 1/")
    steps.kill()
    steps.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "to", "command"),
    [
        (signal.SIGTERM, [1], [*WORDS, "6"]),
        (signal.SIGHUP, [0, 1], [*WORDS, "6"]),
        (signal.SIGTERM, [1], [*SWEEP, "6"]),
    ],
    ids=["one", "all", "sweep"],
)
def test_a_signal_stops_all_processes_together_and_they_continue_bit_for_bit(
    number, to, command, tmp_path
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    together(*command, "--out", str(whole))
    running = start(*command, "--out", str(stopped))
    for line in running[0].stdout:
        if line.startswith("Epoch 2/"):
            break
    for process in to:
        running[process].send_signal(number)
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [128 + number] * 2
    what = "progress" if command[0] == "sweep" else "parameters"
    assert re.fullmatch(
        rf"nnjax: Terminated after epoch [23]; {what} saved in {stopped}\n", said[0]
    )
    assert said[1] == "nnjax: Terminated\n"
    together(command[0], "--resume", str(stopped))
    one, other = nnjax.load_run(whole), nnjax.load_run(stopped)
    np.testing.assert_array_equal(one.params[0].w, other.params[0].w)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_of_a_signal_to_one_process_all_of_them_hear_after_a_step(monkeypatch):
    told = []

    def largest_of_all(number):
        told.append(number)
        return number

    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "largest_of_all", largest_of_all)
    seen = []

    def go_through():
        for step in distributed.stopped_together(iter([1, 2, 3])):
            if step == 2:
                signal.raise_signal(signal.SIGTERM)
            seen.append(step)

    with pytest.raises(distributed.StoppedTogether) as stop:
        go_through()
    assert (seen, told, stop.value.number) == ([1, 2], [0, signal.SIGTERM], signal.SIGTERM)


def test_what_connects_the_processes_prints_nothing():
    greeting = "[Gloo] Rank 0 is connected to "
    ranks = "3 peer ranks. Expected number of connected peer ranks is : 3\n"
    apart = "3\n is connected to 13 peer ranks. \n\n"  # what threads that write at once leave
    said = f"{greeting}{ranks}{greeting}{greeting}{ranks}{ranks}{apart}nnjax: a sentence\n"
    command = [sys.executable, "-I", "-S", "-c", distributed._FILTER]
    death = "E1122 05:00:00.000000 coordination_service_agent.cc:1] Polled an error\nand more\n"
    done = subprocess.run(command, input=said + death, capture_output=True, text=True, check=True)
    assert done.stderr == "nnjax: a sentence\n"
    done = subprocess.run(command, input=death, capture_output=True, text=True, check=True)
    assert re.fullmatch("nnjax: another process of this run has ended; .*\n", done.stderr)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ValueError("coordinator_address should be defined."),
            "finds no scheduler that says which",
        ),
        (RuntimeError("DEADLINE_EXCEEDED: 1\n2"), r"find each other; .*EEDED: 1\)"),
    ],
    ids=["scheduler", "others"],
)
def test_processes_that_do_not_meet_are_one_sentence(error, sentence, monkeypatch, capsys):
    def initialize(*args, **options):
        raise error

    monkeypatch.setattr(distributed, "_read_errors", lambda: None)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert main(["train", "--distributed"]) == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--distributed", "--process", "1"], "give all of --coordinator, --processes and"),
        ([*WHERE, "2", "--process", "0"], "belongs to --distrib"),
        ([*WHERE, "2", "--process", "2", "--distributed"], "integer of at most 1"),
        (["--devices", "99"], "devices is 99, but JAX has"),
    ],
    ids=["some", "without", "number", "devices"],
)
def test_what_does_not_fit_is_one_sentence(words, sentence, tmp_path, capsys):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
