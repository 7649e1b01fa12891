"""One function, written for NumPy, on an array and on a lazy tensor.

Shows what a plan says of it: nine operations in one kernel, two passes over memory instead of
twenty-one, and how long each way takes here.
"""

import math

import numpy as np

import fusegraph as fg


def gelu(x):
    """Gaussian error linear unit, in its tanh form (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def main():
    x = np.random.default_rng(0).standard_normal(2_000_000, dtype=np.float32)
    y = gelu(fg.asarray(x))  # nothing has run
    print(y.plan())
    print()
    print(fg.compare(y))
    assert len(y.plan().kernels) == 1

    expected = gelu(x)
    np.testing.assert_array_equal(gelu(fg.asarray(x)).compute(exact=True), expected)
    np.testing.assert_allclose(y.compute(), expected, rtol=0, atol=1e-6)
    print("\nequal to NumPy: every bit with exact=True, within 1e-6 without")


if __name__ == "__main__":
    main()
