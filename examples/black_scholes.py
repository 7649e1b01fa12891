"""Black-Scholes prices of a million options: 58 operations, two results, one kernel.

Shows a formula with ``log``, ``exp``, ``sqrt`` and ``where`` whose two results share most of their
work. The normal distribution is the polynomial 26.2.17 of Abramowitz and Stegun (1964), right to
7.5e-8, so no library call cuts the kernel.
"""

import math

import numpy as np

import fusegraph as fg

RATE, VOLATILITY = 0.03, 0.25
COEFFICIENTS = (0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429)


def normal_cdf(d):
    """Cumulative normal distribution."""
    k = 1 / (1 + 0.2316419 * np.abs(d))
    polynomial = COEFFICIENTS[-1]
    for coefficient in reversed(COEFFICIENTS[:-1]):
        polynomial = coefficient + k * polynomial
    tail = np.exp(-0.5 * (d * d)) * (k * polynomial / math.sqrt(2 * math.pi))
    return np.where(d > 0, 1 - tail, tail)


def prices(spot, strike, years):
    """Prices of a European call and put (Black and Scholes 1973)."""
    spread = VOLATILITY * np.sqrt(years)
    d1 = (np.log(spot / strike) + (RATE + VOLATILITY**2 / 2) * years) / spread
    discounted = strike * np.exp(-RATE * years)
    call = spot * normal_cdf(d1) - discounted * normal_cdf(d1 - spread)
    return call, call - spot + discounted


def exact_call(spot, strike, years):
    """One price by ``math.erf``."""
    spread = VOLATILITY * math.sqrt(years)
    d1 = (math.log(spot / strike) + (RATE + VOLATILITY**2 / 2) * years) / spread
    first, second = (0.5 * (1 + math.erf(d / math.sqrt(2))) for d in (d1, d1 - spread))
    return spot * first - strike * math.exp(-RATE * years) * second


def main():
    generator = np.random.default_rng(0)
    spot, strike = generator.uniform(50, 150, (2, 1_000_000))
    years = generator.uniform(0.1, 2, 1_000_000)
    call, put = prices(fg.asarray(spot), fg.asarray(strike), fg.asarray(years))
    plan = fg.plan(call, put, engine="numpy")
    print(plan)
    assert len(plan.kernels) == 1
    print("\nthe call alone:")
    print(fg.compare(call, repeats=3))

    expected = prices(spot, strike, years)
    np.testing.assert_array_equal(plan.run(), expected)
    np.testing.assert_allclose(fg.compute(call, put), expected, rtol=0, atol=1e-9)
    first = [exact_call(*values) for values in zip(spot[:9], strike[:9], years[:9], strict=True)]
    np.testing.assert_allclose(expected[0][:9], first, rtol=0, atol=150 * 2 * 7.5e-8)
    print("\nequal to NumPy: every bit on engine numpy, within 1e-9 on any")


if __name__ == "__main__":
    main()
