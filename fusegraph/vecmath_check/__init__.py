"""The errors of the vector math: measured against references that are better than the results.

In: names of functions, a dtype. Out: the largest error found of each, in ulps, where it was, and whether
special values equal NumPy's. ``python -m fusegraph.vecmath_check`` is the command.

An ulp here is ``2**(e - p + 1)`` where ``2**e <= |value| < 2**(e + 1)``, ``p`` is 24 or 53, and ``e`` is
at least that of the least normal number (J.-M. Muller et al., Handbook of Floating-Point Arithmetic,
2nd ed., section 2.3.2). It is taken of the value before it is rounded, so a correctly rounded result
has an error of at most 0.5. An infinite result counts as the power of two after the largest number.

* **float32, one argument**: all 2**32 arguments, NaNs included, against NumPy's function of float64,
  whose error of some ulps is 2**-29 of a float's ulp each. The error is computed in the kernel that
  computes the function; the loop is the engine's own, so what is measured is what kernels run.
* **float32, two arguments**: drawn points, against float64 likewise.
* **float64**: drawn points against NumPy's ``longdouble``, which on x86 has 64 bits and is off by about
  2**-11 of a double's ulp. The worst points of each function are computed again by mpmath, with 200
  bits, and it is that error which is reported. Where ``longdouble`` is no better than double, mpmath
  does all of it, on fewer points.
* **points**: a quarter uniform over bit patterns, so over exponents, NaNs and infinities; a quarter
  over ordinary sizes; half near the arguments about which a function's method changes or its result
  ends (each row's ``edges``, 0, 1, the subnormal and the largest numbers), from the very next numbers
  outwards. For sin, cos and tan also multiples of pi/2 up to 2**1000 and, for every exponent, the
  numbers nearest to one. Second arguments are drawn alone and beside the first ones, so that results
  are ordinary, overflow, or cancel.
* **special values**: every result must be NaN where the reference is, and a zero must have its sign; on
  a grid of zeros, infinities, NaN, one, the least and largest numbers, it must be so where NumPy's own
  function of the same dtype gives NaN, infinity or zero.

``logaddexp`` of operands of unlike sign may cancel, and two roundings of its operands' size are left
whatever its precision. Its ulps are those of the result or of a 64th of the larger operand, whichever
is larger.
"""
