"""Attention with a mask and heads, embeddings, word vectors, the feed-forward block."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def causal_attention(Wq, Wk, Wv, x, g):
    q = x @ Wq
    k = x @ Wk
    v = x @ Wv
    products = q @ k.T
    scores = products / jnp.sqrt(q.shape[-1])
    visible = jnp.tril(jnp.ones((len(x), len(x)), bool))
    masked = jnp.where(visible, scores, -1e9)
    weights = jax.nn.softmax(masked, axis=-1)
    out = weights @ v
    return jnp.sum(g * out)


def causal_attention_backward(Wq, Wk, Wv, x, g):
    n, d = len(x), Wq.shape[1]
    q, k, v = x @ Wq, x @ Wk, x @ Wv
    visible = np.tril(np.ones((n, n), bool))
    weights = softmax(np.where(visible, q @ k.T / np.sqrt(d), -1e9))
    dv = weights.T @ g
    # slip values-untransposed: the weights for their transpose | out = | transposed
    #     dv = weights @ g
    dweights = g @ v.T
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdims=True))
    # slip softmax-diagonal: the diagonal of softmax's Jacobian alone
    # | weights = jax | half product, another function, left out
    #     dscores = weights * (1 - weights) * dweights
    # slip softmax-no-sum: without the term common to the row | weights = jax
    # | half product, left out
    #     dscores = weights * dweights
    # slip softmax-axis: summed down the columns | weights = jax | axis
    #     dscores = weights * (dweights - (weights * dweights).sum(0))
    # slip softmax-unweighted: the row's mean, not weighted | weights = jax | -
    #     dscores = weights * (dweights - dweights.mean(-1, keepdims=True))
    dscores = dscores / np.sqrt(d)
    # slip scale-forgotten: without 1/√d | scores = | missing, factor
    #     dscores = dscores * 1.0
    # slip scale-twice: 1/d for 1/√d | scores = | factor, twice
    #     dscores = dscores / d
    dq = dscores @ k
    # slip query-partner: the queries for the keys | products = | interchanged, partner
    #     dq = dscores @ q
    dk = dscores.T @ q
    # slip keys-untransposed: the scores' error for its transpose | products = | transposed
    #     dk = dscores @ q
    # slip keys-left-out: the keys as constants | k = / products = | left out
    #     dk = 0 * k
    return x.T @ dq, x.T @ dk, x.T @ dv


def causal_attention_arguments(rng):
    return *(rng.normal(size=(4, 3)) for _ in range(3)), *(rng.normal(size=(5, i)) for i in (4, 3))


def multi_head_attention(Wq, Wk, Wv, Wo, x, t):
    b, n, d = x.shape
    heads = 2

    def split(a):
        return a.reshape(b, n, heads, d // heads).transpose(0, 2, 1, 3)

    q = split(x @ Wq)
    k = split(x @ Wk)
    v = split(x @ Wv)
    products = jnp.einsum("bhid,bhjd->bhij", q, k)
    scores = products / jnp.sqrt(d // heads)
    shifted = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    norm = jnp.sum(shifted, axis=-1, keepdims=True)
    weights = shifted / norm
    mixed = jnp.einsum("bhij,bhjd->bhid", weights, v)
    joined = mixed.transpose(0, 2, 1, 3).reshape(b, n, d)
    projected = joined @ Wo
    out = projected + x
    error = out - t
    return jnp.sum(error**2) / b


def multi_head_attention_backward(Wq, Wk, Wv, Wo, x, t):
    b, n, d = x.shape
    heads = 2

    def split(a):
        return a.reshape(b, n, heads, d // heads).transpose(0, 2, 1, 3)

    def join(a):
        return a.transpose(0, 2, 1, 3).reshape(b, n, d)

    q, k, v = split(x @ Wq), split(x @ Wk), split(x @ Wv)
    weights = softmax(np.einsum("bhid,bhjd->bhij", q, k) / np.sqrt(d // heads))
    joined = join(np.einsum("bhij,bhjd->bhid", weights, v))
    error = joined @ Wo + x - t
    dout = 2 * error / b
    # slip two: the 2 of the square | return jnp.sum | factor
    #     dout = error / b
    # slip batch: the 1/b | return jnp.sum | mean
    #     dout = 2 * error
    # slip mean-all: the mean over all numbers | return jnp.sum | mean
    #     dout = 2 * error / error.size
    dWo = np.einsum("bni,bnj->ij", joined, dout)
    # slip joined-input: the block's input for the joined heads | projected = | partner
    #     dWo = np.einsum("bni,bnj->ij", x, dout)
    djoined = dout @ Wo.T
    # slip untransposed: W for its transpose | projected = | transposed
    #     djoined = dout @ Wo
    dmixed = split(djoined)
    # slip heads-mixed: reshaped without interchanging the axes | joined =
    # | index shift, interchanged
    #     dmixed = djoined.reshape(b, heads, n, d // heads)
    dv = np.einsum("bhij,bhid->bhjd", weights, dmixed)
    # slip weights-untransposed: the weights for their transpose | mixed = | transposed
    #     dv = np.einsum("bhij,bhjd->bhid", weights, dmixed)
    dweights = np.einsum("bhid,bhjd->bhij", dmixed, v)
    dscores = weights * (dweights - np.sum(weights * dweights, axis=-1, keepdims=True))
    # slip norm-constant: the normalisation as a constant | norm = / weights = / shifted =
    # | left out, half product
    #     dscores = weights * dweights
    dproducts = dscores / np.sqrt(d // heads)
    # slip wrong-width: √d for that of a head | scores = | factor
    #     dproducts = dscores / np.sqrt(d)
    dq = np.einsum("bhij,bhjd->bhid", dproducts, k)
    dk = np.einsum("bhij,bhid->bhjd", dproducts, q)
    # slip keys-sign: minus | k = / products = | sign
    #     dk = -np.einsum("bhij,bhid->bhjd", dproducts, q)
    dWq = np.einsum("bni,bnj->ij", x, join(dq))
    dWk = np.einsum("bni,bnj->ij", x, join(dk))
    dWv = np.einsum("bni,bnj->ij", x, join(dv))
    # slip values-first: the first example alone | v = split | first copy, left out
    #     dWv = x[0].T @ join(dv)[0]
    return dWq, dWk, dWv, dWo


def multi_head_attention_arguments(rng):
    weights = [rng.normal(size=(4, 4)) for _ in range(4)]
    return *weights, rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 5, 4))


def embedding(E, W, b, ids, labels):
    vectors = E[ids]
    pooled = jnp.mean(vectors, axis=1)
    logits = pooled @ W + b
    logp = jax.nn.log_softmax(logits)
    picked = logp[jnp.arange(len(labels)), labels]
    return -jnp.mean(picked)


def embedding_backward(E, W, b, ids, labels):
    n, length = ids.shape
    pooled = E[ids].mean(1)
    p = softmax(pooled @ W + b)
    p[np.arange(n), labels] -= 1
    # slip labels-shifted: the label after the right one | picked = | index shift
    #     p[np.arange(n), (labels + 1) % p.shape[1]] -= 1
    # slip labels-forgotten: the labels' term | picked = / logp = | left out
    #     p[np.arange(n), labels] -= 0
    dlogits = p / n
    # slip sum: 1/n forgotten | return -jnp.mean | mean
    #     dlogits = p
    dW = pooled.T @ dlogits
    # slip last-word: the last word for the mean of all | logits = | partner
    #     dW = E[ids][:, -1].T @ dlogits
    db = dlogits.sum(0)
    dpooled = dlogits @ W.T
    dE = np.zeros_like(E)
    np.add.at(dE, ids, dpooled[:, None, :] / length)
    # slip overwritten: = for +=, words that come twice count once | vectors = | overwritten
    #     dE[ids] = dpooled[:, None, :] / length
    # slip buffered: += of an index array, the same | vectors = | overwritten
    #     dE[ids] += dpooled[:, None, :] / length
    # slip length: the mean over the words | pooled = jnp | mean
    #     np.add.at(dE, ids, dpooled[:, None, :])
    # slip first-word: the first word alone | pooled = jnp / vectors = | first copy
    #     np.add.at(dE, ids[:, 0], dpooled / length)
    # slip next-row: the row after the right one | vectors = | index shift
    #     np.add.at(dE, (ids + 1) % len(E), dpooled[:, None, :] / length)
    return dE, dW, db


def embedding_arguments(rng):
    ids = rng.integers(0, 5, (3, 4))
    ids[:, 1] = ids[:, 0]
    return (
        rng.normal(size=(6, 2)),
        rng.normal(size=(2, 5)),
        rng.normal(size=5),
        ids,
        rng.integers(0, 5, 3),
    )


def skip_gram(V, U, centre, context, negatives):
    v = V[centre]
    u = U[context]
    others = U[negatives]
    hit = jnp.sum(v * u, axis=-1)
    misses = jnp.einsum("nd,nkd->nk", v, others)
    attract = jnp.sum(jax.nn.log_sigmoid(hit))
    repel = jnp.sum(jax.nn.log_sigmoid(-misses))
    return -(attract + repel)


def skip_gram_backward(V, U, centre, context, negatives):
    v, u, others = V[centre], U[context], U[negatives]
    dhit = 1 / (1 + np.exp(-np.sum(v * u, axis=-1))) - 1
    # slip hit-probability: σ for σ - 1 | attract = | another function, left out
    #     dhit = 1 / (1 + np.exp(-np.sum(v * u, axis=-1)))
    dmisses = 1 / (1 + np.exp(-np.einsum("nd,nkd->nk", v, others)))
    # slip miss-sign: σ(-z) for σ(z) | repel = | sign, another variable, another function
    #     dmisses = 1 / (1 + np.exp(np.einsum("nd,nkd->nk", v, others)))
    dV, dU = np.zeros_like(V), np.zeros_like(U)
    dv = dhit[:, None] * u + np.einsum("nk,nkd->nd", dmisses, others)
    # slip negatives-forgotten: the positive pair alone | misses = / repel = | left out
    #     dv = dhit[:, None] * u
    np.add.at(dV, centre, dv)
    # slip centre-overwritten: = for += | v = V | overwritten
    #     dV[centre] = dv
    np.add.at(dU, context, dhit[:, None] * v)
    # slip updated: the pair's own vector | hit = | interchanged, partner
    #     np.add.at(dU, context, dhit[:, None] * u)
    np.add.at(dU, negatives, dmisses[..., None] * v[:, None, :])
    # slip negative-overwritten: = for += | others = | overwritten
    #     dU[negatives] += dmisses[..., None] * v[:, None, :]
    # slip first-negative: the first negative word alone | others = / misses =
    # | first copy, left out
    #     np.add.at(dU, negatives[:, 0], dmisses[:, :1] * v)
    return dV, dU


def skip_gram_arguments(rng):
    negatives = np.array([[3, 3, 5], [6, 4, 3], [5, 5, 4], [3, 6, 6]])
    return (
        rng.normal(size=(7, 2)),
        rng.normal(size=(7, 2)),
        np.array([0, 0, 1, 2]),
        np.array([1, 2, 2, 0]),
        negatives,
    )


def gelu_block(W1, b1, W2, x, g):
    z = x @ W1 + b1
    inner = 0.7978845608 * (z + 0.044715 * z**3)
    gate = jnp.tanh(inner)
    a = 0.5 * z * (1 + gate)
    y = a @ W2
    out = x + y
    return jnp.sum(g * out)


def gelu_block_backward(W1, b1, W2, x, g):
    z = x @ W1 + b1
    gate = np.tanh(0.7978845608 * (z + 0.044715 * z**3))
    a = 0.5 * z * (1 + gate)
    dW2 = a.T @ g
    # slip before-gelu: z for a | y = a | partner
    #     dW2 = z.T @ g
    da = g @ W2.T
    dgate = da * 0.5 * z
    dinner = dgate * (1 - gate**2)
    # slip gate-squared: gate for its square | gate = | another function
    #     dinner = dgate * (1 - gate)
    # slip twice: tanh' twice | gate = | twice, another function
    #     dinner = dgate * (1 - gate**2) ** 2
    dz = da * 0.5 * (1 + gate)
    # slip half-product: z as a constant before the gate | a = 0.5 | half product
    #     dz = 0 * z
    dz = dz + dinner * 0.7978845608 * (1 + 3 * 0.044715 * z**2)
    # slip gate-constant: the gate as a constant | a = 0.5 / gate = / inner =
    # | half product, left out
    #     dz = dz + 0 * dinner
    # slip cube: the 3 of the cube | inner = | factor
    #     dz = dz + dinner * 0.7978845608 * (1 + 0.044715 * z**2)
    # slip inner-linear: without the cubic term | inner = | left out
    #     dz = dz + dinner * 0.7978845608
    # slip constant: without the factor √(2/π) | inner = | missing, factor
    #     dz = dz + dinner * (1 + 3 * 0.044715 * z**2)
    dx = g + dz @ W1.T
    # slip residual: without the residual path | out = | left out
    #     dx = dz @ W1.T
    # slip block: the residual path alone | z = x / out = / y = | left out
    #     dx = g
    return x.T @ dz, dz.sum(0), dW2, dx


def gelu_block_arguments(rng):
    return (
        rng.normal(size=(3, 5)),
        rng.normal(size=5),
        rng.normal(size=(5, 3)),
        rng.normal(size=(4, 3)),
        rng.normal(size=(4, 3)),
    )


CASES = [
    Case(
        "causal attention",
        causal_attention,
        causal_attention_backward,
        causal_attention_arguments,
        3,
    ),
    Case(
        "multi-head attention",
        multi_head_attention,
        multi_head_attention_backward,
        multi_head_attention_arguments,
        4,
    ),
    Case("embedding", embedding, embedding_backward, embedding_arguments, 3),
    Case("skip-gram", skip_gram, skip_gram_backward, skip_gram_arguments, 2),
    Case("GELU block", gelu_block, gelu_block_backward, gelu_block_arguments, 4),
]
