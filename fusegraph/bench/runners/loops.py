"""Rows as parallel loops, as a careful user of numba writes them.

Each does what the function of its name in ``functions`` does. A literal is float64 to numba and would
make float32 work wide, so constants are cast to the dtype of the array. ``prange`` is ``range`` here, so
the functions run as they stand; ``parallel`` puts numba's in its place.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fusegraph.bench.runners.base import Call

prange = range


# --- element-wise ---------------------------------------------------------------------------------


def add(a: Any, b: Any) -> Any:
    out = np.empty_like(a)
    for i in prange(a.size):
        out[i] = a[i] + b[i]
    return out


def triad(a: Any, b: Any) -> Any:
    scale = a.dtype.type(2.5)
    out = np.empty_like(a)
    for i in prange(a.size):
        out[i] = a[i] + scale * b[i]
    return out


def hardswish(x: Any) -> Any:
    zero, three, six = x.dtype.type(0), x.dtype.type(3), x.dtype.type(6)
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = x[i] * min(max(x[i] + three, zero), six) / six
    return out


def polynomial(x: Any) -> Any:
    a, b = x.dtype.type(0.1), x.dtype.type(0.2)
    more = np.empty(9, x.dtype)
    for n in range(9):
        more[n] = 0.1 * n - 0.35
    out = np.empty_like(x)
    for i in prange(x.size):
        total = x[i] * a + b
        for n in range(9):
            total = total * x[i] + more[n]
        out[i] = total
    return out


def adam(p: Any, g: Any, m: Any, v: Any) -> Any:
    number = p.dtype.type
    keep, take = number(0.9), number(0.1)
    keep_square, take_square = number(0.999), number(0.001)
    rate, small = number(0.001), number(1e-8)
    out, mean, square = np.empty_like(p), np.empty_like(p), np.empty_like(p)
    for i in prange(p.size):
        mean[i] = keep * m[i] + take * g[i]
        square[i] = keep_square * v[i] + take_square * (g[i] * g[i])
        out[i] = p[i] - rate * mean[i] / (math.sqrt(square[i]) + small)
    return out, mean, square


def clamp_select(a: Any, b: Any) -> Any:
    two = a.dtype.type(2)
    out = np.empty_like(a)
    for i in prange(a.size):
        out[i] = a[i] * two - b[i] if a[i] > b[i] else b[i] * two - a[i]
    return out


def column_bias(x: Any, scale: Any, bias: Any) -> Any:
    zero = x.dtype.type(0)
    out = np.empty_like(x)
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, j] = max(x[i, j] * scale[j] + bias[j], zero)
    return out


def integers(a: Any, b: Any) -> Any:
    three, seven = a.dtype.type(3), a.dtype.type(7)
    out = np.empty_like(a)
    for i in prange(a.size):
        out[i] = (a[i] * three + b[i]) & (a[i] | seven)
    return out


# --- transcendental -------------------------------------------------------------------------------


def exp(x: Any) -> Any:
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = math.exp(x[i])
    return out


def gelu_of(x: Any, number: Any) -> Any:
    inner = number(0.7978845608028654) * (x + number(0.044715) * (x * x * x))
    return number(0.5) * x * (number(1) + math.tanh(inner))


def gelu(x: Any) -> Any:
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = gelu_of(x[i], x.dtype.type)
    return out


def sigmoid(x: Any) -> Any:
    one = x.dtype.type(1)
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = one / (one + math.exp(-x[i]))
    return out


def softplus(x: Any) -> Any:
    zero = x.dtype.type(0)
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = max(x[i], zero) + math.log1p(math.exp(-abs(x[i])))
    return out


def distance(a: Any, b: Any) -> Any:
    out = np.empty_like(a)
    for i in prange(a.size):
        less, more = a[i] - b[i], a[i] + b[i]
        out[i] = math.sqrt(less * less + more * more)
    return out


def normal_share(x: Any, number: Any) -> Any:
    t = number(1) / (number(1) + number(0.2316419) * abs(x))
    series = t * (number(-1.821255978) + t * number(1.330274429))
    series = t * (number(-0.356563782) + t * (number(1.781477937) + series))
    tail = number(0.3989422804014327) * math.exp(number(-0.5) * (x * x))
    tail = tail * (t * (number(0.31938153) + series))
    return number(1) - tail if x > number(0) else tail


def black_scholes(spot: Any, strike: Any, years: Any) -> Any:
    number = spot.dtype.type
    out = np.empty_like(spot)
    for i in prange(spot.size):
        spread = number(0.3) * math.sqrt(years[i])
        above = (math.log(spot[i] / strike[i]) + number(0.065) * years[i]) / spread
        discounted = strike[i] * math.exp(number(-0.02) * years[i])
        sold = discounted * normal_share(above - spread, number)
        out[i] = spot[i] * normal_share(above, number) - sold
    return out


# --- reductions -----------------------------------------------------------------------------------


def array_of(value: Any, like: Any) -> Any:
    """A number as a 0-d array: numba returns numbers as Python's, whatever their dtype."""
    out = np.empty((), like.dtype)
    out[()] = value
    return out


def squared_error(a: Any, b: Any) -> Any:
    total = 0.0
    for i in prange(a.size):
        total += (a[i] - b[i]) * (a[i] - b[i])
    return array_of(total, a)


