"""`nnjax train --distributed`: several processes train one network, and the first one writes it."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import nnjax
from nnjax.cli import main

WORDS = [
    *["train", "--hidden", "8", "--train-size", "60", "--batch-size", "9", "--patience", "3"],
    *["--save-every", "1", "--epochs"],
]


def together(*words):
    """Run a command in two processes of two devices each; return what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    more = ["--distributed", "--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "nnjax", *words, *more, "--process", str(number)],
            env={**os.environ, **flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--distributed", "--process", "1"], "give all of --coordinator, --processes and"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "0"], "belongs to --distrib"),
        (["--coordinator", "a:1", "--processes", "2", "--process", "2"], "integer of at most 1"),
        (["--devices", "99"], "devices is 99, but JAX has"),
    ],
    ids=["some", "without", "number", "devices"],
)
def test_what_does_not_fit_is_one_sentence(words, sentence, tmp_path, capsys):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
