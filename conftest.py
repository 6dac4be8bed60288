"""Import the package first: pytest, run on a single file's doctests, would load that file twice."""

import nnjax  # noqa: F401
