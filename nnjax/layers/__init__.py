"""Layers: each a small frozen description with its forward pass and its backward pass by hand."""

from __future__ import annotations

from nnjax.layers.base import Affine, AffineLayer, Layer
from nnjax.layers.conv import Conv
from nnjax.layers.dense import Dense
from nnjax.layers.dropout import Dropout
from nnjax.layers.norm import LayerNorm, ScaleShift
from nnjax.layers.pool import L2Pool, MaxPool, MeanPool
from nnjax.layers.reshape import Flatten
from nnjax.layers.residual import Add, Residual

__all__ = [
    "LAYERS",
    "Add",
    "Affine",
    "AffineLayer",
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "L2Pool",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "MeanPool",
    "Residual",
    "ScaleShift",
]

LAYERS: dict[str, type[Layer]] = {
    layer.name: layer
    for layer in (Conv, MaxPool, MeanPool, L2Pool, Dense, Dropout, Flatten, LayerNorm, Add)
}
"""The layers by name: the words of an architecture."""
