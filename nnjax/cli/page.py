"""`nnjax page`: write the page of a run, one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from nnjax.cli.console import busy, show
from nnjax.cli.loaded import load_run
from nnjax.files import write_atomically

__all__ = ["Page"]


@dataclass(frozen=True)
class Page:
    """Write a run as one HTML file: curves, confusion matrix, misclassified images, weights.

    On the page one can draw a digit, see what every layer makes of it, and take a training step. It
    needs no server and no network; it holds the parameters, and a few images of the data.
    """

    run: tyro.conf.Positional[Path]
    """Folder of a run, as saved by nnjax train."""
    out: Path | None = None
    """File to write (default: page.html in the folder of the run)."""
    best: bool = False
    """Show the checkpoint with the best value of --measure (see --save-every of nnjax train), not
    the parameters at the end of the run."""
    data_dir: Path | None = None
    """Folder with the files of mnist or fashion-mnist."""
    part: Literal["train", "validation", "test"] = "test"
    """Part of the data set that the network is measured on."""

    def __call__(self) -> None:
        from nnjax.page import RunPage
        from nnjax.page.html import require_page

        loaded = load_run(self.run)
        out = self.run / "page.html" if self.out is None else self.out
        require_page(out)
        page = RunPage(
            title=loaded.config.title,
            net=loaded.net,
            params=loaded.best_params if self.best else loaded.params,
            settings={
                name.replace("_", " "): _text(value)
                for name, value in loaded.config.to_json().items()
                if value not in (None, [], (), False) and name not in ("data_dir", "distort")
            },
            history=loaded.history,
            examples=loaded.part(self.part, self.data_dir),
            part=self.part,
            classes=loaded.classes,
            images=loaded.images,
            standardization=loaded.standardization,
            target_standardization=loaded.target_standardization,
            features=loaded.features,
        )
        with busy("drawing"):
            text = page.html()
        write_atomically(out, text.encode())
        show(str(out))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "yes" if value is True else str(value)
