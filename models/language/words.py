"""Words as an array: what all rows share, such as a vocabulary or the names of columns, travels with the data."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8


def pack(words: Sequence[str]) -> UInt8[np.ndarray, "bytes"]:
    """Return words as an array: UTF-8, with a line feed between them, which no word may hold."""
    return np.frombuffer("\n".join(words).encode(), dtype=np.uint8).copy()


def unpack(array: UInt8[np.ndarray, "bytes"]) -> tuple[str, ...]:
    """Return the words that `pack` made an array of."""
    text = np.asarray(array, dtype=np.uint8).tobytes().decode()
    return tuple(text.split("\n")) if text else ()
