"""Recurrent networks, each twice: as a Python loop over time and by `jax.lax.scan`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .case import Case

__all__ = ["CASES"]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rnn_loop(Wx, Wh, b, x, y):
    h = jnp.zeros((x.shape[1], Wh.shape[0]))
    loss = 0.0
    for t in range(len(x)):
        drive = x[t] @ Wx
        back = h @ Wh
        a = drive + back + b
        h = jnp.tanh(a)
        error = h - y[t]
        loss = loss + 0.5 * jnp.sum(error**2)
    return loss


def rnn_scan(Wx, Wh, b, x, y):
    def step(h, inputs):
        now, target = inputs
        drive = now @ Wx
        back = h @ Wh
        a = drive + back + b
        h = jnp.tanh(a)
        error = h - target
        return h, 0.5 * jnp.sum(error**2)

    h = jnp.zeros((x.shape[1], Wh.shape[0]))
    _, losses = jax.lax.scan(step, h, (x, y))
    return jnp.sum(losses)


def rnn_backward(Wx, Wh, b, x, y):
    hs = [np.zeros((x.shape[1], len(Wh)))]
    for t in range(len(x)):
        hs.append(np.tanh(x[t] @ Wx + hs[-1] @ Wh + b))
    dWx, dWh, db = np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(b)
    dnext = np.zeros_like(hs[0])
    for t in reversed(range(len(x))):
        h = hs[t + 1]
        dh = h - y[t] + dnext
        # slip carry-dropped: cut after one step | back = / a = drive / h = jnp.tanh | carry
        #     dh = h - y[t]
        # slip last-target: the target of the last step at every step | error =
        # | partner, index shift
        #     dh = h - y[-1] + dnext
        # slip half: the 2 of the square though ½ stands before it
        # | error = / 0.5 * jnp.sum | factor
        #     dh = 2 * (h - y[t]) + dnext
        da = dh * (1 - h**2)
        # slip tanh-missing: without tanh' | h = jnp.tanh | missing
        #     da = dh
        # slip sigmoid-prime: the derivative of the sigmoid | h = jnp.tanh | another function
        #     da = dh * h * (1 - h)
        # slip tanh-square: 1 - h for 1 - h² | h = jnp.tanh | another function
        #     da = dh * (1 - h)
        # slip tanh-earlier: tanh' of the step before | h = jnp.tanh
        # | another variable, one step off
        #     da = dh * (1 - hs[t] ** 2)
        dWx += x[t].T @ da
        # slip overwritten: the first step alone is kept | drive = | overwritten, last step
        #     dWx = x[t].T @ da
        dWh += hs[t].T @ da
        # slip state-after: the state after the step for the one before it | back = | partner
        #     dWh += h.T @ da
        # slip half-time: cut after the last step | back = | last step, left out, first copy
        #     dWh += hs[t].T @ da if t == len(x) - 1 else 0
        # slip transposed-leaf: the outer product the other way round | back = | transposed
        #     dWh += da.T @ hs[t]
        db += da.sum(0)
        # slip bias-mean: averaged over the batch | a = drive | mean
        #     db += da.mean(0)
        # slip bias-last: that of the last step | a = drive | overwritten, last step
        #     db = da.sum(0) if t == len(x) - 1 else db
        dnext = da @ Wh.T
        # slip untransposed: W for its transpose | back = | transposed
        #     dnext = da @ Wh
        # slip accumulated: added to what came from the step after | back = / h = jnp.tanh | -
        #     dnext = dnext + da @ Wh.T
        # slip past-tanh: dh is carried back, not da | back = / h = jnp.tanh
        # | another variable, missing
        #     dnext = dh @ Wh.T
    return dWx, dWh, db


def rnn_arguments(rng):
    return (
        rng.normal(size=(2, 4)),
        rng.normal(size=(4, 4)) * 0.7,
        rng.normal(size=4),
        rng.normal(size=(5, 3, 2)),
        rng.normal(size=(5, 3, 4)),
    )


def lstm_loop(W, U, b, x, g):
    h = jnp.zeros(U.shape[0])
    c = jnp.zeros(U.shape[0])
    total = 0.0
    for t in range(len(x)):
        drive = x[t] @ W
        back = h @ U
        z = drive + back + b
        zi, zf, zo, zg = jnp.split(z, 4)
        i = jax.nn.sigmoid(zi)
        f = jax.nn.sigmoid(zf)
        o = jax.nn.sigmoid(zo)
        n = jnp.tanh(zg)
        kept = f * c
        new = i * n
        c = kept + new
        tc = jnp.tanh(c)
        h = o * tc
        total = total + jnp.sum(g[t] * h)
    return total


def lstm_scan(W, U, b, x, g):
    def step(state, inputs):
        h, c = state
        now, weight = inputs
        drive = now @ W
        back = h @ U
        z = drive + back + b
        zi, zf, zo, zg = jnp.split(z, 4)
        i = jax.nn.sigmoid(zi)
        f = jax.nn.sigmoid(zf)
        o = jax.nn.sigmoid(zo)
        n = jnp.tanh(zg)
        kept = f * c
        new = i * n
        c = kept + new
        tc = jnp.tanh(c)
        h = o * tc
        return (h, c), jnp.sum(weight * h)

    zero = jnp.zeros(U.shape[0])
    _, totals = jax.lax.scan(step, (zero, zero), (x, g))
    return jnp.sum(totals)


def lstm_backward(W, U, b, x, g):
    hs, cs, gates = [np.zeros(len(U))], [np.zeros(len(U))], []
    for t in range(len(x)):
        zi, zf, zo, zg = np.split(x[t] @ W + hs[t] @ U + b, 4)
        gates.append((sigmoid(zi), sigmoid(zf), sigmoid(zo), np.tanh(zg)))
        i, f, o, n = gates[t]
        cs.append(f * cs[t] + i * n)
        hs.append(o * np.tanh(cs[t + 1]))
    dW, dU, db = np.zeros_like(W), np.zeros_like(U), np.zeros_like(b)
    dh, dc = np.zeros(len(U)), np.zeros(len(U))
    for t in reversed(range(len(x))):
        i, f, o, n = gates[t]
        tc = np.tanh(cs[t + 1])
        dh = dh + g[t]
        do = dh * tc
        # slip output-cell: the cell for its tanh | h = o * tc | partner
        #     do = dh * cs[t + 1]
        dc = dc + dh * o * (1 - tc**2)
        # slip tanh-cell: tanh' at c for tanh' at tanh c | tc = | another variable, another function
        #     dc = dc + dh * o * (1 - cs[t + 1] ** 2)
        # slip tanh-missing: without tanh' | tc = | missing
        #     dc = dc + dh * o
        # slip gate-forgotten: without the output gate | h = o * tc | missing, left out
        #     dc = dc + dh * (1 - tc**2)
        # slip cell-carry: the cell's error is not carried back | kept = / c = kept | carry
        #     dc = dh * o * (1 - tc**2)
        df = dc * cs[t]
        # slip cell-after: the new cell for the old one | kept = | partner, one step off
        #     df = dc * cs[t + 1]
        di = dc * n
        # slip interchanged: i and n interchanged | new = | interchanged, partner
        #     di = dc * i
        dn = dc * i
        dzi = di * i * (1 - i)
        # slip sigmoid-missing: without σ' | i = jax | missing
        #     dzi = di
        dzf = df * f * (1 - f)
        # slip forget-left-out: the forget gate as a constant | f = jax / kept = | left out
        #     dzf = 0 * f
        # slip sigmoid-half: f without 1 - f | f = jax | another function, half product
        #     dzf = df * f
        dzo = do * o * (1 - o)
        # slip tanh-for-sigmoid: tanh' for σ' | o = jax | another function
        #     dzo = do * (1 - o**2)
        dzn = dn * (1 - n**2)
        # slip sigmoid-for-tanh: σ' for tanh' | n = jnp | another function
        #     dzn = dn * n * (1 - n)
        dz = np.concatenate([dzi, dzf, dzo, dzn])
        # slip gates-interchanged: the output gate's before the forget gate's
        # | zi, zf, zo, zg / f = jax / o = jax | interchanged, partner
        #     dz = np.concatenate([dzi, dzo, dzf, dzn])
        dW += np.outer(x[t], dz)
        dU += np.outer(hs[t], dz)
        # slip state-after: the new state for the old one | back = | partner, one step off
        #     dU += np.outer(hs[t + 1], dz)
        db += dz
        # slip bias-once: = for += | z = drive | overwritten, last step
        #     db = dz
        dh = U @ dz
        # slip state-carry: the state's error is not carried back | back = / z = drive | carry
        #     dh = np.zeros(len(U))
        dc = dc * f
        # slip cell-ungated: carried back past the forget gate | kept = | missing, left out
        #     dc = dc * 1.0
        # slip wrong-gate: carried back through the input gate | kept = | partner
        #     dc = dc * i
    return dW, dU, db


def lstm_arguments(rng):
    return (
        rng.normal(size=(2, 12)),
        rng.normal(size=(3, 12)) * 0.7,
        rng.normal(size=12),
        rng.normal(size=(4, 2)),
        rng.normal(size=(4, 3)),
    )


def gru_loop(Wz, Wr, Wn, Uz, Ur, Un, x, g):
    h = jnp.zeros(Uz.shape[0])
    total = 0.0
    for t in range(len(x)):
        az = Wz @ x[t] + Uz @ h
        z = jax.nn.sigmoid(az)
        ar = Wr @ x[t] + Ur @ h
        r = jax.nn.sigmoid(ar)
        reset = r * h
        an = Wn @ x[t] + Un @ reset
        n = jnp.tanh(an)
        kept = z * h
        h = kept + (1 - z) * n
        total = total + g[t] @ h
    return total


def gru_scan(Wz, Wr, Wn, Uz, Ur, Un, x, g):
    def step(h, inputs):
        now, weight = inputs
        az = Wz @ now + Uz @ h
        z = jax.nn.sigmoid(az)
        ar = Wr @ now + Ur @ h
        r = jax.nn.sigmoid(ar)
        reset = r * h
        an = Wn @ now + Un @ reset
        n = jnp.tanh(an)
        kept = z * h
        h = kept + (1 - z) * n
        return h, weight @ h

    _, totals = jax.lax.scan(step, jnp.zeros(Uz.shape[0]), (x, g))
    return totals.sum()


def gru_backward(Wz, Wr, Wn, Uz, Ur, Un, x, g):
    h, kept = np.zeros(len(Uz)), []
    for t in range(len(x)):
        z, r = sigmoid(Wz @ x[t] + Uz @ h), sigmoid(Wr @ x[t] + Ur @ h)
        n = np.tanh(Wn @ x[t] + Un @ (r * h))
        kept.append((h, z, r, n))
        h = z * h + (1 - z) * n
    dWz, dWr, dWn, dUz, dUr, dUn = (np.zeros_like(w) for w in (Wz, Wr, Wn, Uz, Ur, Un))
    dh = np.zeros(len(Uz))
    for t in reversed(range(len(x))):
        h, z, r, n = kept[t]
        dh = dh + g[t]
        dz = dh * (h - n)
        # slip update-sign: n - h for h - n | kept = / h = kept / z = jax | sign
        #     dz = dh * (n - h)
        # slip update-half: the kept state alone | h = kept | half product
        #     dz = dh * h
        dn = dh * (1 - z)
        # slip gates-swapped: z for 1 - z | h = kept | interchanged, partner
        #     dn = dh * z
        dan = dn * (1 - n**2)
        # slip tanh-missing: without tanh' | n = jnp | missing
        #     dan = dn
        dreset = Un.T @ dan
        # slip untransposed: U for its transpose | an = | transposed
        #     dreset = Un @ dan
        dr = dreset * h
        # slip reset-partner: times r for h | reset = | interchanged, partner
        #     dr = dreset * r
        dar = dr * r * (1 - r)
        daz = dz * z * (1 - z)
        # slip sigmoid-tanh: tanh' for σ' | z = jax | another function
        #     daz = dz * (1 - z**2)
        # slip sigmoid-other: σ' of the other gate | z = jax | another variable, partner
        #     daz = dz * r * (1 - r)
        dWz += np.outer(daz, x[t])
        dWr += np.outer(dar, x[t])
        dWn += np.outer(dan, x[t])
        dUz += np.outer(daz, h)
        dUr += np.outer(dar, h)
        # slip outer-swapped: the outer product the other way round | ar =
        # | transposed, interchanged
        #     dUr += np.outer(h, dar)
        dUn += np.outer(dan, r * h)
        # slip reset-forgotten: h for r ⊙ h | an = | partner
        #     dUn += np.outer(dan, h)
        dh = dh * z + dreset * r + Ur.T @ dar + Uz.T @ daz
        # slip keep-forgotten: without the kept state | kept = | left out, carry
        #     dh = dreset * r + Ur.T @ dar + Uz.T @ daz
        # slip reset-ungated: past the reset gate | reset = | missing, left out
        #     dh = dh * z + dreset + Ur.T @ dar + Uz.T @ daz
        # slip gate-forgotten: without the path through the update gate | az = | left out, carry
        #     dh = dh * z + dreset * r + Ur.T @ dar
        # slip gates-carried: without the paths through both gates | az = / ar = | left out, carry
        #     dh = dh * z + dreset * r
    return dWz, dWr, dWn, dUz, dUr, dUn


def gru_arguments(rng):
    ws = [rng.normal(size=(3, 2)) for _ in range(3)]
    us = [rng.normal(size=(3, 3)) * 0.7 for _ in range(3)]
    return *ws, *us, rng.normal(size=(4, 2)), rng.normal(size=(4, 3))


CASES = [
    Case("RNN, loop", rnn_loop, rnn_backward, rnn_arguments, 3),
    Case("RNN, scan", rnn_scan, rnn_backward, rnn_arguments, 3),
    Case("LSTM, loop", lstm_loop, lstm_backward, lstm_arguments, 3),
    Case("LSTM, scan", lstm_scan, lstm_backward, lstm_arguments, 3),
    Case("GRU, loop", gru_loop, gru_backward, gru_arguments, 6),
    Case("GRU, scan", gru_scan, gru_backward, gru_arguments, 6),
]
