"""The fault campaign: what was tried, how it ended, and every case that ended badly.

    python scripts/fault_campaign.py                    everything (half an hour on 2 cores)
    python scripts/fault_campaign.py stops flips        only these parts
    python scripts/fault_campaign.py --share 0.1        a tenth of the trials

Prints a table whose last four columns are to be zero, then a line for each case in them.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from faults import inputs, pictures, process, stops
from faults.campaign import OUTCOMES

PARTS = {
    "stops": (stops.by_signals, 200),
    "sweeps": (stops.sweeps, 20),
    "processes": (stops.processes, 20),
    "operations": (stops.at_every_operation, 1000),
    "flips": (stops.flipped_bits, 1000),
    "functions": (inputs.to_functions, 10_000),
    "options": (inputs.to_options, 1000),
    "pictures": (pictures.mutated, 10_000),
    "trainings": (process.trainings, 50),
    "epochs": (process.epochs, 300),
    "threads": (process.threads, 200),
}


def main() -> int:
    """Run the campaigns that are asked for and print the table."""
    parser = argparse.ArgumentParser(description="The fault campaign, as a table.")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the trials (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {sorted(unknown)[0]}; expected some of {', '.join(PARTS)}")
    tallies = []
    for name in args.parts or PARTS:
        campaign, trials = PARTS[name]
        # Commands write where they are called: into the folder that goes.
        with tempfile.TemporaryDirectory() as work, contextlib.chdir(work):
            tallies.append(campaign(max(1, round(trials * args.share)), Path(work), args.seed))
        print(f"{name}: {dict(tallies[-1].counts)}", file=sys.stderr, flush=True)
    print("| campaign | tried |", " | ".join(OUTCOMES), "|")
    print("| --- |" + " --- |" * (len(OUTCOMES) + 1))
    for tally in tallies:
        print(f"| {' | '.join(tally.row())} |")
    for tally in tallies:
        for case in tally.bad:
            print(f"\n{tally.name}: {case}")
    return int(any(tally.bad for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
