"""A transformer block over the bytes of a text: layer norm, causal attention, two layers with GELU.

Ordinary array code, twice: on NumPy's arrays and on lazy tensors. The weights are random, so the
numbers mean nothing, but their plan does: attention never holds the scores of all pairs of bytes.
"""

import codecs
import contextlib
import io

import numpy as np

import fusegraph as fg

with contextlib.redirect_stdout(io.StringIO()):
    import this  # the Zen of Python, as text to read

WIDTH, HEADS, HIDDEN = 64, 4, 256
TEXT = (codecs.decode(this.s, "rot13") * 3).encode()[:2048]


def layer_norm(x):
    """Rows with mean 0 and variance 1."""
    away = x - x.mean(axis=-1, keepdims=True)
    return away / np.sqrt((away * away).mean(axis=-1, keepdims=True) + np.float32(1e-5))


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gelu(x):
    inner = np.float32(0.7978846) * (x + np.float32(0.044715) * (x * x * x))
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def heads(x):
    """(bytes, width) as (heads, bytes, width of a head)."""
    return x.reshape(x.shape[0], HEADS, -1).transpose(1, 0, 2)


def block(x, future, w):
    """One block of a decoder; ``future`` marks the pairs in which the second byte comes later."""
    y = layer_norm(x)
    q, k, v = (heads(y @ w[name]) for name in ("query", "key", "value"))
    scores = q @ k.transpose(0, 2, 1) * np.float32((WIDTH // HEADS) ** -0.5)
    mixed = softmax(np.where(future, np.float32(-1e9), scores)) @ v
    x = x + mixed.transpose(1, 0, 2).reshape(x.shape) @ w["out"]
    return x + gelu(layer_norm(x) @ w["up"]) @ w["down"]


def weights():
    rng = np.random.default_rng(0)
    shapes = dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
    shapes.update(up=(WIDTH, HIDDEN), down=(HIDDEN, WIDTH))
    return {
        name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        for name, shape in shapes.items()
    }


def main():
    rng = np.random.default_rng(1)
    table = rng.standard_normal((256, WIDTH)).astype(np.float32)
    x = table[np.frombuffer(TEXT, np.uint8)]
    place = np.arange(len(x))
    w = weights()
    lazy = {name: fg.asarray(value) for name, value in w.items()}
    steps = fg.arange(len(x))
    result = block(fg.asarray(x), steps[None, :] > steps[:, None], lazy)

    plan = result.plan()
    print(plan)
    scores = HEADS * len(x) ** 2 * 4
    print(f"\nscores of all pairs: {scores:,} bytes; peak of the plan: {plan.peak_bytes:,}")
    print(fg.compare(result))
    assert plan.peak_bytes < scores
    expected = block(x, place[None, :] > place[:, None], w)
    np.testing.assert_allclose(result.compute(), expected, rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
