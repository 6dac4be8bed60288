"""Make the saved runs that the figures of the book show.

    python scripts/book_runs.py 3.4 3.7

trains what figures 3.4 and 3.7 show and writes their numbers to nnjax/book/saved, from where
`nnjax book` and the documentation read them. Without numbers it makes all of them: about three
quarters of an hour on two cores, most of it for the ladder of chapter 6. Figures that show the same
run are made together.
"""

from __future__ import annotations

import argparse

from common import options, run

from nnjax import book


def main() -> None:
    parser = options(__doc__)
    saved = [number for number, figure in book.FIGURES.items() if figure.saved]
    parser.add_argument(
        "figures", nargs="*", metavar="FIGURE", default=saved, help=f"one of {', '.join(saved)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    run(parser, make)


def make(args: argparse.Namespace) -> None:
    by_run = {}
    for number in args.figures:
        if number not in book.FIGURES or not book.FIGURES[number].saved:
            raise ValueError(f"figure {number!r} shows no saved run")
        by_run.setdefault(book.FIGURES[number].path, number)
    for number in by_run.values():
        result = book.result(number, args.seed, args.data_dir)
        print(f"figure {number}: {result.save()} ({result.seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
