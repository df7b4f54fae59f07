"""Gaussian mixture: rows gather around a few centres, each with a covariance of its own or one that all share.

    weights      ~ Dirichlet(concentration)                        pi
    precision[k] ~ Wishart(2 shape, (2 rate)^-1)                   Lambda_k   (or independent Gammas, see below)
    loc[k]       ~ Normal(loc_mean, (loc_strength precision[k])^-1)  mu_k
    component[n] ~ Categorical(weights)                            z_n
    x[n]         ~ Normal(loc[component[n]], precision[component[n]]^-1)

The mixture of Bishop (2006), chapter 9 with point parameters, chapter 10.2 as a Bayesian model. A precision is a matrix
for each component ("full") or for all of them ("tied"), a vector ("diag") or a number ("spherical"). Its prior has a
shape a and a rate B in each case, with density proportional to |Lambda|^(a - (D + 1) / 2) exp(-tr(B Lambda)): a Wishart
with nu = 2 a degrees of freedom and W^-1 = 2 B, or Gamma(a, B) for each number of a vector.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from latentzoo.models.language import stream
from latentzoo.models.language.contract import Constraint, Reading, optional, positive, shared
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.language.words import pack
from latentzoo.models.readers.table import names_of, read_table, write_table

MAX_PLATE_NESTING = 1
ROWS = ("rows",)
MOST_COMPONENTS = 100_000


def _is_positive(rate: np.ndarray) -> np.ndarray:
    """Return whether the numbers are positive, those of a matrix in the sense of a definite one."""
    if rate.ndim < 2:
        return rate > 0.0
    return np.array(np.array_equal(rate, rate.T) and bool(np.all(np.linalg.eigvalsh(rate) > 0.0)))


positive_definite = Constraint("positive, a matrix symmetric and positive definite", _is_positive)


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    num_components: the number of components, K.
    covariance_type: "full": a matrix for each component; "tied": one matrix; "diag": variances for each; "spherical":
        one variance for each.
    reg_covar: added to every variance by an update of EM, as scikit-learn does; the likelihood may then fall.
    """

    num_components: int = 3
    covariance_type: Literal["full", "tied", "diag", "spherical"] = "full"
    reg_covar: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.num_components <= MOST_COMPONENTS:
            raise UserError(f"num_components is {self.num_components}: it must be from 1 to {MOST_COMPONENTS:,}")
        if not 0.0 <= self.reg_covar < np.inf:
            raise UserError(f"reg_covar is {self.reg_covar}: it must be 0 or more, in the units of the data squared")

    @property
    def is_matrix(self) -> bool:
        """Whether a precision is a matrix."""
        return self.covariance_type in ("full", "tied")


class Data(NamedTuple):
    """A table of numbers.

    x: a row for each observation, a column for each feature, in any units.
    columns: the names of the features, as `pack` makes an array of them, for tables and pictures.
    """

    x: Float[Any, "rows features"] = None
    columns: Annotated[UInt8[Any, "characters"], optional, shared] = None


class Prior(NamedTuple):
    """Hyperparameters; "em" leaves all of them out.

    weights_concentration: of the Dirichlet prior of the weights; "map" needs at least 1.
    loc_mean: where centres lie.
    loc_strength: how many rows the prior of a centre is worth, beta_0.
    precision_shape: a of the precision's prior: half the degrees of freedom of a Wishart.
    precision_rate: B of the precision's prior, in the units of the data squared: (D, D), (D,) or one number, as the
        type of the covariance asks for.
    """

    weights_concentration: Annotated[Float[Any, "num_components"], positive, optional] = None
    loc_mean: Annotated[Float[Any, "features"], optional] = None
    loc_strength: Annotated[Float[Any, ""], positive, optional] = None
    precision_shape: Annotated[Float[Any, ""], positive, optional] = None
    precision_rate: Annotated[Float[Any, "..."], positive_definite, optional] = None


class Theta(NamedTuple):
    """Point parameters, all real-valued.

    weights_logits: of the weights, up to a constant.
    loc: the centres.
    raw_scale: the Cholesky factors of the covariances, with the logarithm of their diagonals: (K, D, D), or (D, D) for
        "tied"; for "diag" and "spherical" the logarithms of standard deviations, (K, D) and (K,).
    """

    weights_logits: Float[Any, "num_components"]
    loc: Float[Any, "num_components features"]
    raw_scale: Float[Any, "..."]


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta | None, spec: Spec) -> Data:
    """Tell how a table comes about."""
    dist = ppl.dist
    weights = ppl.parameter(
        "weights", theta and ppl.nn.softmax(theta.weights_logits), dist.Dirichlet, prior.weights_concentration
    )
    held = theta and precision_of(ppl, theta.raw_scale, spec)
    wishart = (wishart_like, ppl, prior.precision_shape, prior.precision_rate, spec)

    if spec.covariance_type == "tied":
        precision = ppl.parameter("precision", held, *wishart)
    with ppl.plate("components", spec.num_components):
        if spec.covariance_type != "tied":
            precision = ppl.parameter("precision", held, *wishart)
        loc = ppl.parameter(
            "loc", theta and theta.loc, centre, ppl, prior.loc_mean, prior.loc_strength, precision, spec
        )

    with ppl.rows("rows", data):
        component = ppl.sample("component", dist.Categorical(weights), infer=ENUMERATE)
        if spec.covariance_type != "tied":
            precision = ppl.at(precision, component, event_dim=precision_event_dim(spec))
        x = gaussian(ppl, ppl.at(loc, component, event_dim=1), precision, spec)
        return Data(ppl.sample("x", x, obs=data.x), data.columns)


