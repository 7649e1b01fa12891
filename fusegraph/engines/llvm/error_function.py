"""The error function, as IR.

In: an Emitter and a Value of type ``float`` or ``double``. Out: the Value of erf, straight-line code.
W. Cody, "Rational Chebyshev approximations for the error function" (1969), likewise takes erf near
zero and erfc above; the polynomials are fits of our own on Chebyshev points, reweighted to a
near-minimax error.
"""

from __future__ import annotations

from fusegraph.engines.llvm.exponentials import at_most, exp_of_reduced, reduce
from fusegraph.engines.llvm.formats import power_of_two
from fusegraph.engines.llvm.ir import Emitter, Value
from fusegraph.engines.llvm.pairs import polynomial

# fmt: off
ERF = {  # erf(x) / x - 1 in x**2, |x| <= 1: 2**-29.3, 2**-56.0
    "float": (
        0.12837916612625122, -0.3761262595653534, 0.1128358319401741, -0.026853691786527634,
        0.005188073962926865, -0.0008007878204807639, 7.846108201192692e-05,
    ),
    "double": (
        0.12837916709551256, -0.3761263890318346, 0.11283791670942675, -0.026866170642934107,
        0.005223977604954506, -0.000854832588250558, 0.00012055292365660633,
        -1.4924691728267781e-05, 1.6446903477325915e-06, -1.6204724493389346e-07,
        1.3704663757841398e-08, -7.768545854038278e-10,
    ),
}
ERFC_LOG = {  # log(erfc(x)), 1 <= x <= 4 and 6; 2**-29.6, 2**-59.2 of erf where erfc is subtracted
    "float": (
        -0.0003450420335866511, -1.127074956893921, -0.638168454170227, -0.10308622568845749,
        0.02182825095951557, -0.0029452249873429537, 0.00018613605061545968,
    ),
    "double": (
        -1.8343565629220516e-07, -1.1283772920378958, -0.6366286581759997, -0.10274677568967042,
        0.019077224723399275, 0.00028182749356587823, -0.0017704699754416983,
        0.0006424306936514986, -4.5674247507793656e-05, -6.990712981898261e-05,
        4.4839422070535486e-05, -1.644600849001169e-05, 4.308613459230022e-06,
        -8.466758863377677e-07, 1.2507606359275902e-07, -1.355204382487098e-08,
        1.0195581765319978e-09, -4.7647800252493426e-11, 1.0422173411239652e-12,
    ),
}
# fmt: on
FLAT = {"float": 4.0, "double": 6.0}  # from 3.92 and 5.93 on erf rounds to 1


def erf(e: Emitter, x: Value) -> Value:
    """``x + x p(x**2)`` up to 1 and ``1 - exp(q(a))`` above, where ``exp(q(a))`` is erfc.

    Cody 1969 likewise takes erf near zero and erfc above.
    """
    kind = x.type
    one = e.real(kind, 1.0)
    a = at_most(e, e.fabs(x), FLAT[kind])
    small = e.fma(polynomial(e, e.fmul(a, a), ERF[kind]), a, a)
    part = reduce(e, polynomial(e, a, ERFC_LOG[kind]))
    power = power_of_two(e, part.biased, kind)
    large = e.fma(e.fneg(power), exp_of_reduced(e, part.r), one)
    result = e.select(e.fcmp("ogt", a, one), large, small)
    return e.copysign(result, x)
