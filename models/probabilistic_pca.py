"""Probabilistic PCA: rows of numbers are a few latent coordinates seen through a linear map, with noise.

    latent[n] ~ Normal(0, I)                                      z_n      num_latents coordinates
    x[n]      ~ Normal(weight latent[n] + loc, noise_variance I)  x_n      one number for each feature

weight, loc and noise_variance are W, mu and sigma^2: point parameters, without priors (Tipping & Bishop, 1999). With
the latent coordinates integrated out, x[n] ~ Normal(loc, W W' + sigma^2 I). A cell that is missing (NaN) adds nothing:
the likelihood is that of the observed ones, which is right where the cells are missing at random.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from latentzoo.models.language.contract import Reading, missing, optional, shared
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Handle
from latentzoo.models.language.words import pack
from latentzoo.models.readers.table import names_of, read_table, write_table

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
MOST_LATENTS = 1000
# A noise variance below this part of all variance is rounding: float64 knows no less of a covariance.
LEAST_NOISE = 1e-13
CHUNK_ROWS = 4096  # that are visited at once


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    num_latents: the number of latent coordinates, d; fewer than there are features.
    """

    num_latents: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.num_latents <= MOST_LATENTS:
            raise UserError(f"num_latents is {self.num_latents}: it must be from 1 to {MOST_LATENTS:,}")


class Data(NamedTuple):
    """A table of numbers.

    x: a row for each observation, a column for each feature; NaN where a cell is missing.
    columns: the names of the features, as `pack` makes an array of them, for tables and pictures.
    """

    x: Annotated[Float[Any, "rows features"], missing] = None
    columns: Annotated[UInt8[Any, "characters"], optional, shared] = None


class Prior(NamedTuple):
    """No hyperparameters: maximum likelihood."""


class Theta(NamedTuple):
    """Point parameters, all real-valued.

    weight: W, a column for each latent coordinate. Its columns may be rotated: W R and R' z_n are the same model.
    loc: mu, the mean of each feature.
    noise_log_scale: log sigma, half the logarithm of the noise variance.
    """

    weight: Float[Any, "features num_latents"]
    loc: Float[Any, "features"]
    noise_log_scale: Float[Any, ""]


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta, spec: Spec) -> Data:
    """Tell how the rows come about."""
    dist, xp = ppl.dist, ppl.xp
    weight = ppl.deterministic("weight", theta.weight)
    loc = ppl.deterministic("loc", theta.loc)
    noise_variance = ppl.deterministic("noise_variance", xp.exp(2 * theta.noise_log_scale))
    zero = xp.zeros_like(weight[..., 0, :])

    with ppl.rows("rows", data):
        latent = ppl.sample("latent", dist.Normal(zero, zero + 1).to_event(1))
        cells = dist.Normal(latent @ xp.swapaxes(weight, -1, -2) + loc, xp.sqrt(noise_variance))
        if data.x is None:
            return Data(ppl.sample("x", cells.to_event(1)), data.columns)
        observed = ~xp.isnan(data.x)
        # Under the mask any finite value will do: NaN would spoil the gradient.
        values = xp.where(observed, data.x, xp.zeros_like(data.x))
        return Data(ppl.sample("x", cells.mask(observed).to_event(1), obs=values), data.columns)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    features = ("features",)
    return {"weight": ("features", "latents"), "loc": features, "latent": ("latents",), "x": features}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return the prior, which is empty."""
    return Prior()


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return None: no labels can be permuted.

    The columns of the weight can be rotated, of which a permutation is a special case; what does not change under a
    rotation, such as W W', the directions of the most variance and the likelihood, is what fits can be compared by.
    """
    return None


class Directions(NamedTuple):
    """The directions of the most variance, which are the same however W is rotated: W = directions diag(s) rotation'.

    directions: a column of length one for each, its largest entry positive.
    rotation: rotation' z are the latent coordinates along them.
    variance: of x along each, s^2 + sigma^2; along every other direction it is sigma^2. shares: of all variance.
    """

    directions: Float[np.ndarray, "features latents"]
    rotation: Float[np.ndarray, "latents latents"]
    variance: Float[np.ndarray, "latents"]
    shares: Float[np.ndarray, "latents"]


def directions(theta: Theta) -> Directions:
    """Return the directions of the most variance, that of the most first."""
    left, singular, right = np.linalg.svd(np.asarray(theta.weight), full_matrices=False)
    signs = np.sign(left[np.abs(left).argmax(0), np.arange(len(singular))])
    noise = np.exp(2.0 * theta.noise_log_scale)
    variance = singular**2 + noise
    return Directions(signs * left, signs * right.T, variance, variance / ((singular**2).sum() + len(left) * noise))


# --- what can be fitted ---------------------------------------------------------------------------------------------


