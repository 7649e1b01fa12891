"""A classifier of handwritten digits: the forward pass of two layers as one plan.

Shows matrix products beside element-wise work, and that the labels are NumPy's. The first layer is
random and the second is fitted by least squares, so there is nothing to wait for. Needs scikit-learn,
for its data.
"""

import numpy as np

import fusegraph as fg

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit("digits.py needs scikit-learn: pip install 'fusegraph[examples]'") from None

HIDDEN = 512
TRAINED = 1200  # of 1797 images
REPEATS = 10  # of the images that are classified, so that a run takes milliseconds


def forward(x, hidden_weights, hidden_bias, weights):
    """Scores of ten classes for each row of ``x``."""
    return np.maximum(x @ hidden_weights + hidden_bias, 0) @ weights


def fitted(x, labels):
    """Weights of both layers."""
    generator = np.random.default_rng(0)
    hidden_weights = generator.standard_normal((x.shape[1], HIDDEN), dtype=np.float32) / 4
    hidden_bias = generator.standard_normal(HIDDEN, dtype=np.float32)
    hidden = np.maximum(x @ hidden_weights + hidden_bias, 0)
    targets = np.eye(10, dtype=np.float32)[labels]
    # A ridge keeps the normal equations well conditioned.
    normal = hidden.T @ hidden + np.eye(HIDDEN, dtype=np.float32)
    return hidden_weights, hidden_bias, np.linalg.solve(normal, hidden.T @ targets)


def main():
    digits = load_digits()
    x = (digits.data / 16).astype(np.float32)
    weights = fitted(x[:TRAINED], digits.target[:TRAINED])

    test = np.tile(x[TRAINED:], (REPEATS, 1))
    scores = forward(fg.asarray(test), *weights)
    print(scores.plan())
    print()
    print(fg.compare(scores))

    expected = forward(test, *weights)
    np.testing.assert_allclose(scores.compute(), expected, rtol=1e-4, atol=1e-4)
    labels, known = np.argmax(scores, axis=1).compute(), np.tile(digits.target[TRAINED:], REPEATS)
    np.testing.assert_array_equal(labels, expected.argmax(axis=1))
    accuracy, numpy_accuracy = (labels == known).mean(), (expected.argmax(axis=1) == known).mean()
    assert accuracy == numpy_accuracy > 0.9
    print(f"\naccuracy on images not trained on: {accuracy:.1%}, NumPy {numpy_accuracy:.1%}")


if __name__ == "__main__":
    main()
