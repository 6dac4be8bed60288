"""Layers that normalise: by feature, batch, image, group, root mean square, weight."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def layer_norm(x, gamma, beta, g):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    centred = x - mu
    var = jnp.mean(centred**2, axis=-1, keepdims=True)
    inv = 1 / jnp.sqrt(var + 1e-5)
    normed = centred * inv
    scaled = gamma * normed
    y = scaled + beta
    return jnp.sum(g * y)


def layer_norm_backward(x, gamma, beta, g):
    n = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    var = (centred**2).mean(-1, keepdims=True)
    inv = 1 / np.sqrt(var + 1e-5)
    normed = centred * inv
    dbeta = g.sum(0)
    # slip beta-mean: averaged over the batch | y = scaled + beta | mean
    #     dbeta = g.mean(0)
    dgamma = (g * normed).sum(0)
    # slip gamma-centred: the centred input for the normalised one | scaled = | partner
    #     dgamma = (g * centred).sum(0)
    # slip gamma-input: the input for the normalised one | scaled = | partner
    #     dgamma = (g * x).sum(0)
    dnormed = g * gamma
    # slip gamma-forgotten: g is carried past gamma | scaled = | missing, partner, left out
    #     dnormed = g
    # slip beta-partner: times beta for gamma | scaled = | partner
    #     dnormed = g * beta
    dinv = (dnormed * centred).sum(-1, keepdims=True)
    # slip wrong-partner: the normalised input for the centred one
    # | inv = 1 / normed = centred | partner, another variable
    #     dinv = (dnormed * normed).sum(-1, keepdims=True)
    dvar = dinv * -0.5 * inv**3
    # slip inverse-squared: inv² for inv³ | inv = 1 | another variable, partner
    #     dvar = dinv * -0.5 * inv**2
    # slip root-sign: the sign of the derivative of var^(-1/2) | inv = 1 / var = / normed = | sign
    #     dvar = dinv * 0.5 * inv**3
    # slip half: the ½ of the root | inv = 1 / var = / normed = | factor
    #     dvar = -dinv * inv**3
    dcentred = dnormed * inv + dvar * 2 * centred / n
    # slip variance-left-out: the variance as a constant
    # | var = / inv = 1 / normed = | left out
    #     dcentred = dnormed * inv
    # slip variance-sum: the 1/n of the variance | var = | mean
    #     dcentred = dnormed * inv + dvar * 2 * centred
    # slip variance-square: the 2 of the square | var = | factor
    #     dcentred = dnormed * inv + dvar * centred / n
    dmu = -dcentred.sum(-1, keepdims=True)
    # slip mean-sign: the sign of the path through the mean | centred = x - mu / mu = | sign
    #     dmu = dcentred.sum(-1, keepdims=True)
    dx = dcentred + dmu / n
    # slip mean-left-out: the mean as a constant | centred = x - mu / mu = | left out
    #     dx = dcentred
    # slip mean-sum: the 1/n of the mean | mu = | mean
    #     dx = dcentred + dmu
    return dx, dgamma, dbeta


def layer_norm_arguments(rng):
    return rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=5), rng.normal(size=(3, 5))


def batch_norm(x, gamma, beta, g):
    mean = jnp.mean(x, axis=0)
    centred = x - mean
    var = jnp.mean(centred**2, axis=0)
    std = jnp.sqrt(var + 1e-5)
    normed = centred / std
    scaled = normed * gamma
    y = scaled + beta
    return jnp.sum(g * y)


def batch_norm_backward(x, gamma, beta, g):
    n = len(x)
    centred = x - x.mean(0)
    std = np.sqrt((centred**2).mean(0) + 1e-5)
    normed = centred / std
    dgamma = np.sum(g * normed, axis=0)
    # slip gamma-input: meets the input, not the normalised one | scaled = | partner
    #     dgamma = np.sum(g * x, axis=0)
    # slip gamma-mean: averaged over the batch | scaled = | mean
    #     dgamma = np.mean(g * normed, axis=0)
    dbeta = np.sum(g, axis=0)
    # slip beta-first: of the first example alone | y = scaled | first copy
    #     dbeta = g[0]
    dnormed = g * gamma
    projected = normed * np.sum(dnormed * normed, axis=0)
    # slip projected-axis: summed over the features | normed = / std = / var = | axis
    #     projected = normed * np.sum(dnormed * normed, axis=1, keepdims=True)
    dx = (n * dnormed - np.sum(dnormed, axis=0) - projected) / (n * std)
    # slip no-variance: the path through the variance
    # | var = / std = / normed = centred | left out
    #     dx = (n * dnormed - np.sum(dnormed, axis=0)) / (n * std)
    # slip no-mean: the path through the mean | mean = / centred = | left out
    #     dx = (n * dnormed - projected) / (n * std)
    # slip frozen: mean and variance as constants | centred = / mean = / var = / std = / normed =
    # | left out
    #     dx = dnormed / std
    # slip variance-sign: plus for minus in the variance's path | var = / std = / normed = | sign
    #     dx = (n * dnormed - np.sum(dnormed, axis=0) + projected) / (n * std)
    # slip std-missing: not divided by the standard deviation | normed = centred | missing, left out
    #     dx = (n * dnormed - np.sum(dnormed, axis=0) - projected) / n
    # slip unbiased: n - 1 for n in the variance's path | var = / std = / normed = | factor
    #     dx = (n * dnormed - np.sum(dnormed, axis=0) - projected * n / (n - 1)) / (n * std)
    return dx, dgamma, dbeta


def batch_norm_arguments(rng):
    return rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=4), rng.normal(size=(6, 4))


def batch_norm_images(x, gamma, beta, g):
    mean = jnp.mean(x, axis=(0, 1, 2))
    centred = x - mean
    var = jnp.mean(centred**2, axis=(0, 1, 2))
    inv = (var + 1e-5) ** -0.5
    normed = centred * inv
    y = normed * gamma + beta
    return jnp.sum(g * y)


def batch_norm_images_backward(x, gamma, beta, g):
    n, h, w, _ = x.shape
    m = n * h * w
    # slip batch-alone: N for N·H·W | mean = / var = | mean
    #     m = n
    axes = (0, 1, 2)
    centred = x - x.mean(axes)
    inv = ((centred**2).mean(axes) + 1e-5) ** -0.5
    dgamma = (g * centred * inv).sum(axes)
    # slip gamma-centred: not divided by the standard deviation | y = normed | partner
    #     dgamma = (g * centred).sum(axes)
    # slip gamma-mean: the mean over the images, the sum over the pixels | y = normed | mean
    #     dgamma = (g * centred * inv).sum((1, 2)).mean(0)
    dbeta = g.sum(axes)
    # slip beta-mean: averaged over the pixels | y = normed | mean
    #     dbeta = g.mean((1, 2)).sum(0)
    dnormed = g * gamma
    dvar = (dnormed * centred).sum(axes) * -0.5 * inv**3
    # slip power: inv for inv³ | inv = / normed = | another variable, partner, missing
    #     dvar = (dnormed * centred).sum(axes) * -0.5 * inv
    dmean = -(dnormed * inv).sum(axes)
    # slip mean-left-out: the mean as a constant | centred = / mean = | left out
    #     dmean = 0 * inv
    dx = dnormed * inv + dvar * 2 * centred / m + dmean / m
    # slip variance-left-out: the variance as a constant | var = / inv = / normed = | left out
    #     dx = dnormed * inv + dmean / m
    # slip variance-twice: the path through the variance counted twice
    # | var = / inv = / normed = | factor
    #     dx = dnormed * inv + dvar * 4 * centred / m + dmean / m
    return dx, dgamma, dbeta


def batch_norm_images_arguments(rng):
    shape = (2, 3, 5, 4)
    return rng.normal(size=shape), rng.normal(size=4), rng.normal(size=4), rng.normal(size=shape)


def group_norm(x, gamma, g):
    n, c = x.shape
    grouped = x.reshape(n, 2, c // 2)
    mu = jnp.mean(grouped, axis=2, keepdims=True)
    centred = grouped - mu
    var = jnp.mean(centred**2, axis=2, keepdims=True)
    std = jnp.sqrt(var + 1e-3)
    normed = centred / std
    flat = normed.reshape(n, c)
    y = flat * gamma
    return jnp.sum(g * y)


def group_norm_backward(x, gamma, g):
    n, c = x.shape
    m = c // 2
    # slip all-channels: divided by all channels, not those of a group | mu = / var = | mean
    #     m = c
    grouped = x.reshape(n, 2, c // 2)
    centred = grouped - grouped.mean(2, keepdims=True)
    std = np.sqrt((centred**2).mean(2, keepdims=True) + 1e-3)
    normed = centred / std
    dgamma = np.sum(g * normed.reshape(n, c), axis=0)
    # slip gamma-axis: over the channels, not the batch | y = flat | axis
    #     dgamma = np.sum(g * normed.reshape(n, c), axis=1).mean() * np.ones(c)
    # slip gamma-sign: minus | y = flat | sign
    #     dgamma = -np.sum(g * normed.reshape(n, c), axis=0)
    dnormed = (g * gamma).reshape(n, 2, c // 2)
    dstd = -np.sum(dnormed * centred, axis=2, keepdims=True) / std**2
    # slip quotient: std for std² | normed = / std = / var = | another variable, partner, missing
    #     dstd = -np.sum(dnormed * centred, axis=2, keepdims=True) / std
    # slip quotient-sign: the minus of the quotient rule | normed = / std = / var = | sign
    #     dstd = np.sum(dnormed * centred, axis=2, keepdims=True) / std**2
    dvar = dstd / (2 * std)
    # slip root: the derivative of the root | std = | missing, factor
    #     dvar = dstd
    # slip root-twice: the derivative of the root twice | std = | twice, another function
    #     dvar = dstd / (2 * std) / (2 * std)
    dcentred = dnormed / std + dvar * 2 * centred / m
    # slip first-half: the path through the numerator alone | normed = / std = / var =
    # | left out, half product
    #     dcentred = dnormed / std
    # slip second-half: the path through the denominator alone | normed = centred
    # | left out, half product
    #     dcentred = dvar * 2 * centred / m
    dgrouped = dcentred - np.sum(dcentred, axis=2, keepdims=True) / m
    # slip mu-batch: the mean's path over the batch | mu = / centred = | axis
    #     dgrouped = dcentred - np.sum(dcentred, axis=0, keepdims=True) / m
    return dgrouped.reshape(n, c), dgamma


def group_norm_arguments(rng):
    return rng.normal(size=(5, 6)), rng.normal(size=6), rng.normal(size=(5, 6))


def rms_norm(x, weight, g):
    square = x**2
    ms = jnp.mean(square, axis=-1, keepdims=True)
    inv = 1.0 / jnp.sqrt(ms + 1e-6)
    normed = x * inv
    out = normed * weight
    return jnp.sum(g * out)


def rms_norm_backward(x, weight, g):
    d = x.shape[-1]
    inv = 1.0 / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    dweight = (g * x * inv).sum(0)
    # slip weight-input: the input for the normalised one | out = normed | partner
    #     dweight = (g * x).sum(0)
    dnormed = g * weight
    # slip weight-forgotten: g is carried past the weight | out = normed | missing, partner
    #     dnormed = g
    dinv = (dnormed * x).sum(-1, keepdims=True)
    # slip inv-one-copy: the first feature alone | normed = x / inv = 1.0 | first copy
    #     dinv = (dnormed * x)[:, :1]
    dms = -0.5 * dinv * inv**3
    # slip power: inv for inv³ | inv = 1.0 | missing, partner, another variable
    #     dms = -0.5 * dinv * inv
    dx = dnormed * inv + dms * 2 * x / d
    # slip scale-constant: the root mean square as a constant
    # | square = / ms = / inv = 1.0 / normed = | left out, half product
    #     dx = dnormed * inv
    # slip mean: 1/d forgotten | ms = | mean
    #     dx = dnormed * inv + dms * 2 * x
    # slip square: 2 forgotten | square = | factor
    #     dx = dnormed * inv + dms * x / d
    # slip square-missing: 2x forgotten | square = | missing
    #     dx = dnormed * inv + dms * np.ones_like(x) / d
    return dx, dweight


def rms_norm_arguments(rng):
    return rng.normal(size=(3, 5)), rng.normal(size=5), rng.normal(size=(3, 5))


def weight_norm(v, scale, x, t):
    norm = jnp.sqrt(jnp.sum(v**2, axis=0))
    direction = v / norm
    w = direction * scale
    y = x @ w
    error = y - t
    return 0.5 * jnp.mean(error**2)


def weight_norm_backward(v, scale, x, t):
    norm = np.sqrt((v**2).sum(0))
    direction = v / norm
    error = x @ (direction * scale) - t
    dy = error / error.size
    # slip mean-rows: over the rows alone | return 0.5 | mean
    #     dy = error / len(error)
    # slip half: the 2 of the square twice | return 0.5 | factor
    #     dy = 2 * error / error.size
    dw = x.T @ dy
    # slip sign: target minus output | error = / return 0.5 / y = / w = | sign
    #     dw = -x.T @ dy
    dscale = (dw * direction).sum(0)
    # slip scale-unnormalised: v for v/|v| | w = direction | partner
    #     dscale = (dw * v).sum(0)
    ddirection = dw * scale
    dv = (ddirection - direction * (ddirection * direction).sum(0)) / norm
    # slip norm-constant: the norm as a constant | norm = / direction = | left out, half product
    #     dv = ddirection / norm
    # slip norm-sign: plus the projection | norm = / direction = | sign
    #     dv = (ddirection + direction * (ddirection * direction).sum(0)) / norm
    # slip norm-missing: not divided by the norm | direction = | missing, left out
    #     dv = ddirection - direction * (ddirection * direction).sum(0)
    # slip no-dot: projected entry by entry, without the sum | norm = / direction = | axis, missing
    #     dv = (ddirection - direction * ddirection * direction) / norm
    return dv, dscale


def weight_norm_arguments(rng):
    return (
        rng.normal(size=(4, 3)),
        rng.normal(size=3),
        rng.normal(size=(5, 4)),
        rng.normal(size=(5, 3)),
    )


CASES = [
    Case("layer norm", layer_norm, layer_norm_backward, layer_norm_arguments, 3),
    Case("batch norm", batch_norm, batch_norm_backward, batch_norm_arguments, 3),
    Case(
        "batch norm of images",
        batch_norm_images,
        batch_norm_images_backward,
        batch_norm_images_arguments,
        3,
    ),
    Case("group norm", group_norm, group_norm_backward, group_norm_arguments, 2),
    Case("RMS norm", rms_norm, rms_norm_backward, rms_norm_arguments, 2),
    Case("weight norm", weight_norm, weight_norm_backward, weight_norm_arguments, 2),
]
