"""The functions of the suite: array code, written once over a namespace ``xp``.

In: ``xp`` (NumPy, fusegraph, or another array library) and its arrays. Out: arrays. They are written
as a careful user writes them: ``x * x * x`` and not ``x**3``, and Python's numbers as constants, so
that float32 stays float32.
"""

from __future__ import annotations

from typing import Any

SQRT_2_OVER_PI = 0.7978845608028654
EPSILON = 1e-5  # of the norms

# --- element-wise ---------------------------------------------------------------------------------


def add(xp: Any, a: Any, b: Any) -> Any:
    """One operation: there is nothing to fuse."""
    return a + b


def triad(xp: Any, a: Any, b: Any) -> Any:
    """STREAM's triad."""
    return a + 2.5 * b


def hardswish(xp: Any, x: Any) -> Any:
    """``x * relu6(x + 3) / 6`` (Howard et al. 2019)."""
    return x * xp.minimum(xp.maximum(x + 3, 0), 6) / 6


def polynomial(xp: Any, x: Any) -> Any:
    """Horner's scheme, degree 10."""
    total = x * 0.1 + 0.2
    for n in range(9):
        total = total * x + (0.1 * n - 0.35)
    return total


def adam(xp: Any, p: Any, g: Any, m: Any, v: Any) -> Any:
    """A step of Adam (Kingma and Ba 2015), without the correction of the first steps: three results."""
    mean = 0.9 * m + 0.1 * g
    square = 0.999 * v + 0.001 * (g * g)
    return p - 0.001 * mean / (xp.sqrt(square) + 1e-8), mean, square


def clamp_select(xp: Any, a: Any, b: Any) -> Any:
    """One of two values, by a comparison."""
    return xp.where(a > b, a * 2 - b, b * 2 - a)


def column_bias(xp: Any, x: Any, scale: Any, bias: Any) -> Any:
    """A scale and a bias for each column, and what is negative cut off."""
    return xp.maximum(x * scale + bias, 0)


def integers(xp: Any, a: Any, b: Any) -> Any:
    """Integer arithmetic and bits."""
    return (a * 3 + b) & (a | 7)


# --- transcendental -------------------------------------------------------------------------------


def exp(xp: Any, x: Any) -> Any:
    """One function: there is nothing to fuse."""
    return xp.exp(x)


def gelu(xp: Any, x: Any) -> Any:
    """GELU in its tanh form (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + xp.tanh(SQRT_2_OVER_PI * (x + 0.044715 * (x * x * x))))


def sigmoid(xp: Any, x: Any) -> Any:
    """The logistic function."""
    return 1 / (1 + xp.exp(-x))


def softplus(xp: Any, x: Any) -> Any:
    """``log(1 + exp(x))`` without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def distance(xp: Any, a: Any, b: Any) -> Any:
    """A square root over sums of squares."""
    return xp.sqrt((a - b) * (a - b) + (a + b) * (a + b))


def black_scholes(xp: Any, spot: Any, strike: Any, years: Any) -> Any:
    """Price of a European call (Black and Scholes 1973), rate 2 %, volatility 30 %."""
    spread = 0.3 * xp.sqrt(years)
    above = (xp.log(spot / strike) + 0.065 * years) / spread
    discounted = strike * xp.exp(-0.02 * years)
    return spot * normal_share(xp, above) - discounted * normal_share(xp, above - spread)


def normal_share(xp: Any, x: Any) -> Any:
    """The normal distribution function by Abramowitz and Stegun, 26.2.17: within 7.5e-8."""
    t = 1 / (1 + 0.2316419 * xp.abs(x))
    series = t * (-1.821255978 + t * 1.330274429)
    series = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + series)))
    tail = 0.3989422804014327 * xp.exp(-0.5 * (x * x)) * series
    return xp.where(x > 0, 1 - tail, tail)


# --- reductions -----------------------------------------------------------------------------------


def squared_error(xp: Any, a: Any, b: Any) -> Any:
    """Sum of squares of differences."""
    return xp.sum((a - b) * (a - b))


def column_mean(xp: Any, x: Any) -> Any:
    """Mean of each column."""
    return xp.mean(x, axis=0)


def extremes(xp: Any, x: Any) -> Any:
    """Least and largest value: two results of one input."""
    return xp.min(x), xp.max(x)


def normalise(xp: Any, x: Any) -> Any:
    """Mean 0 and standard deviation 1."""
    return (x - xp.mean(x)) / (xp.std(x) + 1e-6)


# --- rows -----------------------------------------------------------------------------------------


def softmax(xp: Any, x: Any) -> Any:
    """Softmax along the last axis, shifted by its maximum."""
    e = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def log_softmax(xp: Any, x: Any) -> Any:
    """Logarithm of :func:`softmax`, without the underflow."""
    shifted = x - xp.max(x, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def layer_norm(xp: Any, x: Any, weight: Any, bias: Any) -> Any:
    """Layer norm along the last axis (Ba, Kiros and Hinton 2016)."""
    away = x - xp.mean(x, axis=-1, keepdims=True)
    square = xp.mean(away * away, axis=-1, keepdims=True)
    return away / xp.sqrt(square + EPSILON) * weight + bias


def rms_norm(xp: Any, x: Any, weight: Any) -> Any:
    """RMS norm along the last axis (Zhang and Sennrich 2019)."""
    return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + EPSILON) * weight


# --- products -------------------------------------------------------------------------------------


def product(xp: Any, a: Any, b: Any) -> Any:
    """A matrix product and nothing else."""
    return a @ b


def layer(xp: Any, x: Any, w: Any, b: Any) -> Any:
    """A layer of a transformer's feed-forward block: ``gelu(x @ w + b)``."""
    return gelu(xp, x @ w + b)


def pairwise(xp: Any, a: Any, b: Any) -> Any:
    """Euclidean distance of every point of ``a`` from every point of ``b``."""
    away = a[:, None] - b[None]
    return xp.sqrt(xp.sum(away * away, axis=-1))


def attention(xp: Any, q: Any, k: Any, v: Any) -> Any:
    """Scaled dot-product attention (Vaswani et al. 2017) over heads of width 64."""
    return softmax(xp, (q @ xp.swapaxes(k, -1, -2)) * 0.125) @ v
