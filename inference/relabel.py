"""The labels of exchangeable components, matched: two posteriors may differ by nothing but a permutation of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from latentzoo.models.language.errors import UserError

ROUNDING = 1e-12  # of the size of a site: an sd below it is that of a constant, whose mean was rounded


def permutation(
    draws: Mapping[str, np.ndarray],
    reference: Mapping[str, np.ndarray],
    dims: Mapping[str, tuple[str, ...]],
    plate: str | None,
) -> np.ndarray:
    """Return the order that brings the components of `draws` nearest to those of `reference`: `draws[order]`.

    The order has the least sum of squared distances between posterior means (the Hungarian method), each site in units
    of its pooled posterior sd. There is one such unit a site: the mean of both posteriors' variances, of each the
    median over components and coordinates, so that an empty component, as wide as the prior, does not drown the
    others. A site that is a point in both, or whose sd is not finite, is in units of the spread of its components in
    the reference.

    Parameters
    ----------
    draws, reference: by site, arrays of shape (..., *sizes of dims[site]): any leading axes, of draws or of chains and
        draws, which may differ; true values have none.
    dims: the names of the dimensions of each site, without the leading axes; a site that is not named has none.
    plate: the dimension whose labels mean nothing.

    Returns
    -------
    (K,): `order[k]` is the component of `draws` that matches component k of `reference`; the identity where nothing
    tells them apart, and an empty array where `plate` is None or no site of `draws` has it.

    Raises
    ------
    UserError: a site has another shape in `reference` than in `draws`.
    """
    bearing = [site for site in draws if plate is not None and plate in dims.get(site, ())]
    if not bearing:
        return np.arange(0)
    # A site with the plate twice, such as a matrix of transitions, is moved but not measured: the distance between two
    # of its rows would depend on the order that is sought.
    shared = [site for site in bearing if site in reference and dims[site].count(str(plate)) == 1]
    if not shared:
        first = bearing[0]
        return np.arange(np.shape(draws[first])[dims[first].index(str(plate)) - len(dims[first])])
    columns = [_in_units(site, draws[site], reference[site], dims[site], str(plate)) for site in shared]
    mine, theirs = (np.concatenate(side, axis=1) for side in zip(*columns, strict=True))
    return _nearest(mine, theirs)


def relabelled(
    draws: Mapping[str, np.ndarray], order: np.ndarray, dims: Mapping[str, tuple[str, ...]], plate: str | None
) -> dict[str, np.ndarray]:
    """Return the draws with their components in this order, along every dimension that bears the plate's name.

    Shapes stay as they are; sites without the plate are returned untouched.
    """
    moved = dict(draws)
    for site, values in draws.items():
        own = dims.get(site, ())
        for axis, dim in enumerate(own):
            if plate is not None and dim == plate:
                moved[site] = np.take(moved[site], order, axis=axis - len(own) + np.ndim(values))
    return moved


def _nearest(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return for each row of `theirs` the row of `mine` that it is matched with."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(theirs, mine, "sqeuclidean")
    finite = np.isfinite(cost)
    # Draws that overflowed are far from everything; the method itself refuses what is not finite.
    most = cost[finite].max(initial=0.0)
    return linear_sum_assignment(np.where(finite, cost, 2.0 * most + 1.0))[1]


def _in_units(
    site: str, draws: np.ndarray, reference: np.ndarray, dims: tuple[str, ...], plate: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of both, a row for each component, in units of the site's pooled posterior sd."""
    (mine, my_variance), (theirs, their_variance) = (_moments(values, len(dims)) for values in (draws, reference))
    if mine.shape != theirs.shape:
        raise UserError(f"{site} has shape {mine.shape} in the draws and {theirs.shape} in the reference")
    rows = [
        np.moveaxis(mean, dims.index(plate), 0).reshape(mean.shape[dims.index(plate)], -1) for mean in (mine, theirs)
    ]
    least = ROUNDING**2 * float(np.mean(rows[1] ** 2))
    choices = (0.5 * (my_variance + their_variance), float(rows[1].var(0).mean()))
    unit = next((np.sqrt(variance) for variance in choices if np.isfinite(variance) and variance > least), 1.0)
    return rows[0] / unit, rows[1] / unit


def _moments(values: np.ndarray, num_dims: int) -> tuple[np.ndarray, float]:
    """Return the means over the leading axes, and the median over everything else of the variances."""
    values = np.asarray(values, dtype=np.float64)
    leading = tuple(range(values.ndim - num_dims))
    with np.errstate(invalid="ignore", over="ignore"):
        variance = np.nan_to_num(values.var(leading), nan=np.inf)  # of draws that overflowed
        return values.mean(leading), float(np.median(variance))


def aligned(
    chains: Sequence[Mapping[str, np.ndarray]], dims: Mapping[str, tuple[str, ...]], plate: str | None
) -> dict[str, np.ndarray]:
    """Return the chains stacked along a new first axis, the labels of each matched to those of the first."""
    first = chains[0]
    matched = [relabelled(chain, permutation(chain, first, dims, plate), dims, plate) for chain in chains]
    return {site: np.stack([chain[site] for chain in matched]) for site in first}
