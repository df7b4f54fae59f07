"""What the logits of a mixture are linear in: the sufficient statistics of its rows, given as a recipe.

The recipe, rather than an array of features x rows, lets each executor make the features of a few rows where it needs
them, in a core's cache. They are measured from a centre, which is subtracted before anything is squared: at coordinates
of 1e6 the logits would otherwise lose ten digits.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference.arrays import namespace

# What a quadratic form of a row is linear in: nothing, x_i^2 each, their sum, or x_i x_j for j <= i.
Quadratic = Literal["none", "squares", "length", "products"]


class Moments(NamedTuple):
    """The features of a row, in this order: 1, x - centre, the quadratic terms of x - centre, and `more` as it is."""

    x: Float[Any, "rows d"]
    centre: Float[Any, "d"]
    quadratic: Quadratic
    more: Float[Any, "rows e"] | None = None

    @property
    def num_features(self) -> int:
        """How many numbers a row has."""
        size = self.x.shape[1]
        terms = {"none": 0, "squares": size, "length": 1, "products": size * (size + 1) // 2}
        return 1 + size + terms[self.quadratic] + (0 if self.more is None else self.more.shape[1])

    def take(self, rows: Any) -> "Moments":
        """Return the recipe for some rows."""
        return self._replace(x=self.x[rows], more=None if self.more is None else self.more[rows])


def features(moments: Moments) -> Float[Any, "features rows"]:
    """Return the features, a column for each row, in the precision of the rows."""
    if namespace(moments.x) is namespace(moments.centre) is np:
        return fill(moments, np.empty((moments.num_features, len(moments.x)), moments.x.dtype))
    x, centre, quadratic, more = moments
    columns = (x - centre).T.astype(x.dtype)
    xp = namespace(columns)
    lower = np.tril_indices(len(columns))
    terms = {
        "none": lambda: columns[:0],
        "squares": lambda: columns * columns,
        "length": lambda: (columns * columns).sum(0)[None],
        "products": lambda: columns[lower[0]] * columns[lower[1]],
    }
    last = columns[:0] if more is None else more.T.astype(x.dtype)
    return xp.concatenate([xp.ones_like(columns[:1]), columns, terms[quadratic](), last])


def fill(moments: Moments, out: Float[np.ndarray, "features rows"]) -> Float[np.ndarray, "features rows"]:
    """Write the features of NumPy rows into an array, and return it."""
    x, centre, quadratic, more = moments
    size = x.shape[1]
    columns, terms = out[1 : 1 + size], out[1 + size :]
    out[0] = 1.0
    np.subtract(x.T, np.asarray(centre)[:, None], out=columns, casting="same_kind")
    if quadratic == "squares":
        np.multiply(columns, columns, out=terms[:size])
    elif quadratic == "length":
        np.einsum("ij,ij->j", columns, columns, out=terms[0])
    elif quadratic == "products":
        for i in range(size):
            start = i * (i + 1) // 2
            np.multiply(columns[i], columns[: i + 1], out=terms[start : start + i + 1])
    if more is not None:
        out[len(out) - more.shape[1] :] = more.T
    return out
