"""``fusegraph bench``: a named suite beside NumPy and the other array libraries that are installed."""
