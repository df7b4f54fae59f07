"""The exponential of the kernels by itself, over and over on the same block."""

from typing import Any

from latentzoo.inference.kernels.numba_loops import FUSED, compiled, exp2


@compiled(FUSED)
def exponentials(numbers: Any, out: Any, rounds: Any) -> None:
    """Write 2^x of a block of numbers into another, so many times."""
    for _ in range(rounds):
        for i in range(numbers.size):
            out[i] = exp2(numbers[i])