def gaussian(ppl: Handle, loc: Any, precision: Any, spec: Spec) -> Any:
    """Return Normal(loc, precision^-1) over the features."""
    if spec.is_matrix:
        return ppl.dist.MultivariateNormal(loc, precision_matrix=precision)
    if spec.covariance_type == "spherical":
        precision = precision[..., None]
    return ppl.dist.Normal(loc, 1.0 / ppl.xp.sqrt(precision)).to_event(1)


def centre(ppl: Handle, mean: Any, strength: Any, precision: Any, spec: Spec) -> Any:
    """Return the distribution of a centre, given the precision of its component."""
    return gaussian(ppl, mean, strength * precision, spec)


def wishart_like(ppl: Handle, shape: Any, rate: Any, spec: Spec) -> Any:
    """Return the distribution of a precision with a shape and a rate."""
    if spec.covariance_type == "diag":
        return ppl.dist.Gamma(shape[..., None], rate).to_event(1)
    if spec.covariance_type == "spherical":
        return ppl.dist.Gamma(shape, rate)
    scale = ppl.xp.linalg.cholesky(ppl.xp.linalg.inv(2.0 * rate))
    return ppl.dist.Wishart(2.0 * shape, scale_tril=scale)


def precision_of(ppl: Handle, raw_scale: Any, spec: Spec) -> Any:
    """Return the precision of the covariance with this raw scale."""
    if not spec.is_matrix:
        return ppl.xp.exp(-2.0 * raw_scale)
    inverse = ppl.xp.linalg.inv(ppl.nn.cholesky(raw_scale))
    return ppl.xp.swapaxes(inverse, -1, -2) @ inverse


def precision_event_dim(spec: Spec) -> int:
    """Return how many dimensions a precision has: 2 of a matrix, 1 of a vector, 0 of a number."""
    return {"full": 2, "tied": 2, "diag": 1, "spherical": 0}[spec.covariance_type]


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    precision = ("features", "other features")[: precision_event_dim(spec)]
    return {"loc": ("features",), "x": ("features",), "weights": ("components",), "precision": precision}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return a weakly informative prior: of the scale of the data when they are given, else around 0 in the plane.

    Centres spread as the rows do; the covariance is such that K components tile that spread.
    """
    if data is None or data.x is None:
        mean, variance = np.zeros(2), np.full(2, 25.0)
    else:
        mean, variance = np.asarray(data.x).mean(0, dtype=np.float64), stream.variance(data.x)
    variance = np.where(variance > 0.0, variance, 1.0)  # a single row, or duplicates of one, has no scale of its own
    size = len(mean)
    share = spec.num_components ** (-2.0 / size)  # of the variance, which each component has
    rates = {
        "full": (size + 2.0) / 2.0,  # nu = D + 2: the expected covariance is then that of the tiling
        "tied": (size + 2.0) / 2.0,
        "diag": 2.0,
        "spherical": 2.0,
    }
    rate = {
        "full": np.diag(variance) * share / 2.0,
        "tied": np.diag(variance) * share / 2.0,
        "diag": variance * share,
        "spherical": np.array(variance.mean() * share),
    }[spec.covariance_type]
    return Prior(
        weights_concentration=np.ones(spec.num_components),
        loc_mean=mean,
        loc_strength=np.array(share),
        precision_shape=np.array(rates[spec.covariance_type]),
        precision_rate=rate,
    )


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return the plate whose labels mean nothing: the components, unless the prior tells them apart."""
    told = prior.weights_concentration
    return "components" if told is None or np.ptp(told) == 0.0 else None


def read(
    path: str | PathLike[str],
    spec: Spec,
    *,
    columns: tuple[str, ...] | None = None,
    on_bad: Literal["error", "skip"] = "error",
) -> Reading:
    """Read a table in CSV; return it with one line on what was read and what was left out.

    columns: the names of the columns to take; without them all that hold nothing but numbers.
    on_bad: "error" refuses a file with rows that cannot be used, "skip" leaves them out and says so.
    """
    table = read_table(path, columns=columns, on_bad=on_bad)
    return Reading(Data(table.x, pack(table.columns)), str(table.report), table.report.num_rows - table.report.num_kept)


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write a table in the CSV that `read` reads without options."""
    write_table(path, data.x, names_of(data, data.x.shape[1]))


def options_like(data: Data) -> dict[str, Any]:
    """Return the options with which another file is read as these data were: the same columns, in the same order."""
    return {} if data.columns is None else {"columns": names_of(data)}
