"""Layers: each a small frozen description with its forward pass and its backward pass by hand."""

from nnjax.layers.base import Affine, AffineLayer, Layer
from nnjax.layers.dense import Dense

__all__ = ["Affine", "AffineLayer", "Dense", "Layer"]
