"""Convolution and pooling by hand, ODE steps, splines, physics, matrix factors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def conv1d(w, b, x, g):
    width = w.shape[0]
    length = x.shape[0] - width + 1
    z = jnp.zeros((length, w.shape[2]))
    for k in range(width):
        window = x[k : k + length]
        z = z + window @ w[k]
    shifted = z + b
    y = jax.nn.relu(shifted)
    return jnp.sum(g * y)


def conv1d_backward(w, b, x, g):
    width, length = len(w), len(x) - len(w) + 1
    z = b + sum(x[k : k + length] @ w[k] for k in range(width))
    dz = g * (z > 0)
    # slip relu-missing: without ReLU' | y = jax | missing
    #     dz = g
    # slip relu-before-bias: where it is positive without the bias | y = jax | another variable
    #     dz = g * (z - b > 0)
    db = dz.sum(0)
    # slip bias-mean: averaged over the positions | shifted = | mean
    #     db = dz.mean(0)
    dw, dx = np.zeros_like(w), np.zeros_like(x)
    for k in range(width):
        dw[k] = x[k : k + length].T @ dz
        # slip kernel-flipped: the kernel turned round | window = / z = z | index shift, partner
        #     dw[width - 1 - k] = x[k : k + length].T @ dz
        # slip kernel-first: the first window for every tap | window = | index shift, partner
        #     dw[k] = x[:length].T @ dz
        dx[k : k + length] += dz @ w[k].T
        # slip overlap: = for += | window = | overwritten
        #     dx[k : k + length] = dz @ w[k].T
        # slip input-flipped: the kernel turned round | window = / z = z
        # | index shift, partner, interchanged
        #     dx[k : k + length] += dz @ w[width - 1 - k].T
        # slip input-unshifted: not shifted | window = | index shift
        #     dx[:length] += dz @ w[k].T
    return dw, db, dx


def conv1d_arguments(rng):
    return (
        rng.normal(size=(3, 2, 4)),
        rng.normal(size=4),
        rng.normal(size=(8, 2)),
        rng.normal(size=(6, 4)),
    )


def conv2d_pool(w, b, W, x, t):
    z = jax.lax.conv_general_dilated(
        x, w, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    a = jnp.tanh(z + b)
    n, h, v, c = a.shape
    blocks = a.reshape(n, h // 2, 2, v // 2, 2, c)
    pooled = blocks.max(axis=(2, 4))
    flat = pooled.reshape(n, -1)
    out = flat @ W
    error = out - t
    return 0.5 * jnp.sum(error**2) / n


def conv2d_pool_backward(w, b, W, x, t):
    n, height, width, _ = x.shape
    rows, columns = height - w.shape[0] + 1, width - w.shape[1] + 1
    z = np.zeros((n, rows, columns, w.shape[3])) + b
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            z += x[:, i : i + rows, j : j + columns] @ w[i, j]
    a = np.tanh(z)
    blocks = a.reshape(n, rows // 2, 2, columns // 2, 2, -1)
    pooled = blocks.max((2, 4))
    flat = pooled.reshape(n, -1)
    dout = (flat @ W - t) / n
    # slip batch: 1/n forgotten | return 0.5 / error = | mean
    #     dout = flat @ W - t
    # slip target: without the target | error = | left out
    #     dout = flat @ W / n
    dW = flat.T @ dout
    dpooled = (dout @ W.T).reshape(pooled.shape)
    first = blocks == pooled[:, :, None, :, None, :]
    # slip upsampled: to every entry of the block | pooled = | missing, another function, first copy
    #     first = np.ones_like(blocks)
    # slip pool-mean: as for a mean | pooled = | missing, another function, mean
    #     first = np.ones_like(blocks) / 4
    da = (first * dpooled[:, :, None, :, None, :]).reshape(a.shape)
    dz = da * (1 - a**2)
    # slip tanh-missing: without tanh' | a = jnp | missing
    #     dz = da
    # slip tanh-of-z: 1 - z² for 1 - tanh² z | a = jnp | another variable, another function
    #     dz = da * (1 - z**2)
    db = dz.sum((0, 1, 2))
    # slip bias-pixels: averaged over the pixels | a = jnp | mean
    #     db = dz.mean((1, 2)).sum(0)
    # slip bias-image: of the first image | a = jnp | first copy
    #     db = dz[0].sum((0, 1))
    dw = np.zeros_like(w)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            window = x[:, i : i + rows, j : j + columns]
            # slip axes-interchanged: rows and columns interchanged | z = jax
            # | interchanged, transposed, -
            #     window = x.swapaxes(1, 2)[:, i : i + rows, j : j + columns]
            dw[i, j] = np.einsum("nhwc,nhwd->cd", window, dz)
            # slip kernel-turned: turned by 180° | z = jax
            # | index shift, interchanged, transposed, -
            #     dw[-1 - i, -1 - j] = np.einsum("nhwc,nhwd->cd", window, dz)
    return dw, db, dW


def conv2d_pool_arguments(rng):
    return (
        rng.normal(size=(2, 2, 2, 3)),
        rng.normal(size=3),
        rng.normal(size=(12, 2)),
        rng.normal(size=(2, 5, 5, 2)),
        rng.normal(size=(2, 2)),
    )


def runge_kutta(W, y, target):
    h = 0.3
    for _ in range(3):
        k1 = jnp.tanh(W @ y)
        y2 = y + 0.5 * h * k1
        k2 = jnp.tanh(W @ y2)
        y3 = y + 0.5 * h * k2
        k3 = jnp.tanh(W @ y3)
        y4 = y + h * k3
        k4 = jnp.tanh(W @ y4)
        mixed = k1 + 2 * k2 + 2 * k3 + k4
        y = y + h / 6 * mixed
    error = y - target
    return 0.5 * error @ error


def runge_kutta_backward(W, y, target):
    h, kept = 0.3, []
    for _ in range(3):
        k1 = np.tanh(W @ y)
        y2 = y + 0.5 * h * k1
        k2 = np.tanh(W @ y2)
        y3 = y + 0.5 * h * k2
        k3 = np.tanh(W @ y3)
        y4 = y + h * k3
        k4 = np.tanh(W @ y4)
        kept.append((y, y2, y3, y4, k1, k2, k3, k4))
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    dW = np.zeros_like(W)
    dy = y - target
    # slip loss-two: the 2 of the square against the ½ | return 0.5 | factor
    #     dy = 2 * (y - target)
    for y, y2, y3, y4, k1, k2, k3, k4 in reversed(kept):
        dmixed = dy * h / 6
        # slip sixth: the 1/6 | y = y + h | factor, missing
        #     dmixed = dy * h
        da4 = dmixed * (1 - k4**2)
        # slip slope: tanh' at the stage before | k4 = | another variable, one step off, partner
        #     da4 = dmixed * (1 - k3**2)
        dy4 = W.T @ da4
        # slip untransposed: W for its transpose | k4 = | transposed
        #     dy4 = W @ da4
        dk3 = 2 * dmixed + h * dy4
        # slip weight-three: 2 forgotten | mixed = | factor
        #     dk3 = dmixed + h * dy4
        # slip stage-four: not through the last stage | y4 = | left out, half product, carry
        #     dk3 = 2 * dmixed
        da3 = dk3 * (1 - k3**2)
        # slip tanh-missing: without tanh' | k3 = | missing
        #     da3 = dk3
        dy3 = W.T @ da3
        dk2 = 2 * dmixed + 0.5 * h * dy3
        # slip half-step: the half of the step | y3 = | factor, missing
        #     dk2 = 2 * dmixed + h * dy3
        da2 = dk2 * (1 - k2**2)
        dy2 = W.T @ da2
        dk1 = dmixed + 0.5 * h * dy2
        # slip stage-sign: minus | y2 = | sign
        #     dk1 = dmixed - 0.5 * h * dy2
        da1 = dk1 * (1 - k1**2)
        dW += np.outer(da1, y) + np.outer(da2, y2) + np.outer(da3, y3) + np.outer(da4, y4)
        # slip stage-input: the step's own y for that of the stage | k3 = | partner
        #     dW += np.outer(da1, y) + np.outer(da2, y2) + np.outer(da3, y) + np.outer(da4, y4)
        # slip stage-left-out: one stage left out of the weights | k2 = | left out
        #     dW += np.outer(da1, y) + np.outer(da3, y3) + np.outer(da4, y4)
        dy = dy + dy2 + dy3 + dy4 + W.T @ da1
        # slip identity: without what is carried past the step | y = y + h | left out, carry
        #     dy = dy2 + dy3 + dy4 + W.T @ da1
        # slip frozen-step: what is carried past the step alone | k1 = / y2 = / y3 = / y4 =
        # | left out, carry
        #     dy = dy + dy2 + dy3 + dy4
    return dW, dy


def runge_kutta_arguments(rng):
    return rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)


def cubic_spline(p, u, y):
    i = jnp.clip(jnp.floor(u).astype(int), 1, len(p) - 3)
    t = u - i
    left = p[i]
    right = p[i + 1]
    before = p[i - 1]
    after = p[i + 2]
    m0 = 0.5 * (right - before)
    m1 = 0.5 * (after - left)
    h00 = 2 * t**3 - 3 * t**2 + 1
    h10 = t**3 - 2 * t**2 + t
    h01 = 3 * t**2 - 2 * t**3
    h11 = t**3 - t**2
    s = h00 * left + h10 * m0 + h01 * right + h11 * m1
    error = s - y
    return 0.5 * jnp.mean(error**2)


def cubic_spline_backward(p, u, y):
    i = np.clip(np.floor(u).astype(int), 1, len(p) - 3)
    t = u - i
    m0, m1 = 0.5 * (p[i + 1] - p[i - 1]), 0.5 * (p[i + 2] - p[i])
    h00, h01 = 2 * t**3 - 3 * t**2 + 1, 3 * t**2 - 2 * t**3
    h10, h11 = t**3 - 2 * t**2 + t, t**3 - t**2
    ds = (h00 * p[i] + h10 * m0 + h01 * p[i + 1] + h11 * m1 - y) / len(u)
    # slip mean: 1/n forgotten | return 0.5 | mean
    #     ds = h00 * p[i] + h10 * m0 + h01 * p[i + 1] + h11 * m1 - y
    # slip sign: y - s | error = / return 0.5 / s = | sign
    #     ds = (y - h00 * p[i] - h10 * m0 - h01 * p[i + 1] - h11 * m1) / len(u)
    dp = np.zeros_like(p)
    np.add.at(dp, i, ds * h00)
    # slip knots-overwritten: = for += | left = | overwritten
    #     dp[i] += ds * h00
    # slip knot-shifted: to the knot before | left = | index shift
    #     np.add.at(dp, i - 1, ds * h00)
    np.add.at(dp, i + 1, ds * h01)
    # slip basis: h00 for h01 | s = | partner
    #     np.add.at(dp, i + 1, ds * h00)
    np.add.at(dp, i + 1, 0.5 * ds * h10)
    np.add.at(dp, i - 1, -0.5 * ds * h10)
    # slip tangent-sign: plus | m0 = / before = | sign
    #     np.add.at(dp, i - 1, 0.5 * ds * h10)
    np.add.at(dp, i + 2, 0.5 * ds * h11)
    # slip tangent-half: the ½ | m1 = / after = | factor
    #     np.add.at(dp, i + 2, ds * h11)
    # slip after-left-out: nothing for the knot after the next | after = / m1 = | left out
    #     np.add.at(dp, i + 2, 0.0 * ds)
    np.add.at(dp, i, -0.5 * ds * h11)
    slope = (6 * t**2 - 6 * t) * p[i] + (3 * t**2 - 4 * t + 1) * m0
    # slip basis-slope: 3 for 6 | h00 = | factor
    #     slope = (3 * t**2 - 6 * t) * p[i] + (3 * t**2 - 4 * t + 1) * m0
    # slip basis-one: without the 1 | h10 = | left out
    #     slope = (6 * t**2 - 6 * t) * p[i] + (3 * t**2 - 4 * t) * m0
    slope = slope + (6 * t - 6 * t**2) * p[i + 1] + (3 * t**2 - 2 * t) * m1
    # slip slope-half: the tangents as constants in t | h11 = | left out, half product
    #     slope = slope + (6 * t - 6 * t**2) * p[i + 1]
    du = ds * slope
    # slip slope-forgotten: not times the slope of the spline | t = u - i | missing
    #     du = ds
    return dp, du


def cubic_spline_arguments(rng):
    u = np.array([1.3, 2.6, 2.2, 4.7, 4.4])
    return rng.normal(size=8), u, rng.normal(size=5)


def two_link_arm(theta, lengths, target):
    s1 = jnp.sin(theta[0])
    c1 = jnp.cos(theta[0])
    both = theta[0] + theta[1]
    s2 = jnp.sin(both)
    c2 = jnp.cos(both)
    x = lengths[0] * c1 + lengths[1] * c2
    y = lengths[0] * s1 + lengths[1] * s2
    ex = x - target[0]
    ey = y - target[1]
    miss = ex**2 + ey**2
    return jnp.sqrt(miss + 1e-6)


def two_link_arm_backward(theta, lengths, target):
    both = theta[0] + theta[1]
    s1, c1, s2, c2 = np.sin(theta[0]), np.cos(theta[0]), np.sin(both), np.cos(both)
    l1, l2 = lengths
    ex, ey = l1 * c1 + l2 * c2 - target[0], l1 * s1 + l2 * s2 - target[1]
    scale = 1 / np.sqrt(ex**2 + ey**2 + 1e-6)
    # slip root: of the square, not of its root | return jnp.sqrt / miss = | missing
    #     scale = 1.0
    # slip square: divided by the square | return jnp.sqrt / miss =
    # | another variable, twice, partner
    #     scale = 1 / (ex**2 + ey**2 + 1e-6)
    dx, dy = ex * scale, ey * scale
    # slip components: x and y interchanged | miss = / ex = / ey = | interchanged, partner
    #     dx, dy = ey * scale, ex * scale
    dboth = dy * l2 * c2 - dx * l2 * s2
    # slip cosine-sign: the minus of the derivative of the cosine | c2 = / x = lengths | sign
    #     dboth = dy * l2 * c2 + dx * l2 * s2
    # slip sine: the sine for its derivative | s2 = | another function, another variable
    #     dboth = dy * l2 * s2 - dx * l2 * s2
    # slip elbow: the length of the other link | x = lengths / y = lengths / c2 = / s2 =
    # | partner, interchanged
    #     dboth = dy * l1 * c2 - dx * l1 * s2
    dshoulder = dy * l1 * c1 - dx * l1 * s1 + dboth
    # slip chain: the first angle without the second link | both = | left out
    #     dshoulder = dy * l1 * c1 - dx * l1 * s1
    # slip shoulder-cosine: without the first cosine | c1 = / x = lengths | left out
    #     dshoulder = dy * l1 * c1 + dboth
    dl1 = dx * c1 + dy * s1
    # slip length: the sine for the cosine | x = lengths / y = lengths | partner, interchanged
    #     dl1 = dx * s1 + dy * c1
    dl2 = dx * c2 + dy * s2
    # slip length-angle: the first angle for the sum of both | y = lengths | partner
    #     dl2 = dx * c2 + dy * s1
    return np.array([dshoulder, dboth]), np.array([dl1, dl2])


def two_link_arm_arguments(rng):
    return np.array([0.6, 0.9]), np.array([1.1, 0.8]), np.array([0.3, -0.4])


def leapfrog(q, k, masses, reference):
    p = jnp.zeros_like(q)
    h = 0.2
    for _ in range(4):
        stretch = q[1:] - q[:-1]
        tension = k * stretch + 0.5 * stretch**3
        force = jnp.pad(tension, (0, 1)) - jnp.pad(tension, (1, 0))
        p = p + h * force
        velocity = p / masses
        q = q + h * velocity
    offset = q - reference
    energy = 0.5 * jnp.sum(p**2 / masses)
    return jnp.sum(offset**2) + energy


def leapfrog_backward(q, k, masses, reference):
    p, h, kept = np.zeros_like(q), 0.2, []
    for _ in range(4):
        stretch = q[1:] - q[:-1]
        tension = k * stretch + 0.5 * stretch**3
        p = p + h * (np.append(tension, 0) - np.append(0, tension))
        kept.append((stretch, p))
        q = q + h * p / masses
    dq = 2 * (q - reference)
    # slip position-two: the 2 of the square | return jnp.sum / offset = | factor
    #     dq = q - reference
    dp = p / masses
    # slip kinetic: without the mass | energy = | missing, partner
    #     dp = p
    # slip kinetic-left-out: the kinetic energy as a constant for p | energy =
    # | left out, half product
    #     dp = 0 * p
    dmasses = -0.5 * p**2 / masses**2
    # slip mass-sign: plus | energy = | sign
    #     dmasses = 0.5 * p**2 / masses**2
    dk = 0.0
    for stretch, p in reversed(kept):
        dp = dp + h * dq / masses
        # slip drift-step: without the step | q = q + h / velocity = | missing, factor
        #     dp = dp + dq / masses
        # slip momentum-carry: the momentum's error is not carried back | p = p + h | carry
        #     dp = h * dq / masses
        dmasses -= h * dq * p / masses**2
        # slip mass-power: m for m² | velocity = | missing, another variable, partner
        #     dmasses -= h * dq * p / masses
        # slip mass-last: the last step alone | velocity = | overwritten, last step, first copy
        #     dmasses = -0.5 * kept[-1][1] ** 2 / masses**2 - h * dq * p / masses**2
        dtension = h * (dp[:-1] - dp[1:])
        # slip reaction: without the reaction on the other mass | force = | left out, half product
        #     dtension = h * dp[:-1]
        # slip force-sign: the other way round | force = / p = p + h / tension = / stretch = | sign
        #     dtension = h * (dp[1:] - dp[:-1])
        dk = dk + np.sum(dtension * stretch)
        # slip stiffness-mean: the mean over the springs | tension = | mean
        #     dk = dk + np.mean(dtension * stretch)
        dstretch = dtension * (k + 1.5 * stretch**2)
        # slip cubic: the 3 of the cube | tension = | factor
        #     dstretch = dtension * (k + 0.5 * stretch**2)
        # slip linear: the cubic part as a constant | tension = | left out
        #     dstretch = dtension * k
        dq = dq - np.append(dstretch, 0) + np.append(0, dstretch)
        # slip one-end: one end of the spring | stretch = | left out, half product
        #     dq = dq + np.append(0, dstretch)
        # slip position-carry: the position's error is not carried back | q = q + h | carry
        #     dq = np.append(0, dstretch) - np.append(dstretch, 0)
    return dq, dk, dmasses


def leapfrog_arguments(rng):
    return rng.normal(size=4), 1.3, rng.uniform(0.5, 2, 4), rng.normal(size=4)


def matrix_factors(U, V, bu, bv, users, items, ratings):
    u = U[users]
    v = V[items]
    dots = jnp.sum(u * v, axis=1)
    prediction = dots + bu[users] + bv[items]
    error = ratings - prediction
    fit = jnp.mean(error**2)
    size = jnp.sum(u**2) + jnp.sum(v**2)
    return fit + 0.1 * size


def matrix_factors_backward(U, V, bu, bv, users, items, ratings):
    u, v = U[users], V[items]
    error = ratings - np.sum(u * v, axis=1) - bu[users] - bv[items]
    dprediction = -2 * error / len(ratings)
    # slip error-sign: plus | error = / fit = / prediction = | sign
    #     dprediction = 2 * error / len(ratings)
    # slip mean: 1/n forgotten | fit = | mean
    #     dprediction = -2 * error
    dU, dV, dbu, dbv = np.zeros_like(U), np.zeros_like(V), np.zeros_like(bu), np.zeros_like(bv)
    du = dprediction[:, None] * v + 0.2 * u
    # slip own-factor: the user's factors for the item's | dots = | interchanged, partner
    #     du = dprediction[:, None] * u + 0.2 * u
    # slip penalty-left-out: without the penalty | size = | left out
    #     du = dprediction[:, None] * v
    # slip penalty-half: 2 of the square | size = | factor
    #     du = dprediction[:, None] * v + 0.1 * u
    dv = dprediction[:, None] * u + 0.2 * v
    # slip updated: the user's factors after a step | dots = | another variable, partner, -
    #     dv = dprediction[:, None] * (u - 0.1 * du) + 0.2 * v
    np.add.at(dU, users, du)
    # slip user-overwritten: = for += | u = U | overwritten
    #     dU[users] = du
    np.add.at(dV, items, dv)
    # slip item-by-user: at the user's row | v = V | index shift, partner, interchanged
    #     np.add.at(dV, users, dv)
    np.add.at(dbu, users, dprediction)
    # slip bias-overwritten: = for += | prediction = | overwritten
    #     dbu[users] = dprediction
    np.add.at(dbv, items, dprediction)
    # slip bias-left-out: the item's bias is not trained | prediction = | left out
    #     np.add.at(dbv, items, 0 * dprediction)
    return dU, dV, dbu, dbv


def matrix_factors_arguments(rng):
    return (
        rng.normal(size=(4, 2)),
        rng.normal(size=(5, 2)),
        rng.normal(size=4),
        rng.normal(size=5),
        np.array([0, 1, 1, 2, 3, 0]),
        np.array([1, 1, 4, 2, 0, 3]),
        rng.normal(size=6),
    )


CASES = [
    Case("conv 1-d by hand", conv1d, conv1d_backward, conv1d_arguments, 3),
    Case("conv and max-pool", conv2d_pool, conv2d_pool_backward, conv2d_pool_arguments, 3),
    Case("Runge-Kutta", runge_kutta, runge_kutta_backward, runge_kutta_arguments, 2),
    Case("cubic spline", cubic_spline, cubic_spline_backward, cubic_spline_arguments, 2),
    Case("two-link arm", two_link_arm, two_link_arm_backward, two_link_arm_arguments, 2),
    Case("leapfrog", leapfrog, leapfrog_backward, leapfrog_arguments, 3),
    Case("matrix factors", matrix_factors, matrix_factors_backward, matrix_factors_arguments, 4),
]
