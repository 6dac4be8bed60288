"""`python -m nnjax`: the command line."""

import sys

from nnjax.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
