"""`nnjax predict`: classify pictures with a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import tyro

from nnjax.cli.console import complain, show
from nnjax.cli.loaded import load_run
from nnjax.network import feedforward

__all__ = ["Predict"]


@dataclass(frozen=True)
class Predict:
    """Classify pictures, and print the network's output for the two most likely classes in percent.

    Pictures may be of any size, dark on light or light on dark; they are brought to the form of the
    images that the network was trained on. With log_likelihood the outputs
    are probabilities; sigmoid outputs need not add up to 100 %.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run, as saved by nnjax train."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]
    """Picture files."""

    def __call__(self) -> int:
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
        if loaded.images is None:
            raise ValueError(
                f"{self.run}: has no record of the form of its training images; train it again"
            )
        params, prepared, refused = loaded.params, [], []
        for path in self.images:  # one bad picture does not hide the results of the others
            try:
                picture = prepare(path, (shape[0], shape[1]))
                prepared.append((path, loaded.images.converted(picture)))
            except (OSError, ValueError) as error:
                refused.append(str(error))
        if prepared:
            x = jnp.asarray(np.stack([picture for _, picture in prepared]))
            outputs = np.asarray(feedforward(loaded.net, params, x))
            names = loaded.classes or range(outputs.shape[1])
            for (path, _), row in zip(prepared, outputs, strict=True):
                best = [f"{names[k]} ({100 * row[k]:.1f} %)" for k in np.argsort(row)[:-3:-1]]
                show(f"{path}: {', then '.join(best)}")
        for sentence in refused:
            complain(sentence)
        return 2 if refused else 0
