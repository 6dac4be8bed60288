"""Likelihoods: VAE, mixture, Kalman filter, Gaussian process, chain CRF, t-SNE, policy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def softmax(s, axis=-1):
    e = np.exp(s - s.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def vae(Wm, Wl, Wd, x, eps):
    mu = x @ Wm
    logvar = x @ Wl
    std = jnp.exp(0.5 * logvar)
    noise = std * eps
    z = mu + noise
    logits = z @ Wd
    nll = jnp.sum(jax.nn.softplus(logits) - x * logits)
    square = mu**2
    var = jnp.exp(logvar)
    kl = 0.5 * jnp.sum(square + var - logvar - 1)
    return (nll + kl) / len(x)


def vae_backward(Wm, Wl, Wd, x, eps):
    n = len(x)
    mu, logvar = x @ Wm, x @ Wl
    std = np.exp(0.5 * logvar)
    z = mu + std * eps
    dlogits = (1 / (1 + np.exp(-(z @ Wd))) - x) / n
    # slip mean: 1/n forgotten in the likelihood | nll = / return (nll | mean
    #     dlogits = 1 / (1 + np.exp(-(z @ Wd))) - x
    # slip target: without the target | nll = | left out
    #     dlogits = 1 / (1 + np.exp(-(z @ Wd))) / n
    dWd = z.T @ dlogits
    # slip decoder-mean: the mean for the sample | logits = | partner
    #     dWd = mu.T @ dlogits
    dz = dlogits @ Wd.T
    dmu = dz + mu / n
    # slip kl-mean: the divergence is left out of the mean's gradient | square = / kl = | left out
    #     dmu = dz
    # slip kl-two: the 2 of the square | square = / kl = | factor
    #     dmu = dz + 2 * mu / n
    # slip kl-batch: 1/n forgotten in the divergence | kl = / square = / return (nll | mean
    #     dmu = dz + mu
    # slip kl-sign: minus | square = / kl = | sign
    #     dmu = dz - mu / n
    dlogvar = dz * eps * 0.5 * std
    # slip std-half: the ½ of the exponent | std = | factor
    #     dlogvar = dz * eps * std
    # slip std-missing: without the derivative of the exponential | std = | missing
    #     dlogvar = dz * eps * 0.5
    # slip eps-forgotten: without the noise | noise = | missing, partner
    #     dlogvar = dz * 0.5 * std
    # slip variance-for-std: σ² for σ | std = | another variable, twice
    #     dlogvar = dz * eps * 0.5 * std**2
    dlogvar = dlogvar + 0.5 * (std**2 - 1) / n
    # slip kl-var-sign: 1 - σ² | kl = | sign
    #     dlogvar = dlogvar + 0.5 * (1 - std**2) / n
    # slip kl-var-one: without the 1 | kl = | left out
    #     dlogvar = dlogvar + 0.5 * std**2 / n
    # slip kl-var-std: σ for σ² | var = | another variable, another function
    #     dlogvar = dlogvar + 0.5 * (std - 1) / n
    # slip kl-var-half: the ½ | kl = | factor
    #     dlogvar = dlogvar + (std**2 - 1) / n
    return x.T @ dmu, x.T @ dlogvar, dWd


def vae_arguments(rng):
    return (
        rng.normal(size=(5, 2)),
        0.5 * rng.normal(size=(5, 2)),
        rng.normal(size=(2, 5)),
        rng.uniform(size=(4, 5)),
        rng.normal(size=(4, 2)),
    )


def mixture(a, mu, s, x):
    logpi = jax.nn.log_softmax(a)
    diff = x[:, None, :] - mu
    square = jnp.sum(diff**2, axis=2)
    var = jnp.exp(2 * s)
    quad = square / var
    volume = x.shape[1] * s
    logp = logpi - volume - 0.5 * quad
    ll = jax.nn.logsumexp(logp, axis=1)
    return -jnp.mean(ll)


def mixture_backward(a, mu, s, x):
    n, d = x.shape
    diff = x[:, None, :] - mu
    square = np.sum(diff**2, axis=2)
    var = np.exp(2 * s)
    pi = softmax(a)
    r = softmax(np.log(pi) - d * s - 0.5 * square / var, axis=1)
    # slip prior-forgotten: responsibilities without the weights
    # | ll = / logp = | another variable, another function, -
    #     r = softmax(-d * s - 0.5 * square / var, axis=1)
    # slip normalised-over-points: over the points, not the components | ll = | axis, -
    #     r = softmax(np.log(pi) - d * s - 0.5 * square / var, axis=0)
    dlogp = -r / n
    # slip sum: 1/n forgotten | return -jnp.mean | mean
    #     dlogp = -r
    # slip ascent: the gradient of the likelihood, not of its negative | return -jnp.mean / ll =
    # | sign
    #     dlogp = r / n
    da = dlogp.sum(0) - pi * dlogp.sum()
    # slip weights-free: without the normalisation of the weights | logpi = | half product, left out
    #     da = dlogp.sum(0)
    # slip weights-mean: the normalisation counted for one component | logpi = | mean, factor
    #     da = dlogp.sum(0) - pi * dlogp.sum() / len(a)
    dmu = np.einsum("nk,nkd->kd", dlogp, diff / var[:, None])
    # slip centre-variance: not divided by the variance | quad = | missing, left out
    #     dmu = np.einsum("nk,nkd->kd", dlogp, diff)
    # slip centre-sign: μ - x for x - μ | diff = / square = | sign
    #     dmu = -np.einsum("nk,nkd->kd", dlogp, diff / var[:, None])
    # slip centre-std: divided by σ | quad = | another variable, partner
    #     dmu = np.einsum("nk,nkd->kd", dlogp, diff / np.sqrt(var)[:, None])
    # slip centre-two: the 2 of the square against the ½ | square = / diff = | factor
    #     dmu = np.einsum("nk,nkd->kd", dlogp, 2 * diff / var[:, None])
    ds = np.sum(dlogp * (square / var - d), axis=0)
    # slip volume: the volume for one dimension | volume = | factor, mean
    #     ds = np.sum(dlogp * (square / var - 1), axis=0)
    # slip volume-left-out: without the volume | volume = | left out
    #     ds = np.sum(dlogp * square / var, axis=0)
    # slip quad-half: the ½ of the quadratic form once more | var = / quad = | factor
    #     ds = np.sum(dlogp * (0.5 * square / var - d), axis=0)
    return da, dmu, ds


def mixture_arguments(rng):
    return (
        rng.normal(size=3),
        rng.normal(size=(3, 2)),
        0.4 * rng.normal(size=3),
        rng.normal(size=(7, 2)),
    )


def kalman(A, h, q, r, m, y):
    P = jnp.eye(2)
    nll = 0.0
    for t in range(len(y)):
        mp = A @ m
        AP = A @ P
        Pp = AP @ A.T + q * jnp.eye(2)
        e = y[t] - h @ mp
        Ph = Pp @ h
        S = h @ Ph + r
        K = Ph / S
        m = mp + K * e
        KP = jnp.outer(K, Ph)
        P = Pp - KP
        logdet = jnp.log(S)
        fit = e**2 / S
        nll = nll + 0.5 * (logdet + fit)
    return nll


def kalman_backward(A, h, q, r, m, y):
    P, kept = np.eye(2), []
    for t in range(len(y)):
        mp, AP = A @ m, A @ P
        Pp = AP @ A.T + q * np.eye(2)
        e, Ph = y[t] - h @ mp, Pp @ h
        S = h @ Ph + r
        K = Ph / S
        kept.append((m, P, mp, AP, Pp, e, Ph, S, K))
        m, P = mp + K * e, Pp - np.outer(K, Ph)
    dA, dh, dq, dr = np.zeros((2, 2)), np.zeros(2), 0.0, 0.0
    dm, dP = np.zeros(2), np.zeros((2, 2))
    for t in reversed(range(len(y))):
        m, P, mp, AP, Pp, e, Ph, S, K = kept[t]
        dPp = dP.copy()
        # slip prior-covariance: the prediction's own path | P = Pp | left out, carry
        #     dPp = np.zeros((2, 2))
        dK = -dP @ Ph + dm * e
        # slip gain-covariance: the gain in the covariance | KP = | left out, half product
        #     dK = dm * e
        # slip gain-mean: the gain in the mean | m = mp | left out, half product
        #     dK = -dP @ Ph
        dPh = -dP.T @ K + dK / S
        # slip gain-undivided: without 1/S | K = Ph | missing
        #     dPh = -dP.T @ K + dK
        de = dm @ K + e / S
        # slip fit-two: the 2 against the ½ | fit = | factor
        #     de = dm @ K + 2 * e / S
        # slip fit-innovation: the likelihood of the innovation | fit = | left out
        #     de = dm @ K
        dS = 0.5 / S - 0.5 * e**2 / S**2 - dK @ Ph / S**2
        # slip logdet: log S as a constant | logdet = | left out
        #     dS = -0.5 * e**2 / S**2 - dK @ Ph / S**2
        # slip fit-power: S for S² | fit = | missing, another variable, partner
        #     dS = 0.5 / S - 0.5 * e**2 / S - dK @ Ph / S**2
        # slip gain-numerator: S in the gain as a constant | K = Ph | half product, left out
        #     dS = 0.5 / S - 0.5 * e**2 / S**2
        # slip fit-sign: plus | fit = | sign
        #     dS = 0.5 / S + 0.5 * e**2 / S**2 - dK @ Ph / S**2
        dPh = dPh + dS * h
        dr += dS
        # slip noise-last: = for += | S = h | overwritten, last step
        #     dr = dS
        dPp = dPp + np.outer(dPh, h)
        dh += dS * Ph + Pp.T @ dPh - de * mp
        # slip h-innovation: the innovation's path to h | e = y | left out, half product
        #     dh += dS * Ph + Pp.T @ dPh
        # slip h-prior-mean: the updated mean's path, m for its prediction | e = y | partner
        #     dh += dS * Ph + Pp.T @ dPh - de * m
        dmp = dm - de * h
        # slip innovation-sign: plus | e = y | sign
        #     dmp = dm + de * h
        dq += np.trace(dPp)
        # slip process-noise: all entries for the trace | Pp = AP
        # | another variable, index shift, partner
        #     dq += dPp.sum()
        dAP = dPp @ A
        dA += dPp.T @ AP + dAP @ P.T + np.outer(dmp, m)
        # slip a-once: one of the two A around the covariance | Pp = AP / AP = A | half product
        #     dA += dPp.T @ AP + np.outer(dmp, m)
        # slip a-mean: the outer product the other way round | mp = A | transposed, interchanged
        #     dA += dPp.T @ AP + dAP @ P.T + np.outer(m, dmp)
        dP = A.T @ dAP
        # slip covariance-untransposed: A for its transpose | AP = A | transposed
        #     dP = A @ dAP
        dm = A.T @ dmp
        # slip mean-untransposed: A for its transpose | mp = A | transposed
        #     dm = A @ dmp
    return dA, dh, dq, dr, dm


def kalman_arguments(rng):
    A = np.array([[0.9, 0.4], [-0.2, 0.7]])
    return A, np.array([1.0, 0.5]), 0.3, 0.5, rng.normal(size=2), rng.normal(size=5)


def gaussian_process(length, scale, noise, x, y):
    diff = x[:, None] - x[None, :]
    distance = diff**2 / length**2
    E = jnp.exp(-0.5 * distance)
    signal = scale**2 * E
    K = signal + noise**2 * jnp.eye(len(x))
    alpha = jnp.linalg.solve(K, y)
    fit = 0.5 * y @ alpha
    logdet = jnp.linalg.slogdet(K)[1]
    return fit + 0.5 * logdet


def gaussian_process_backward(length, scale, noise, x, y):
    square = (x[:, None] - x[None, :]) ** 2
    E = np.exp(-0.5 * square / length**2)
    K = scale**2 * E + noise**2 * np.eye(len(x))
    inverse = np.linalg.inv(K)
    alpha = inverse @ y
    dK = 0.5 * (inverse - np.outer(alpha, alpha))
    # slip complexity: without the determinant | logdet = / return fit | left out
    #     dK = -0.5 * np.outer(alpha, alpha)
    # slip fit-sign: plus the fit | fit = / alpha = | sign
    #     dK = 0.5 * (inverse + np.outer(alpha, alpha))
    # slip fit-half: the ½ of the fit | fit = / alpha = | factor
    #     dK = 0.5 * inverse - np.outer(alpha, alpha)
    # slip logdet-half: the ½ of the determinant | return fit / logdet = | factor
    #     dK = inverse - 0.5 * np.outer(alpha, alpha)
    # slip determinant-kernel: K for its inverse | logdet = | another variable, another function
    #     dK = 0.5 * (K - np.outer(alpha, alpha))
    # slip fit-targets: y for α once | alpha = | partner, missing
    #     dK = 0.5 * (inverse - np.outer(alpha, y))
    dlength = np.sum(dK * scale**2 * E * square) / length**3
    # slip length-power: ℓ² for ℓ³ | distance = | another variable, missing, another function
    #     dlength = np.sum(dK * scale**2 * E * square) / length**2
    # slip length-kernel: without the exponential's derivative | E = | missing
    #     dlength = np.sum(dK * scale**2 * square) / length**3
    # slip length-half: ½ of the exponent once more | E = / distance = | factor
    #     dlength = 0.5 * np.sum(dK * scale**2 * E * square) / length**3
    # slip length-distance: the difference, not squared | distance =
    # | partner, missing, another variable
    #     dlength = np.sum(dK * scale**2 * E * np.sqrt(square)) / length**3
    dscale = np.sum(dK * E) * 2 * scale
    # slip scale-two: the 2 of the square | signal = | factor
    #     dscale = np.sum(dK * E) * scale
    # slip scale-variance: with respect to scale² | signal = | missing
    #     dscale = np.sum(dK * E)
    dnoise = np.trace(dK) * 2 * noise
    # slip noise-all: all entries for the trace | K = | partner, missing, another variable
    #     dnoise = np.sum(dK) * 2 * noise
    # slip noise-variance: with respect to noise² | K = | missing
    #     dnoise = np.trace(dK)
    return dlength, dscale, dnoise


def gaussian_process_arguments(rng):
    x = np.sort(rng.uniform(0, 4, 6))
    return 0.9, 1.3, 0.4, x, np.sin(x) + 0.3 * rng.normal(size=6)


def chain_crf(W, T, x, labels):
    scores = x @ W
    alpha = scores[0]
    for t in range(1, len(x)):
        paths = alpha[:, None] + T
        alpha = scores[t] + jax.nn.logsumexp(paths, axis=0)
    logz = jax.nn.logsumexp(alpha)
    emitted = jnp.sum(scores[jnp.arange(len(x)), labels])
    moved = jnp.sum(T[labels[:-1], labels[1:]])
    return logz - emitted - moved


def chain_crf_backward(W, T, x, labels):
    n = len(x)
    scores = x @ W
    alphas = [scores[0]]
    for t in range(1, n):
        paths = alphas[-1][:, None] + T
        alphas.append(scores[t] + np.log(np.exp(paths).sum(0)))
    dscores, dT = np.zeros_like(scores), np.zeros_like(T)
    dalpha = softmax(alphas[-1])
    for t in reversed(range(1, n)):
        dscores[t] = dalpha
        dpaths = softmax(alphas[t - 1][:, None] + T, axis=0) * dalpha
        # slip softmax-axis: normalised over the state after | logsumexp(paths
        # | axis, another variable, -
        #     dpaths = softmax(alphas[t - 1][:, None] + T, axis=1) * dalpha
        # slip alpha-later: the messages of the step itself
        # | logsumexp(paths / paths = | one step off, another variable
        #     dpaths = softmax(alphas[t][:, None] + T, axis=0) * dalpha
        # slip message-forgotten: not weighted with what comes back | logsumexp(paths | missing, -
        #     dpaths = softmax(alphas[t - 1][:, None] + T, axis=0) / len(T)
        dT += dpaths
        # slip transition-overwritten: = for += | paths = | overwritten, last step
        #     dT = dpaths.copy()
        # slip transition-transposed: from and to interchanged | paths = | transposed
        #     dT += dpaths.T
        dalpha = dpaths.sum(1)
        # slip summed-wrongly: summed over the state before | paths = | axis, transposed
        #     dalpha = dpaths.sum(0)
        # slip uniform-message: the mean for the sum | paths = | mean
        #     dalpha = dpaths.mean(1)
    dscores[0] = dalpha
    # slip first-score: nothing for the first score | alpha = scores[0] | left out, one step off
    #     dscores[0] = 0
    dscores[np.arange(n), labels] -= 1
    # slip gold-scores: the observed path's scores | emitted = | left out
    #     dscores[np.arange(n), labels] -= 0
    np.subtract.at(dT, (labels[:-1], labels[1:]), 1)
    # slip gold-overwritten: = for -=, a transition that comes twice counts once | moved =
    # | overwritten
    #     dT[labels[:-1], labels[1:]] -= 1
    # slip gold-reversed: from and to interchanged | moved = | transposed, interchanged, index shift
    #     np.subtract.at(dT, (labels[1:], labels[:-1]), 1)
    # slip gold-sign: plus | moved = | sign
    #     np.add.at(dT, (labels[:-1], labels[1:]), 1)
    return x.T @ dscores, dT


def chain_crf_arguments(rng):
    labels = np.array([0, 2, 1, 0, 2, 2])
    return rng.normal(size=(2, 3)), rng.normal(size=(3, 3)), rng.normal(size=(6, 2)), labels


def tsne(y, P):
    diff = y[:, None, :] - y[None, :, :]
    d2 = jnp.sum(diff**2, axis=2)
    kernel = 1 / (1 + d2)
    num = jnp.where(jnp.eye(len(y)) == 1, 0.0, kernel)
    Z = jnp.sum(num)
    attract = jnp.sum(P * jnp.log1p(d2))
    repel = jnp.log(Z)
    return attract + repel


def tsne_backward(y, P):
    diff = y[:, None, :] - y[None, :, :]
    d2 = (diff**2).sum(2)
    num = 1 / (1 + d2)
    np.fill_diagonal(num, 0)
    Q = num / num.sum()
    # slip unnormalised: not divided by the sum | repel = | missing
    #     Q = num
    PQ = P - Q
    # slip repulsion: without the repulsion | repel = / Z = / num = / kernel = | left out
    #     PQ = P
    # slip attraction: without the attraction | attract = | left out
    #     PQ = -Q
    # slip sign: Q - P for P - Q | d2 = / diff = / return attract | sign
    #     PQ = Q - P
    # slip repel-sign: P + Q | repel = / Z = / num = / kernel = | sign
    #     PQ = P + Q
    dd2 = PQ * num
    # slip student: without the Student kernel | kernel = / d2 = / attract = | missing, -
    #     dd2 = PQ
    # slip student-twice: the kernel squared | kernel = / d2 = / attract = | twice, -
    #     dd2 = PQ * num**2
    dy = 2 * np.sum((dd2 + dd2.T)[:, :, None] * diff, axis=1)
    # slip one-side: 2 for 4, each pair as seen from one side | diff = / d2 = | factor, half product
    #     dy = np.sum((dd2 + dd2.T)[:, :, None] * diff, axis=1)
    # slip wrong-side: summed over the other point | diff = / d2 = | axis, sign
    #     dy = 2 * np.sum((dd2 + dd2.T)[:, :, None] * diff, axis=0)
    return dy  # noqa: RET504


def tsne_arguments(rng):
    P = rng.uniform(size=(6, 6))
    P = P + P.T
    np.fill_diagonal(P, 0)
    return rng.normal(size=(6, 2)), P / P.sum()


def policy_gradient(W, x, actions, rewards):
    logits = x @ W
    logp = jax.nn.log_softmax(logits)
    taken = logp[jnp.arange(len(x)), actions]
    returns = jnp.cumsum(rewards[::-1])[::-1]
    gain = jnp.sum(taken * returns)
    p = jnp.exp(logp)
    entropy = -jnp.sum(p * logp)
    return -gain - 0.1 * entropy


def policy_gradient_backward(W, x, actions, rewards):
    p = softmax(x @ W)
    logp = np.log(p)
    returns = np.cumsum(rewards[::-1])[::-1]
    # slip reward-now: the reward of the step for the return | gain = | partner, one step off
    #     returns = rewards
    onehot = np.eye(W.shape[1])[actions]
    dlogits = -(onehot - p) * returns[:, None]
    # slip sign: plus | gain = / return -gain / taken = | sign
    #     dlogits = (onehot - p) * returns[:, None]
    # slip undiscounted: without the return | gain = | missing, partner
    #     dlogits = -(onehot - p)
    # slip softmax: without the normalisation | logp = | half product, left out
    #     dlogits = -onehot * returns[:, None]
    # slip probability: p of the action for 1 | taken = | log f, missing, -
    #     dlogits = -(onehot - p) * returns[:, None] * p[np.arange(len(x)), actions][:, None]
    dlogits += 0.1 * p * (logp - np.sum(p * logp, axis=1, keepdims=True))
    # slip entropy-sign: minus | entropy = / return -gain | sign
    #     dlogits -= 0.1 * p * (logp - np.sum(p * logp, axis=1, keepdims=True))
    # slip entropy-left-out: the entropy | entropy = / return -gain | left out
    #     dlogits += 0.0
    # slip entropy-half: logp of p log p as a constant, softmax by its diagonal
    # | entropy = / p = / logp =
    # | half product, left out, -
    #     dlogits += 0.1 * p * logp
    return x.T @ dlogits


def policy_gradient_arguments(rng):
    return (
        rng.normal(size=(3, 4)),
        rng.normal(size=(5, 3)),
        np.array([0, 3, 2, 1, 3]),
        (rng.normal(size=5)),
    )


CASES = [
    Case("VAE", vae, vae_backward, vae_arguments, 3),
    Case("Gaussian mixture", mixture, mixture_backward, mixture_arguments, 3),
    Case("Kalman filter", kalman, kalman_backward, kalman_arguments, 5),
    Case(
        "Gaussian process",
        gaussian_process,
        gaussian_process_backward,
        gaussian_process_arguments,
        3,
    ),
    Case("chain CRF", chain_crf, chain_crf_backward, chain_crf_arguments, 2),
    Case("t-SNE", tsne, tsne_backward, tsne_arguments, 1),
    Case(
        "policy gradient", policy_gradient, policy_gradient_backward, policy_gradient_arguments, 1
    ),
]
