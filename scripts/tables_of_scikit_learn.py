"""Three tables of scikit-learn, each trained by one command, beside scikit-learn's own networks.

    python scripts/tables_of_scikit_learn.py --seeds 5

writes the wine, breast cancer and diabetes sets to CSV files, trains on each with `nnjax train`,
and prints a table in Markdown: accuracy or R² on the test data, the mean over the seeds and the
smallest and largest, beside MLPClassifier or MLPRegressor on the same split, with the same
standardised inputs (and targets of the regression), as many hidden neurons, and its own defaults
otherwise.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from common import options, run
from sklearn import datasets
from sklearn.neural_network import MLPClassifier, MLPRegressor

import nnjax
from nnjax.cli import main as nnjax_command

SETS = {"wine": "class", "breast_cancer": "class", "diabetes": "progression"}
OPTIONS = {
    "wine": ["--epochs", "30"],
    "breast_cancer": ["--epochs", "30"],
    "diabetes": ["--epochs", "30", "--rate", "0.001", "--l2", "1"],
}
HIDDEN = 100


def write_csv(folder: Path, name: str) -> Path:
    """Write a data set of scikit-learn as a table, with the names of its classes."""
    bunch: Any = getattr(datasets, f"load_{name}")()
    names = bunch.get("target_names")
    path = folder / f"{name}.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*bunch.feature_names, SETS[name]])
        for row, target in zip(bunch.data, bunch.target, strict=True):
            writer.writerow([*row, target if names is None else names[target]])
    return path


def command(name: str, path: Path) -> list[str]:
    """Return the words of the command that trains on a table."""
    words = ["--data", str(path), "--target", SETS[name], "--standardize", "--hidden", str(HIDDEN)]
    return ["train", *words, *OPTIONS[name]]


def ours(name: str, path: Path, folder: Path, seed: int) -> float:
    """Return accuracy or R² on the test data of one training run."""
    out = str(folder / f"{name}-{seed}")
    told = StringIO()
    with redirect_stdout(told):
        status = nnjax_command([*command(name, path), "--seed", str(seed), "--quiet", "--out", out])
        told.truncate(0)
        told.seek(0)
        status = status or nnjax_command(["evaluate", out, "--json"])
    if status:
        raise ValueError(f"nnjax train failed on {path}")
    result = json.loads(told.getvalue())
    return result["r2" if name == "diabetes" else "accuracy"]


def theirs(name: str, path: Path, seed: int) -> float:
    """Return the same for scikit-learn's network, on the same split."""
    data = nnjax.data.load(path, target=SETS[name])
    data = nnjax.data.standardize(data, targets=data.task == "regression")
    kind = MLPRegressor if name == "diabetes" else MLPClassifier
    net = kind(hidden_layer_sizes=(HIDDEN,), random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged after its 200 iterations
        assert data.test is not None
        return float(net.fit(*data.train).score(*data.test))


def spread(values: list[float], percent: bool) -> str:
    """Return mean, smallest and largest as text."""
    figures = [100 * v if percent else v for v in (np.mean(values), min(values), max(values))]
    mean, low, high = (f"{v:.1f}" if percent else f"{v:.3f}" for v in figures)
    return f"{mean}{' %' * percent} ({low} to {high})"


def job(arguments: argparse.Namespace) -> None:
    print("| data | command | metric | nnjax | scikit-learn |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in SETS:
            path, seeds = write_csv(folder, name), range(arguments.seeds)
            words = " ".join(["nnjax", *command(name, Path(path.name))])
            metric = "R²" if name == "diabetes" else "accuracy"
            found = [
                spread(values, name != "diabetes")
                for values in (
                    [ours(name, path, folder, seed) for seed in seeds],
                    [theirs(name, path, seed) for seed in seeds],
                )
            ]
            print(
                f"| {name.replace('_', ' ')} | `{words}` | {metric} | {' | '.join(found)} |",
                flush=True,
            )


if __name__ == "__main__":
    parser = options(__doc__, mnist=False)
    parser.add_argument("--seeds", type=int, default=5, help="how many runs of each")
    run(parser, job)
