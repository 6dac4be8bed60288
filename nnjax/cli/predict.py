"""`nnjax predict`: classify pictures with a trained network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import tyro

from nnjax.cli.console import busy, complain, show
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

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of a run, as saved by nnjax train."""
    images: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="IMAGE...")]]
    """Picture files."""
    json: bool = False
    """Print the outputs for every class as JSON, with an error in place of a bad picture."""

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
        params, prepared, refused = loaded.params, {}, {}
        for path in self.images:  # one bad picture does not hide the results of the others
            try:
                picture = prepare(path, (shape[0], shape[1]))
                prepared[path] = loaded.images.converted(picture)
            except (OSError, ValueError) as error:
                refused[path] = str(error)
        outputs = {}
        if prepared:
            x = jnp.asarray(np.stack(list(prepared.values())))
            with busy("classifying"):
                rows = np.asarray(feedforward(loaded.net, params, x))
            outputs = dict(zip(prepared, rows, strict=True))
        names = loaded.classes or [str(k) for k in range(loaded.net.n_out)]
        if self.json:
            show(json.dumps([_entry(p, outputs.get(p), refused, names) for p in self.images]))
        else:
            for path in self.images:
                if (row := outputs.get(path)) is None:
                    continue
                best = [f"{names[k]} ({100 * row[k]:.1f} %)" for k in np.argsort(row)[:-3:-1]]
                show(f"{path}: {', then '.join(best)}")
        for text in refused.values():
            complain(text)
        return 2 if refused else 0


def _entry(path: Path, row: Any, refused: Mapping[Path, str], names: Sequence[str]) -> Any:
    if row is None:
        return {"image": str(path), "error": refused[path]}
    outputs = dict(zip(names, row.tolist(), strict=True))
    return {"image": str(path), "class": names[int(row.argmax())], "outputs": outputs}
