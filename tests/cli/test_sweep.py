"""`nnjax sweep`: its table, the run of the best network, how it continues, what it refuses."""

import json
import sys

import numpy as np
import pytest

import nnjax
from nnjax.cli import main
from nnjax.cli.search import Space

WORDS = [
    *["sweep", "--rate", "0.1", "0.5", "1e9", "--l2", "0", "1", "--seeds", "2", "--epochs", "2"],
    *["--hidden", "4", "--train-size", "60", "--batch-size", "20"],
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "first"
    assert main([*WORDS, "--out", str(folder)]) == 0
    return folder


def test_the_folder_holds_the_results_and_is_a_run_of_the_best_network(sweep, capsys):
    results = json.loads((sweep / "sweep.json").read_text())
    assert [row["rate"] for row in results["table"]] == [0.1, 0.1, 0.5, 0.5, 1e9, 1e9]
    best = results["best"]
    medians = [row["validation_accuracy"] or 0 for row in results["table"]]
    row = results["table"][int(np.argmax(medians))]
    assert best["settings"] == {"rate": row["rate"], "l2": row["l2"]}
    assert np.median(best["validation_accuracy"]) == row["validation_accuracy"]

    run = nnjax.load_run(sweep)
    assert (run.config.rate, run.config.l2) == (row["rate"], row["l2"])
    accuracy = nnjax.accuracy(run.net, run.params, *run.part("test"))
    assert float(accuracy) == best["test_accuracy"][best["seed"]]
    pictures = {path.name for path in sweep.glob("*.png")}
    assert pictures == {"along-rate.png", "along-l2.png", "map.png", "learning.png"}

    again = [*["train", "--out", str(sweep.parent / "again"), "--hidden", "4", "--epochs", "2"]]
    again += ["--train-size", "60", "--batch-size", "20", "--rate", str(row["rate"])]
    assert main([*again, "--l2", str(row["l2"]), "--seed", str(best["seed"])]) == 0
    alone = nnjax.load_run(sweep.parent / "again")
    np.testing.assert_allclose(alone.params[0].w, run.params[0].w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "options", "measure"),
    [
        ("regression", ["--target", "price", "--standardize"], "rmse"),
        pytest.param(
            *("binary", ["--target", "colour", "--task", "binary"], "accuracy"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("multilabel", ["--target", "red", "big", "--task", "multilabel"], "label_accuracy"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_best_run_is_of_the_task_of_the_sweep(task, options, measure, tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(120, 2)).round(3)
    red, big = x[:, 0] > 0, x[:, 1] > 0
    columns = {"price": 100 * x[:, 0], "colour": np.where(red, "red", "blue")}
    columns |= {"red": red.astype(int), "big": big.astype(int)}
    kept = [name for name in columns if name in options]
    lines = [",".join(["a", "b", *kept])]
    lines += [",".join(map(str, row)) for row in zip(*x.T, *map(columns.get, kept), strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    words = ["sweep", "--data", str(tmp_path / "table.csv"), *options, "--rate", "0.01", "0.1"]
    words += ["--hidden", "4", "--seeds", "2", "--epochs", "4", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    best = json.loads((tmp_path / "run" / "sweep.json").read_text())["best"]
    run = nnjax.load_run(tmp_path / "run")
    assert run.config.task == task
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[measure]
    assert told == pytest.approx(best[f"test_{measure}"][best["seed"]], rel=1e-5)


@pytest.mark.slow
def test_a_sweep_prints_its_progress_and_a_table(tmp_path, capsys):
    words = ["sweep", "--rate", "0.1", "0.5", "--seeds", "1", "--epochs", "2", "--hidden"]
    words += ["--train-size", "40", "--batch-size", "40", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "Epoch 1/2  2 of 2 networks  best validation accuracy" in out
    assert "min to max" in out
    assert "; test accuracy" in out


def test_a_sweep_that_was_killed_continues_bit_for_bit(sweep, tmp_path, monkeypatch, capsys):
    from nnjax.cli import sweep as module

    class Killed(RuntimeError):
        pass

    def killed_after_the_first(*args, **keywords):
        for many in steps(*args, **keywords):
            yield many
            raise Killed("killed")

    steps = module.many_epochs
    folder = tmp_path / "second"
    with monkeypatch.context() as patch:
        patch.setattr(module, "many_epochs", killed_after_the_first)
        assert main([*WORDS, "--out", str(folder)]) == 2
    assert capsys.readouterr().err == f"nnjax: killed; progress saved in {folder}\n"
    before = {file: file.read_bytes() for file in folder.iterdir()}
    assert main(["train", "--resume", str(folder), "--epochs", "1"]) == 2
    said = f"nnjax: {folder} holds a sweep; continue it with nnjax sweep --resume {folder}\n"
    assert capsys.readouterr().err == said
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert main(["sweep", "--resume", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    whole = json.loads((sweep / "sweep.json").read_text())
    assert {name: printed[name] for name in whole} == whole
    assert main(["sweep", "--resume", str(folder)]) == 2
    assert "this sweep is complete; see its sweep.json" in capsys.readouterr().err
    assert main(["train", "--resume", str(folder)]) == 2
    said = f"holds a sweep; start a run from its best network with nnjax train --from {folder}\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--devices", "99"], "devices is 99, but JAX has"),
        (["--feedback", "feedback_alignment"], "a sweep trains by backpropagation; leave out"),
        (["--dropout", "0.5"], "the network has no Dropout layer; add one"),
        (["--measure", "speed"], "measure is 'speed'; expected one of train_loss, validation"),
        (
            ["--measure", "validation_rmse"],
            "measure is 'validation_rmse'; expected one of train_lo",
        ),
        (["--rate", "0.1", "0.1"], "the grid holds a value of rate twice"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_leaves_nothing_behind(
    words, sentence, tmp_path, capsys
):
    assert main(["sweep", *words, "--out", str(tmp_path / "run")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_only_a_sweep_is_continued(tmp_path, capsys):
    run = ["train", "--epochs", "1", "--hidden", "--train-size", "40", "--out", str(tmp_path / "t")]
    assert main(run) == 0
    assert main(["sweep", "--resume", str(tmp_path / "t")]) == 2
    assert "holds a run of nnjax train, not a sweep" in capsys.readouterr().err


SEARCH = [
    *["sweep", "--search", "4", "--rate", "0.01", "1", "--batch-size", "20", "--seeds", "1"],
    *["--epochs", "1", "--hidden", "--train-size", "40"],
]


def test_a_search_by_optuna_that_was_stopped_continues_bit_for_bit(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna")
    from nnjax.cli import sweep as module

    monkeypatch.setattr(module, "TOGETHER", 2)
    monkeypatch.setattr("nnjax.many_plots.pictures", lambda *args: {})
    assert main([*SEARCH, "--out", str(tmp_path / "whole")]) == 0
    out = capsys.readouterr().out
    assert "Trials 4/4  Epoch 1/1  2 of 2 networks  best validation accuracy" in out
    whole = json.loads((tmp_path / "whole" / "sweep.json").read_text())
    rates = [row["rate"] for row in whole["table"]]
    assert len(set(rates)) == 4
    assert all(0.01 <= rate <= 1 for rate in rates)
    best = max(whole["table"], key=lambda row: row["validation_accuracy"])
    assert whole["best"]["settings"] == {"rate": best["rate"]}
    assert nnjax.load_run(tmp_path / "whole").config.rate == best["rate"]

    def stopped_in_the_second_batch(*args, **keywords):
        if keywords["grid"][0]["rate"] != rates[0]:
            raise RuntimeError("killed")
        return steps(*args, **keywords)

    steps, folder = module.many_epochs, tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(module, "many_epochs", stopped_in_the_second_batch)
        assert main([*SEARCH, "--out", str(folder)]) == 2
    capsys.readouterr()
    assert main(["sweep", "--resume", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {name: printed[name] for name in whole} == whole


def test_a_search_of_other_trials_is_not_continued(tmp_path):
    pytest.importorskip("optuna")
    from nnjax.cli import sweep as module
    from nnjax.training import checkpoint

    path = tmp_path / "sweep.safetensors"
    checkpoint.save(path, {"epoch": 0}, {"trials": [{"rate": 0.1}]})
    with pytest.raises(ValueError, match="holds other trials than Optuna proposes now"):
        module._restored(path, {"epoch": 0}, [{"rate": 0.2}])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--search", "3"], "search needs an option to choose a value of; give the ends of a"),
        (["--search", "3", "--rate", "1", "1"], "rate is 1 1; expected different values to search"),
        (["--search", "0", "--rate", "0.1", "1"], "search is 0; expected an integer of at least 1"),
        (["--search", "3", "--rate", "0.1", "1", "--refine", "2"], "search and refine both say"),
        (["--search", "3", "--mu", "0.5", "2"], "mu"),
    ],
)
def test_a_search_that_does_not_fit_is_one_sentence(words, sentence, tmp_path, capsys):
    assert main(["sweep", *words, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_search_without_optuna_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    words = ["sweep", "--search", "3", "--rate", "0.1", "1", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "a search by Optuna needs it: pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_is_searched_and_how():
    asked = []

    class Trial:
        def suggest_float(self, name, low, high, log):
            asked.append((name, low, high, log))
            return 0.123456

        def suggest_categorical(self, name, choices):
            asked.append((name, *choices))
            return choices[-1]

    values = {"rate": (1.0, 0.01), "l2": (0.0, 5.0), "l1": (3.0,), "mu": (0.1, 0.9)}
    settings = Space(values | {"dropout": (0.1, 0.2, 0.5), "batch_size": (10, 50)})(Trial())
    assert asked == [
        ("rate", 0.01, 1.0, True),
        ("l2", 0.0, 5.0, False),
        ("mu", 0.1, 0.9, False),
        ("dropout", 0.1, 0.2, 0.5),
        ("batch_size", 10, 20, 40),
    ]
    assert list(settings) == ["rate", "l2", "l1", "mu", "dropout", "batch_size"]
    assert list(settings.values()) == [0.123, 0.123, 3.0, 0.123, 0.5, 40]