class Survey(NamedTuple):
    """What is known of data before they are fitted.

    whole: whether no cell is missing. mean, variance: of the observed cells of each column.
    scatter: the sum over rows of c c', c = x - mean, 0 where it is missing; or of its projections.
    """

    whole: bool
    mean: Float[np.ndarray, "features"]
    variance: Float[np.ndarray, "features"]
    scatter: Float[np.ndarray, "k k"]


def survey(data: Data, spec: Spec, onto: Float[np.ndarray, "features k"] | None = None) -> Survey:
    """Return the moments of data that can be fitted; onto: what the rows are projected on for the scatter.

    Raises
    ------
    UserError: there are too few rows or columns, a column is empty, or nothing varies.
    """
    x, size = np.asarray(data.x), spec.num_latents
    num_rows, num_features = x.shape
    if size >= num_features:
        raise UserError(f"num_latents is {size}: it must be below the number of features, which is {num_features}")
    if num_rows < 2:
        raise UserError("data.x has 1 row: give at least 2, or nothing varies")
    # About a value of the column itself, so that one that never varies has a variance of exactly zero.
    reference, count, total = _first_cells(x), np.zeros(num_features), np.zeros(num_features)
    for seen, shifted in _chunks(x, reference):
        count += seen
        total += shifted.sum(0)
    mean, squared = reference + total / count, np.zeros(num_features)
    scatter = np.zeros((num_features, num_features) if onto is None else (onto.shape[1],) * 2)
    for _, centred in _chunks(x, mean):
        squared += np.einsum("ni,ni->i", centred, centred)
        projected = centred if onto is None else centred @ onto
        scatter += projected.T @ projected
    if not squared.any():
        raise UserError("data.x has one number in all rows of each column: nothing varies")
    return Survey(bool((count == num_rows).all()), mean, squared / count, scatter)


def _first_cells(x: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "features"]:
    """Return the first observed cell of each column."""
    first = np.array(x[0], dtype=np.float64)
    for column in np.flatnonzero(np.isnan(first)):
        row = np.isnan(x[:, column]).argmin()
        first[column] = x[row, column]
        if np.isnan(first[column]):
            raise UserError(f"data.x[:, {column}] has no observed cell: leave this column out")
    return first


def _chunks(
    x: Float[np.ndarray, "rows features"], loc: Float[np.ndarray, "features"]
) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield, some rows at a time, how many cells each column has, and the rows about a point, 0 where missing."""
    memory = np.empty((min(CHUNK_ROWS, len(x)), len(loc)))
    for start in range(0, len(x), CHUNK_ROWS):
        rows = x[start : start + CHUNK_ROWS]
        centred = np.subtract(rows, loc, out=memory[: len(rows)])
        missing_cells = np.isnan(centred)
        if not missing_cells.any():
            yield len(rows), centred
            continue
        centred[missing_cells] = 0.0
        yield len(rows) - missing_cells.sum(0), centred


def check_maximum(data: Data, spec: Spec) -> Survey:
    """Return the moments of data whose likelihood has a maximum, as far as can be told before they are fitted.

    It has none where the rows vary along no more directions than the latents explain: the noise falls to zero. The
    directions are counted, up to one more than the latents, by the rank of a random projection. With missing cells that
    cannot be told beforehand.

    Raises
    ------
    UserError: as `survey`, or the likelihood has no maximum.
    """
    most = spec.num_latents + 1
    plane, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(np.shape(data.x)[1], most)))
    found = survey(data, spec, onto=plane)
    variance = np.linalg.eigvalsh(found.scatter)
    rank = int((variance > LEAST_NOISE * variance[-1]).sum())
    if found.whole and rank < most:
        raise no_maximum(rank, spec.num_latents)
    return found


def no_maximum(rank: int, num_latents: int) -> UserError:
    """Return the error of rows that vary along so many directions only."""
    along = f"{rank} direction{'' if rank == 1 else 's'}"
    fewer = f"num_latents below {rank}, " if rank > 1 else ""
    return UserError(
        f"data.x varies along {along} only, beside which the others are rounding: with num_latents = {num_latents} the"
        f" likelihood has no maximum; take {fewer}more rows, or columns of like scale"
    )


def read(
    path: str | PathLike[str],
    spec: Spec,
    *,
    columns: tuple[str, ...] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Reading:
    """Read a table in CSV; return it with one line on what was read and what was left out.

    Cells that are empty, NA, NaN or ? are missing.

    columns: the names of the features, in the order wanted; without them, every column of numbers.
    on_bad: "error" refuses a file with cells that are no finite numbers, "skip" leaves their rows out and says so.
    """
    table = read_table(path, columns=columns, on_bad=on_bad, missing=True)
    return Reading(Data(table.x, pack(table.columns)), str(table.report), table.report.num_rows - table.report.num_kept)


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write a table in the CSV that `read` reads without options."""
    write_table(path, data.x, names_of(data, data.x.shape[1]))


def options_like(data: Data) -> dict[str, Any]:
    """Return the options with which another file is read as these data were: the same columns, in the same order."""
    return {} if data.columns is None else {"columns": names_of(data)}
