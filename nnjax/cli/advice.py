"""What to say of a run that did not learn: that it did not, and the likeliest reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nnjax.cli.config import TrainConfig
from nnjax.data import Dataset
from nnjax.network import Network, Params
from nnjax.training import Record
from nnjax.training.monitors import Dead, ErrorNorms, Saturated, has_slope

__all__ = ["advice"]

_MANY = 0.5  # of the neurons of a layer
_USUAL_INPUT = 30.0  # standardised inputs seldom go beyond
_STILL = 0.01  # of the size of the parameters at the start
_VANISHED = 1e-3  # of the size of the errors at the output


def advice(
    config: TrainConfig,
    net: Network,
    start: Params,
    params: Params,
    data: Dataset,
    records: Sequence[Record],
) -> str:
    """Return what happened and the likeliest reason, or "" for a run that learned something.

    A run has not learned if it is not better than the answer that is the same for every example:
    its accuracy is within three standard deviations of the share of the most frequent class, its R²
    is not above 0 or, where neither was measured, its training loss has not fallen.

    Args:
        config: what the run was asked for.
        net: its network.
        start: the parameters that it started from.
        params: the parameters that it ended with.
        data: what it was trained and evaluated on.
        records: of its epochs.

    Example:
        >>> import jax, nnjax
        >>> from nnjax.cli.advice import advice
        >>> from nnjax.cli.config import TrainConfig
        >>> data, net = nnjax.data.load("digits"), nnjax.mlp([64, 10])
        >>> params = nnjax.init(net, jax.random.key(0))
        >>> record = {"epoch": 0, "train_loss": 0.5, "validation_accuracy": 0.9}
        >>> advice(TrainConfig(hidden=()), net, params, params, data, [record])
        ''
    """
    if not records:
        return ""
    happened = _at_chance(data, records[-1]) or _at_mean(records[-1]) or _not_fallen(records)
    if not happened:
        return ""
    reason = _reason(config, net, start, params, data, records)
    return f"The network did not learn: {happened}. {reason}."


def _at_chance(data: Dataset, record: Record) -> str:
    for name in ("validation", "test", "train"):
        accuracy, part = record.get(f"{name}_accuracy"), getattr(data, name)
        if accuracy is None or part is None or np.ndim(part[1]) != 1:
            continue
        n = len(part[1])
        chance = np.unique(np.asarray(part[1]), return_counts=True)[1].max() / n
        if accuracy <= chance + 3 * math.sqrt(chance * (1 - chance) / n):
            return (
                f"its {name} accuracy is {100 * accuracy:.1f} %, and always predicting the "
                f"most frequent class gives {100 * chance:.1f} %"
            )
        return ""
    return ""


def _at_mean(record: Record) -> str:
    for name in ("validation", "test", "train"):
        r2 = record.get(f"{name}_r2")
        if r2 is not None:
            return f"its {name} R² is {r2:.3g}, and the mean alone has 0" if r2 <= 0 else ""
    return ""


def _not_fallen(records: Sequence[Record]) -> str:
    first, last = records[0], records[-1]
    if any(name.endswith(("_accuracy", "_r2")) for name in last) or len(records) < 2:
        return ""
    if last["train_loss"] < first["train_loss"]:
        return ""
    return f"its training loss went from {first['train_loss']:.3g} to {last['train_loss']:.3g}"


def _reason(
    config: TrainConfig,
    net: Network,
    start: Params,
    params: Params,
    data: Dataset,
    records: Sequence[Record],
) -> str:
    """The likeliest reason, and what to try: the first that applies, causes before symptoms."""
    hidden = sum(has_slope(layer.activation) for layer in net.layers[:-1])
    if config.init == "zeros" and hidden:
        return (
            "Likely reason: all weights started at 0, so that the neurons of a layer stay equal; "
            "try --init he"
        )
    x = data.train[0]
    if x.dtype != jnp.uint8 and (largest := float(np.abs(np.asarray(x)).max())) > _USUAL_INPUT:
        return (
            f"Likely reason: the inputs are not standardised (they reach {largest:.4g}); try "
            "--standardize"
        )
    eta = config.learning_rate
    smaller = f"the learning rate is too large (η = {eta:g}); try --rate {_round(eta / 10)}"
    some = jax.tree.map(jnp.asarray, data._replace(validation=None, test=None))
    dead = np.asarray(Dead()(net, params, some))[:hidden]
    if dead.max(initial=0) >= _MANY:
        worst = int(dead.argmax())
        return (
            f"Likely reason: dead neurons ({100 * dead[worst]:.0f} % of hidden layer {worst + 1} "
            f"have the slope 0 for every example), because {smaller}"
        )
    saturated = np.asarray(Saturated()(net, params, some))[:hidden]
    # Half of the slopes of a ReLU are 0 where all is well.
    if config.activation in ("sigmoid", "tanh") and saturated.max(initial=0) >= _MANY:
        worst = int(saturated.argmax())
        return (
            f"Likely reason: saturated neurons ({100 * saturated[worst]:.0f} % of the activations "
            f"of hidden layer {worst + 1} have a slope near 0), because {smaller}, or "
            "--init default"
        )
    errors = np.asarray(ErrorNorms()(net, params, some))
    if len(errors) > 2 and errors[0] < _VANISHED * errors[-1]:
        return (
            f"Likely reason: the errors vanish on the way back (to {errors[0] / errors[-1]:.0e} in "
            "layer 1); try fewer layers, --activation relu or --init he"
        )
    still = _norm(jax.tree.map(jnp.subtract, params, start)) < _STILL * _norm(start)
    if still or records[-1]["train_loss"] < 0.999 * records[0]["train_loss"]:
        so = "the parameters have hardly changed" if still else "the training loss still falls"
        return (
            f"Likely reason: the learning rate is too small (η = {eta:g}) or the run too short "
            f"(epochs: {len(records)}), as {so}; try --rate {_round(eta * 10)}"
        )
    return f"Likely reason: {smaller}, or the labels cannot be told from the inputs"


def _round(rate: float) -> str:
    return f"{float(f'{rate:.1g}'):g}"


def _norm(tree: Params) -> float:
    return math.sqrt(sum(float(jnp.sum(jnp.square(leaf))) for leaf in jax.tree.leaves(tree)))
