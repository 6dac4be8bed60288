"""`nnjax predict`: classify pictures with a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import tyro

from nnjax.cli.console import show
from nnjax.cli.loaded import load_run
from nnjax.network import feedforward

__all__ = ["Predict"]


@dataclass(frozen=True)
class Predict:
    """Classify pictures, and print the network's output for the two likeliest classes in percent.

    Pictures may be of any size, dark on light or light on dark. With log_likelihood the outputs
    are probabilities; sigmoid outputs need not add up to 100 %.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run, as saved by nnjax train."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]
    """Picture files."""

    def __call__(self) -> None:
        import numpy as np

        from nnjax.data.images import prepare

        if not self.images:
            raise ValueError("no picture to classify: give at least one file after the run")
        loaded = load_run(self.run)
        shape = loaded.input_shape
        if len(shape) != 3 or shape[2] != 1:
            raise ValueError(
                f"{self.run}: was trained on examples of shape {shape}; expected grey pictures "
                "(height, width, 1)"
            )
        params = loaded.params
        x = np.stack([prepare(path, shape[:2]) for path in self.images])
        outputs = np.asarray(feedforward(loaded.net, params, jnp.asarray(x)))
        for path, row in zip(self.images, outputs, strict=True):
            best = [f"{k} ({100 * row[k]:.1f} %)" for k in np.argsort(row)[:-3:-1]]
            show(f"{path}: {', then '.join(best)}")
