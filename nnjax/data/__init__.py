"""Data sets as NumPy arrays: `load` one by name or from a path, or make a `Dataset` of your own."""

from nnjax.data import images, readers
from nnjax.data.dataset import Dataset
from nnjax.data.sources import load
from nnjax.data.tables import split, standardize

__all__ = ["Dataset", "images", "load", "readers", "split", "standardize"]
