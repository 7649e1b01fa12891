"""One step of the Adam optimizer: three results in one pass over four arrays.

Shows a kernel with several outputs. NumPy makes thirty-two passes over an array; the plan makes seven:
it reads parameters, gradients and both moments once, and writes the three results once.
"""

import statistics
import time

import numpy as np

import fusegraph as fg

RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


def adam(parameters, gradients, mean, square, step):
    """Parameters and both moments after ``step`` (Kingma and Ba 2015)."""
    mean = BETA1 * mean + (1 - BETA1) * gradients
    square = BETA2 * square + (1 - BETA2) * (gradients * gradients)
    corrected = mean / (1 - BETA1**step)
    scale = np.sqrt(square / (1 - BETA2**step)) + EPSILON
    return parameters - RATE * corrected / scale, mean, square


def milliseconds(run, repeats=7):
    """Median time of a call."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def main():
    generator = np.random.default_rng(0)
    arrays = [generator.standard_normal(2_000_000, dtype=np.float32) for _ in range(3)]
    arrays.append(np.abs(arrays[2]))
    results = adam(*map(fg.asarray, arrays), step=10)
    plan = fg.plan(*results, engine="numpy")
    print(plan)
    assert len(plan.kernels) == 1
    print("\nparameters alone:")
    print(fg.compare(results[0], repeats=3))

    expected = adam(*arrays, step=10)
    for ours, theirs in zip(plan.run(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    eager, fused = milliseconds(lambda: adam(*arrays, step=10)), milliseconds(plan.run)
    print(
        f"\nall three, measured: NumPy {eager:.1f} ms, one kernel {fused:.1f} ms; every bit equal"
    )


if __name__ == "__main__":
    main()
