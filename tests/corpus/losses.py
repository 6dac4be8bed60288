"""Losses: of classes, of regression, of distances between vectors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def two_layer_classifier(W1, b1, W2, b2, x, labels):
    z = x @ W1 + b1
    h = jnp.maximum(z, 0)
    scores = h @ W2 + b2
    norm = jax.nn.logsumexp(scores, axis=1)
    right = scores[jnp.arange(len(x)), labels]
    data = jnp.mean(norm - right)
    penalty = 0.5 * 0.1 * (jnp.sum(W1**2) + jnp.sum(W2**2))
    return data + penalty


def two_layer_classifier_backward(W1, b1, W2, b2, x, labels):
    n = len(x)
    h = np.maximum(x @ W1 + b1, 0)
    p = softmax(h @ W2 + b2)
    dscores = p.copy()
    dscores[np.arange(n), labels] -= 1
    # slip all-rows: 1 from the column of every label, in every row | right =
    # | index shift, overwritten
    #     dscores[:, labels] -= 1
    # slip plus: plus for minus | right = | sign
    #     dscores[np.arange(n), labels] += 1
    dscores = dscores / n
    # slip sum: 1/n forgotten | data = | mean
    #     dscores = dscores * 1.0
    dW2 = h.T @ dscores + 0.1 * W2
    # slip penalty-forgotten: the penalty of one layer | penalty = | left out
    #     dW2 = h.T @ dscores
    # slip penalty-twice: λ for λ/2 of the square | penalty = | factor
    #     dW2 = h.T @ dscores + 0.2 * W2
    # slip penalty-sign: minus | penalty = | sign
    #     dW2 = h.T @ dscores - 0.1 * W2
    # slip before-relu: the input of the ReLU | scores = | partner
    #     dW2 = (x @ W1 + b1).T @ dscores + 0.1 * W2
    db2 = dscores.sum(0)
    # slip bias-mean: averaged once more | scores = | mean
    #     db2 = dscores.mean(0)
    dh = dscores @ W2.T
    dz = dh * (h > 0)
    # slip relu-missing: without ReLU' | h = jnp | missing
    #     dz = dh
    # slip relu-value: ReLU for ReLU' | h = jnp | another function, another variable
    #     dz = dh * h
    # slip relu-of-error: where the error is positive | h = jnp | another variable, clipped
    #     dz = dh * (dh > 0)
    dW1 = x.T @ dz + 0.1 * W1
    # slip penalty-not-scaled: without λ | penalty = | factor, missing
    #     dW1 = x.T @ dz + W1
    return dW1, dz.sum(0), dW2, db2


def two_layer_classifier_arguments(rng):
    return (
        rng.normal(size=(3, 6)),
        rng.normal(size=6),
        rng.normal(size=(6, 4)),
        rng.normal(size=4),
        rng.normal(size=(5, 3)),
        np.array([0, 3, 1, 1, 2]),
    )


def focal(w, b, x, y):
    z = x @ w + b
    p = jax.nn.sigmoid(z)
    pt = jnp.where(y == 1, p, 1 - p)
    weight = (1 - pt) ** 2
    cost = -jnp.log(pt)
    return jnp.mean(weight * cost)


def focal_backward(w, b, x, y):
    n = len(x)
    p = 1 / (1 + np.exp(-(x @ w + b)))
    pt = np.where(y == 1, p, 1 - p)
    dweight = -np.log(pt) / n
    dcost = (1 - pt) ** 2 / n
    dpt = -dcost / pt
    # slip cost-constant: the cross-entropy as a constant
    # | cost = / return jnp.mean(weight | half product, left out
    #     dpt = 0 * pt
    # slip log-missing: without the derivative of the logarithm | cost = | missing
    #     dpt = -dcost
    # slip cost-sign: plus | cost = | sign
    #     dpt = dcost / pt
    dpt = dpt - dweight * 2 * (1 - pt)
    # slip weight-constant: the weight as a constant
    # | weight = / return jnp.mean(weight | half product, left out
    #     dpt = dpt - 0 * dweight
    # slip inner-sign: the inner derivative of 1 - p | weight = | sign
    #     dpt = dpt + dweight * 2 * (1 - pt)
    # slip power: the exponent forgotten | weight = | factor
    #     dpt = dpt - dweight * (1 - pt)
    dp = np.where(y == 1, dpt, -dpt)
    # slip negatives-sign: the sign for y = 0 | pt = | sign, missing
    #     dp = dpt
    dz = dp * p * (1 - p)
    # slip sigmoid-missing: without σ' | p = jax | missing
    #     dz = dp
    # slip sigmoid-of-pt: σ' by half | p = jax | another function
    #     dz = dp * p
    return x.T @ dz, dz.sum()


def focal_arguments(rng):
    return rng.normal(size=3), rng.normal(), rng.normal(size=(5, 3)), np.array([1, 0, 0, 1, 1])


def huber(w, b, x, y):
    prediction = x @ w + b
    r = prediction - y
    small = jnp.abs(r) <= 1.0
    quadratic = 0.5 * r**2
    linear = jnp.abs(r) - 0.5
    losses = jnp.where(small, quadratic, linear)
    return jnp.mean(losses)


def huber_backward(w, b, x, y):
    n = len(x)
    r = x @ w + b - y
    small = np.abs(r) <= 1.0
    dr = np.where(small, r, np.sign(r)) / n
    # slip unclipped: the quadratic's derivative everywhere | losses = / linear =
    # | missing, clipped, -
    #     dr = r / n
    # slip linear-unsigned: 1 for the sign | linear = | sign, missing
    #     dr = np.where(small, r, 1.0) / n
    # slip linear-left-out: nothing from the linear part | linear = | left out
    #     dr = np.where(small, r, 0.0) / n
    # slip swapped: the branches interchanged | losses = | interchanged
    #     dr = np.where(small, np.sign(r), r) / n
    # slip two: the 2 of the square | quadratic = | factor
    #     dr = np.where(small, 2 * r, np.sign(r)) / n
    # slip small-mean: the mean over the small ones | return jnp.mean | mean
    #     dr = np.where(small, r, np.sign(r)) / small.sum()
    dw = x.T @ dr
    # slip sign: y - prediction | r = / losses = / prediction = / return jnp.mean(losses | sign
    #     dw = -x.T @ dr
    db = dr.sum()
    # slip bias-mean: averaged once more | prediction = | mean
    #     db = dr.mean()
    return dw, db


def huber_arguments(rng):
    x = rng.normal(size=(7, 3))
    far = np.array([-6, -0.4, 0.3, 6, -5, 0.6, 5])
    return rng.normal(size=3), rng.normal(), x, x[:, 0] + far


def triplet(W, x, positive, negative):
    a = x @ W
    p = positive @ W
    n = negative @ W
    near = jnp.sum((a - p) ** 2, axis=1)
    far = jnp.sum((a - n) ** 2, axis=1)
    gap = near - far + 1.0
    hinge = jnp.maximum(gap, 0.0)
    return jnp.mean(hinge)


def triplet_backward(W, x, positive, negative):
    a, p, n = x @ W, positive @ W, negative @ W
    gap = np.sum((a - p) ** 2, axis=1) - np.sum((a - n) ** 2, axis=1) + 1.0
    active = (gap > 0)[:, None] / len(x)
    # slip hinge-forgotten: triplets that are far enough apart count too | hinge = | missing
    #     active = np.ones_like(gap)[:, None] / len(x)
    # slip margin-forgotten: active without the margin | hinge = / gap = | another variable
    #     active = (gap > 1.0)[:, None] / len(x)
    # slip active-mean: the mean over the active ones | return jnp.mean(hinge | mean
    #     active = (gap > 0)[:, None] / np.sum(gap > 0)
    da = 2 * (n - p) * active
    # slip anchor-sign: p - n for n - p | a = x | sign
    #     da = 2 * (p - n) * active
    # slip anchor-near: the positive alone | far = | left out
    #     da = 2 * (a - p) * active
    dp = 2 * (p - a) * active
    # slip positive-two: the 2 of the square | near = / p = positive | factor
    #     dp = (p - a) * active
    # slip positive-sign: a - p for p - a | near = / p = positive | sign
    #     dp = 2 * (a - p) * active
    dn = 2 * (a - n) * active
    # slip negative-left-out: no gradient through the negative | n = negative / far = | left out
    #     dn = 0 * n
    return x.T @ da + positive.T @ dp + negative.T @ dn


def triplet_arguments(rng):
    x = rng.normal(size=(6, 3))
    near = x + 0.4 * rng.normal(size=(6, 3))
    far = rng.normal(size=(6, 3))
    return rng.normal(size=(3, 2)) * 0.8, x, near, far


def info_nce(W, x, y):
    u = x @ W
    v = y @ W
    lu = jnp.sqrt(jnp.sum(u**2, axis=1, keepdims=True))
    lv = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    nu = u / lu
    nv = v / lv
    cosines = nu @ nv.T
    logits = cosines / 0.2
    logp = jax.nn.log_softmax(logits, axis=1)
    return -jnp.mean(jnp.diag(logp))


def info_nce_backward(W, x, y):
    n = len(x)
    u, v = x @ W, y @ W
    lu, lv = np.linalg.norm(u, axis=1, keepdims=True), np.linalg.norm(v, axis=1, keepdims=True)
    nu, nv = u / lu, v / lv
    dlogits = (softmax(nu @ nv.T / 0.2) - np.eye(n)) / n
    # slip softmax-axis: softmax over the other axis | logp = | axis, another variable, transposed
    #     dlogits = (softmax(nv @ nu.T / 0.2).T - np.eye(n)) / n
    # slip sum: 1/n forgotten | return -jnp.mean | mean
    #     dlogits = softmax(nu @ nv.T / 0.2) - np.eye(n)
    # slip positives: the positive pairs alone | logp = | left out, half product
    #     dlogits = -np.eye(n) / n
    dcosines = dlogits / 0.2
    # slip temperature: times for divided by | logits = | factor, another function
    #     dcosines = dlogits * 0.2
    # slip temperature-forgotten: without the temperature | logits = | missing, factor
    #     dcosines = dlogits
    dnu = dcosines @ nv
    dnv = dcosines.T @ nu
    # slip untransposed: for its transpose | cosines = | transposed
    #     dnv = dcosines @ nu
    du = (dnu - nu * np.sum(nu * dnu, axis=1, keepdims=True)) / lu
    # slip length-constant: the length as a constant | lu = / nu = | left out, half product
    #     du = dnu / lu
    # slip other-length: divided by the other length | nu = | partner, another variable
    #     du = (dnu - nu * np.sum(nu * dnu, axis=1, keepdims=True)) / lv
    dv = (dnv - nv * np.sum(nv * dnv, axis=1, keepdims=True)) / lv
    # slip keys-stopped: no gradient through the keys | v = / nv = / cosines = / lv = | left out
    #     dv = 0 * v
    # slip v-wrong-projection: projected along u | nv = / lv = | partner, another variable
    #     dv = (dnv - nv * np.sum(nu * dnv, axis=1, keepdims=True)) / lv
    return x.T @ du + y.T @ dv


def info_nce_arguments(rng):
    x = rng.normal(size=(5, 4))
    return rng.normal(size=(4, 3)), x, x + 0.5 * rng.normal(size=(5, 4))


def margin_contrastive(w, a, b, same):
    u = jnp.tanh(a @ w)
    v = jnp.tanh(b @ w)
    squared = jnp.sum((u - v) ** 2, axis=1)
    distance = jnp.sqrt(squared + 1e-9)
    pull = same * squared
    short = jnp.maximum(1.5 - distance, 0)
    push = (1 - same) * short**2
    return jnp.sum(pull + push)


def margin_contrastive_backward(w, a, b, same):
    u, v = np.tanh(a @ w), np.tanh(b @ w)
    distance = np.sqrt(np.sum((u - v) ** 2, axis=1) + 1e-9)
    dshort = (1 - same) * 2 * np.maximum(1.5 - distance, 0)
    # slip push-everywhere: the pairs that belong together pushed too | push = | missing, left out
    #     dshort = 2 * np.maximum(1.5 - distance, 0)
    # slip push-two: the 2 of the square | push = | factor
    #     dshort = (1 - same) * np.maximum(1.5 - distance, 0)
    # slip no-hinge: beyond the margin too | short = | missing
    #     dshort = (1 - same) * 2 * (1.5 - distance)
    ddistance = -dshort
    # slip hinge-sign: plus | short = / push = / distance = | sign
    #     ddistance = dshort
    dsquared = same + ddistance / (2 * distance)
    # slip root-missing: without the derivative of the root | distance = | missing
    #     dsquared = same + ddistance
    # slip root-square: the squared distance in the root's derivative | distance =
    # | another variable
    #     dsquared = same + ddistance / (2 * distance**2)
    # slip pull-left-out: the pulling part | pull = | left out
    #     dsquared = ddistance / (2 * distance)
    ddiff = 2 * (u - v) * dsquared[:, None]
    du = ddiff * (1 - u**2)
    dv = -ddiff * (1 - v**2)
    # slip second-sign: plus for the second of the pair | v = jnp / squared = | sign
    #     dv = ddiff * (1 - v**2)
    # slip first-slope: tanh' at the first of the pair | v = jnp | another variable, partner
    #     dv = -ddiff * (1 - u**2)
    dw = a.T @ du + b.T @ dv
    # slip shared-once: the weights of the second alone | u = jnp | left out, overwritten
    #     dw = b.T @ dv
    # slip input-swapped: the other input | v = jnp | partner
    #     dw = a.T @ du + a.T @ dv
    return dw  # noqa: RET504


def margin_contrastive_arguments(rng):
    same = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    a = 2 * rng.normal(size=(5, 3))
    b = np.where(np.isin(np.arange(5), [2, 3])[:, None], a + 0.3, -a)
    return rng.normal(size=(3, 2)), a, b, same


def cosine_similarity(a, b):
    dots = jnp.sum(a * b, axis=1)
    length_a = jnp.linalg.norm(a, axis=1)
    length_b = jnp.linalg.norm(b, axis=1)
    lengths = length_a * length_b
    cosines = dots / lengths
    return jnp.mean((1 - cosines) ** 2)


def cosine_similarity_backward(a, b):
    dots = np.sum(a * b, axis=1, keepdims=True)
    la = np.linalg.norm(a, axis=1, keepdims=True)
    lb = np.linalg.norm(b, axis=1, keepdims=True)
    cosines = dots / (la * lb)
    dcosines = -2 * (1 - cosines) / len(a)
    # slip outer-sign: the inner derivative of 1 - cos | return jnp.mean | sign
    #     dcosines = 2 * (1 - cosines) / len(a)
    # slip features: the mean over the features | return jnp.mean | mean
    #     dcosines = -2 * (1 - cosines) / a.shape[1]
    # slip square-missing: without the derivative of the square | return jnp.mean | missing
    #     dcosines = -np.ones_like(cosines) / len(a)
    da = dcosines * (b / (la * lb) - cosines * a / la**2)
    # slip lengths-constant: the lengths as constants
    # | length_a = / lengths = / cosines = | left out, half product
    #     da = dcosines * b / (la * lb)
    # slip projection-sign: plus | length_a = / lengths = / cosines = | sign
    #     da = dcosines * (b / (la * lb) + cosines * a / la**2)
    # slip length-power: |a| for |a|² | length_a = | missing, another variable, partner
    #     da = dcosines * (b / (la * lb) - cosines * a / la)
    db = dcosines * (a / (la * lb) - cosines * b / lb**2)
    # slip other-length: the length of a for that of b
    # | length_b = / lengths = | another variable, partner, interchanged
    #     db = dcosines * (a / (la * lb) - cosines * b / la**2)
    # slip own-vector: b for a in the first term | dots = | partner, interchanged
    #     db = dcosines * (b / (la * lb) - cosines * b / lb**2)
    return da, db


def cosine_similarity_arguments(rng):
    return rng.normal(size=(4, 3)), rng.normal(size=(4, 3))


def multiclass_hinge(W, x, labels):
    scores = x @ W
    right = scores[jnp.arange(len(x)), labels]
    margins = scores - right[:, None] + 1.0
    hinge = jnp.maximum(margins, 0)
    others = labels[:, None] != jnp.arange(W.shape[1])
    data = jnp.sum(jnp.where(others, hinge, 0.0)) / len(x)
    penalty = 0.5 * jnp.sum(W * W)
    return data + penalty


def multiclass_hinge_backward(W, x, labels):
    n, c = len(x), W.shape[1]
    scores = x @ W
    margins = scores - scores[np.arange(n), labels][:, None] + 1.0
    others = labels[:, None] != np.arange(c)
    dscores = ((margins > 0) & others) / n
    # slip sum: 1/n forgotten | data = | mean
    #     dscores = ((margins > 0) & others) * 1.0
    dscores[np.arange(n), labels] -= dscores.sum(1)
    # slip right-left-out: nothing for the right class | right = / margins = | left out
    #     dscores[np.arange(n), labels] -= 0.0
    # slip right-once: 1 for the number of margins violated | margins = | first copy, axis, mean
    #     dscores[np.arange(n), labels] -= 1.0 / n
    # slip right-sign: plus | right = / margins = | sign
    #     dscores[np.arange(n), labels] += dscores.sum(1)
    dW = x.T @ dscores + W
    # slip penalty-two: the 2 of the square | penalty = | factor
    #     dW = x.T @ dscores + 2 * W
    # slip penalty-left-out: the penalty | penalty = | left out
    #     dW = x.T @ dscores
    return dW  # noqa: RET504


def multiclass_hinge_arguments(rng):
    return rng.normal(size=(3, 4)), rng.normal(size=(5, 3)), np.array([0, 3, 1, 1, 2])


CASES = [
    Case(
        "two-layer classifier",
        two_layer_classifier,
        two_layer_classifier_backward,
        two_layer_classifier_arguments,
        4,
    ),
    Case("focal loss", focal, focal_backward, focal_arguments, 2),
    Case("Huber loss", huber, huber_backward, huber_arguments, 2),
    Case("triplet loss", triplet, triplet_backward, triplet_arguments, 1),
    Case("InfoNCE", info_nce, info_nce_backward, info_nce_arguments, 1),
    Case(
        "contrastive margin",
        margin_contrastive,
        margin_contrastive_backward,
        margin_contrastive_arguments,
        1,
    ),
    Case(
        "cosine similarity",
        cosine_similarity,
        cosine_similarity_backward,
        cosine_similarity_arguments,
        2,
    ),
    Case(
        "multi-class hinge",
        multiclass_hinge,
        multiclass_hinge_backward,
        multiclass_hinge_arguments,
        1,
    ),
]
