"""k nearest neighbours of handwritten digits: a table of distances without its third axis.

The textbook line ``sqrt(((a[:, None] - b[None]) ** 2).sum(-1))`` holds an image for every pair in NumPy:
here 0.4 GB of differences for 4 MB of distances. As one kernel it holds a panel of them. Needs
scikit-learn, for its data.
"""

import numpy as np

import fusegraph as fg

try:
    from sklearn.datasets import load_digits
except ImportError:
    raise SystemExit(
        "neighbours.py needs scikit-learn: pip install 'fusegraph[examples]'"
    ) from None

KNOWN = 1200  # of 1797 images
ASKED = 400
NEIGHBOURS = 5


def distances(a, b):
    """Distance of every row of ``a`` from every row of ``b``, as one would write it for NumPy."""
    return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))


def labels_of(table, known):
    """The commonest label among the nearest neighbours of each row."""
    nearest = np.argpartition(table, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    votes = np.eye(10, dtype=int)[known[nearest]].sum(axis=1)
    return votes.argmax(axis=1)


def main():
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    known, asked = images[:KNOWN], images[KNOWN : KNOWN + ASKED]
    table = distances(fg.asarray(asked), fg.asarray(known))
    plan = table.plan()
    print(plan)
    print()
    print(fg.compare(table))

    assert len(plan.kernels) == 1
    assert plan.peak_bytes < ASKED * KNOWN * images.shape[1] * 4 / 4
    result, expected = table.compute(), distances(asked, known)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    labels = labels_of(result, digits.target[:KNOWN])
    accuracy = (labels == digits.target[KNOWN : KNOWN + ASKED]).mean()
    assert accuracy > 0.9
    print(f"\nnearest neighbours find {accuracy:.1%} of the digits")


if __name__ == "__main__":
    main()
