"""What the loops in numba share: how they are compiled, and the exponential that they vectorise."""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

# A product and a sum may be rounded once; NaN and infinities stay what they are.
FUSED = {"contract", "nsz"}
# A sum over rows may be taken in any order, which is what lets it run in lanes.
REORDERED = FUSED | {"reassoc"}


def compiled(flags: set[str]) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that compiles a loop, without the interpreter's lock, and keeps it on disk where it can."""

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(nogil=True, fastmath=flags, cache=True)(function)
        except RuntimeError:  # no folder that may be written to, neither beside the package nor of the user
            return njit(nogil=True, fastmath=flags)(function)

    return decorate


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a function of numbers into the loops that call it."""
    return njit(fastmath=FUSED, forceinline=True)(function)


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, byte: Any) -> Any:
    """Ask for the line of the cache at a byte of an array, and do not wait for it; where there is none, do nothing."""

    def generated(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        start = builder.bitcast(context.make_array(signature.args[0])(context, builder, values[0]).data, pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        builder.call(ask, [builder.gep(start, [values[1]]), flag(0), flag(3), flag(1)])  # to read, all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), generated


def exp2(y: Any) -> Any:
    """Return 2^y for y <= 0, to a unit or two in the last place; far below, where it hardly counts, 2^-1021 or 2^-125.

    Adding 1.5 x 2^52 rounds y to a whole number k, which then stands in the last bits of the sum; 2^(y - k) is a
    polynomial, interpolated at the zeros of a Chebyshev polynomial (single: the best in the sense of the maximum) and
    exactly one at zero; and k is added to its exponent. There is nothing in it that a vector unit cannot do.
    """
    return np.exp2(y)


@inlined
def _exp2_double(y: Any) -> Any:
    y = -1021.0 if y < -1021.0 else y  # in this order NaN stays
    shifted = y + 6755399441055744.0
    r = y - (shifted - 6755399441055744.0)
    power = 7.072585949269223e-09
    power = power * r + 1.0208690299958306e-07
    power = power * r + 1.321544258792169e-06
    power = power * r + 1.5252657260200837e-05
    power = power * r + 0.0001540353044173605
    power = power * r + 0.0013333558230164974
    power = power * r + 0.009618129107606888
    power = power * r + 0.05550410866444772
    power = power * r + 0.24022650695910097
    power = power * r + 0.69314718055995
    power = power * r + 1.0
    bits = np.float64(power).view(np.int64) + (np.float64(shifted).view(np.int64) << 52)
    return np.int64(bits).view(np.float64)


@inlined
def _exp2_single(y: Any) -> Any:
    y = np.float32(-125.0) if y < np.float32(-125.0) else y
    shifted = y + np.float32(12582912.0)
    r = y - (shifted - np.float32(12582912.0))
    power = np.float32(0.001326473333134731)
    power = power * r + np.float32(0.009671512643008305)
    power = power * r + np.float32(0.0555073372426526)
    power = power * r + np.float32(0.2402224208609109)
    power = power * r + np.float32(0.6931469776096264)
    power = power * r + np.float32(1.0)
    bits = np.float32(power).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23))
    return np.int32(bits).view(np.float32)


def _exp2(y: Any) -> Callable[[Any], Any]:
    """Return which of them takes numbers of this type, while a loop is compiled."""
    return (lambda y: _exp2_double(y)) if y == types.float64 else (lambda y: _exp2_single(y))


overload(exp2, jit_options={"fastmath": FUSED, "forceinline": True}, strict=False)(_exp2)
