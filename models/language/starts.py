"""Where iterative inference starts."""

import numpy as np
from jaxtyping import Float

MOST_ROWS = 100_000  # more tell no more about where to start


def some_rows(x: Float[np.ndarray, "rows dims"], rng: np.random.Generator) -> Float[np.ndarray, "some dims"]:
    """Return the rows in float64, or some of them, drawn at random, where they are many."""
    if len(x) > MOST_ROWS:
        x = x[np.unique(rng.integers(len(x), size=MOST_ROWS))]
    return np.asarray(x, dtype=np.float64)


def spread_rows(
    x: Float[np.ndarray, "rows dims"], size: int, rng: np.random.Generator
) -> Float[np.ndarray, "size dims"]:
    """Draw `size` rows far from one another: each with probability proportional to its squared distance from the last.

    The seeding of k-means++ (Arthur & Vassilvitskii, 2007). Where fewer distinct rows than `size` exist, the rest are
    drawn uniformly, so that more components than rows is a start like any other.
    """
    chosen = [x[rng.integers(x.shape[0])]]
    squared = np.full(x.shape[0], np.inf)
    for _ in range(1, size):
        np.minimum(squared, ((x - chosen[-1]) ** 2).sum(1), out=squared)
        cumulative = np.cumsum(squared)
        last = float(cumulative[-1])
        drawn = rng.random()
        row = np.searchsorted(cumulative, drawn * last, side="right") if last > 0.0 else int(drawn * x.shape[0])
        chosen.append(x[min(int(row), x.shape[0] - 1)])
    return np.array(chosen)