def column_mean(x: Any) -> Any:
    rows, columns = x.shape
    width = 64  # columns that a thread takes at once: a cache line and more of each row
    out = np.empty(columns, x.dtype)
    for block in prange((columns + width - 1) // width):
        start, stop = block * width, min((block + 1) * width, columns)
        total = np.zeros(stop - start, x.dtype)
        for i in range(rows):
            for j in range(start, stop):
                total[j - start] += x[i, j]
        for j in range(start, stop):
            out[j] = total[j - start] / x.dtype.type(rows)
    return out


def extremes(x: Any) -> Any:
    least, largest = x[0], x[0]
    for i in prange(x.size):
        least = min(least, x[i])
        largest = max(largest, x[i])
    return array_of(least, x), array_of(largest, x)


def normalise(x: Any) -> Any:
    total = 0.0
    for i in prange(x.size):
        total += x[i]
    mean = total / x.size
    squares = 0.0
    for i in prange(x.size):
        squares += (x[i] - mean) * (x[i] - mean)
    centre = x.dtype.type(mean)
    scale = x.dtype.type(math.sqrt(squares / x.size) + 1e-6)
    out = np.empty_like(x)
    for i in prange(x.size):
        out[i] = (x[i] - centre) / scale
    return out


# --- rows -----------------------------------------------------------------------------------------


def softmax(x: Any) -> Any:
    rows, columns = x.shape
    out = np.empty_like(x)
    for i in prange(rows):
        top = x[i, 0]
        for j in range(columns):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(columns):
            out[i, j] = math.exp(x[i, j] - top)
            total += out[i, j]
        for j in range(columns):
            out[i, j] /= total
    return out


def log_softmax(x: Any) -> Any:
    rows, columns = x.shape
    out = np.empty_like(x)
    for i in prange(rows):
        top = x[i, 0]
        for j in range(columns):
            top = max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(columns):
            total += math.exp(x[i, j] - top)
        shift = top + math.log(total)
        for j in range(columns):
            out[i, j] = x[i, j] - shift
    return out


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    rows, columns = x.shape
    count, epsilon = x.dtype.type(x.shape[1]), x.dtype.type(1e-5)
    out = np.empty_like(x)
    for i in prange(rows):
        total = x.dtype.type(0)
        for j in range(columns):
            total += x[i, j]
        mean = total / count
        square = x.dtype.type(0)
        for j in range(columns):
            square += (x[i, j] - mean) * (x[i, j] - mean)
        scale = math.sqrt(square / count + epsilon)
        for j in range(columns):
            out[i, j] = (x[i, j] - mean) / scale * weight[j] + bias[j]
    return out


def rms_norm(x: Any, weight: Any) -> Any:
    rows, columns = x.shape
    count, epsilon = x.dtype.type(x.shape[1]), x.dtype.type(1e-5)
    out = np.empty_like(x)
    for i in prange(rows):
        square = x.dtype.type(0)
        for j in range(columns):
            square += x[i, j] * x[i, j]
        scale = math.sqrt(square / count + epsilon)
        for j in range(columns):
            out[i, j] = x[i, j] / scale * weight[j]
    return out


# --- products -------------------------------------------------------------------------------------


def product(a: Any, b: Any) -> Any:
    return np.dot(a, b)


def layer(x: Any, w: Any, b: Any) -> Any:
    out = np.dot(x, w)
    for i in prange(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = gelu_of(out[i, j] + b[j], x.dtype.type)
    return out


def pairwise(a: Any, b: Any) -> Any:
    out = np.empty((a.shape[0], b.shape[0]), a.dtype)
    for i in prange(a.shape[0]):
        for j in range(b.shape[0]):
            total = a.dtype.type(0)
            for k in range(a.shape[1]):
                total += (a[i, k] - b[j, k]) * (a[i, k] - b[j, k])
            out[i, j] = math.sqrt(total)
    return out


def attention(q: Any, k: Any, v: Any) -> Any:
    scores = np.dot(q, k.T)
    scores *= q.dtype.type(0.125)
    return np.dot(softmax(scores), v)


def head_attention(q: Any, k: Any, v: Any) -> Any:
    heads = q.shape[0] * q.shape[1]
    shape = (heads, q.shape[2], q.shape[3])
    qs, ks, vs = q.reshape(shape), k.reshape(shape), v.reshape(shape)
    out = np.empty_like(qs)
    for head in prange(heads):
        out[head] = attention(qs[head], ks[head], vs[head])
    return out.reshape(q.shape)


LOOPS: dict[str, Call] = {
    function.__name__: function
    for function in (
        add, triad, hardswish, polynomial, adam, clamp_select, column_bias, integers, exp, gelu, sigmoid,
        softplus, distance, black_scholes, squared_error, column_mean, extremes, normalise, softmax,
        log_softmax, layer_norm, rms_norm, product, layer, pairwise, attention,
    )
}  # fmt: skip
"""By the function of the row; heads of attention have a loop of their own."""

CALLED: dict[Call, tuple[Call, ...]] = {
    gelu: (gelu_of,), layer: (gelu_of,), black_scholes: (normal_share,), attention: (softmax,),
    head_attention: (attention,), squared_error: (array_of,), extremes: (array_of,),
}  # fmt: skip
"""The other functions of this module that a loop calls."""
