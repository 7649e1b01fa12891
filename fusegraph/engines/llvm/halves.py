"""float16 in IR: functions that convert between its bits and floats, for processors without their own.

In: nothing. Out: definitions that a module with float16 contains.
"""

from __future__ import annotations

from fusegraph.engines.llvm import compiler
from fusegraph.engines.llvm.values import ARM


def converts_halves() -> bool:
    """Does the processor convert float16?"""
    return ARM or compiler.has_feature("f16c")


def half_definitions(f16c: bool) -> str:
    """Conversions between float16's bits and float: the processor's, or in integers."""
    if f16c:
        value, bits = (
            "%h = bitcast i16 %b to half\n  %v = fpext half %h to float",
            ("%h = fptrunc float %x to half\n  %b = bitcast half %h to i16"),
        )
    else:
        value, bits = _HALF_VALUE, _HALF_BITS
    return f"""
define internal float @fg_half_value(i16 %b) alwaysinline {{
  {value}
  ret float %v
}}
define internal i16 @fg_half_bits(float %x) alwaysinline {{
  {bits}
  ret i16 %b
}}
define internal float @fg_half_rounded(float %x) alwaysinline {{
  %b = call i16 @fg_half_bits(float %x)
  %v = call float @fg_half_value(i16 %b)
  ret float %v
}}
"""


# F. Giesen, "Half to float done quick" and "Float to half" (2012): a normal number moves its exponent, a
# subnormal one is scaled (or rounded by adding 0.5, whose last bit is float16's least subnormal).
_HALF_VALUE = f"""%w = zext i16 %b to i32
  %magnitude = and i32 %w, 32767
  %sign0 = and i32 %w, 32768
  %sign = shl i32 %sign0, 16
  %shifted = shl i32 %magnitude, 13
  %normal = add i32 %shifted, {112 << 23}
  %special = add i32 %shifted, {224 << 23}
  %whole = uitofp i32 %magnitude to float
  %tiny = fmul float %whole, 0x3e70000000000000
  %tiny.bits = bitcast float %tiny to i32
  %is.special = icmp uge i32 %magnitude, {0x7C00}
  %is.tiny = icmp ult i32 %magnitude, {0x400}
  %m0 = select i1 %is.special, i32 %special, i32 %normal
  %m1 = select i1 %is.tiny, i32 %tiny.bits, i32 %m0
  %m2 = or i32 %m1, %sign
  %v = bitcast i32 %m2 to float"""
_HALF_BITS = f"""%w = bitcast float %x to i32
  %u = and i32 %w, {0x7FFFFFFF}
  %sign0 = lshr i32 %w, 16
  %sign = and i32 %sign0, 32768
  %moved = sub i32 %u, {112 << 23}
  %last0 = lshr i32 %u, 13
  %last = and i32 %last0, 1
  %up = add i32 %last, 4095
  %sum = add i32 %moved, %up
  %normal = lshr i32 %sum, 13
  %magnitude = bitcast i32 %u to float
  %grid = fadd float %magnitude, 0x3fe0000000000000
  %grid.bits = bitcast float %grid to i32
  %tiny = sub i32 %grid.bits, {0x3F000000}
  %is.tiny = icmp ult i32 %u, {113 << 23}
  %is.large = icmp uge i32 %u, {143 << 23}
  %is.nan = icmp ugt i32 %u, {255 << 23}
  %m0 = select i1 %is.tiny, i32 %tiny, i32 %normal
  %m1 = select i1 %is.large, i32 {0x7C00}, i32 %m0
  %m2 = select i1 %is.nan, i32 {0x7E00}, i32 %m1
  %m3 = or i32 %m2, %sign
  %b = trunc i32 %m3 to i16"""
