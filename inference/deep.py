"""What is measured of deep models, by their hand-derived closed forms: bounds by draws, L_K, surgery, active units.

With q_n = q(latent | x_n), w = p(x, latent) / q(latent), and q_agg = (1/N) sum_n q_n:

    (1)  ELBO = E_q log w                                        its mean over draws, with its standard error
    (2)  L_K  = E log (1/K) sum_k w_k  <=  log p(x)              from K draws (Burda et al., 2016)
    (3)  (1/N) sum_n KL(q_n || p) = I_q + KL(q_agg || p)         surgery (Hoffman & Johnson, 2016)
    (4)  I_q = (1/N) sum_n E_{q_n} log q_n / q_agg  <=  log N    what the codes tell of which row they are of
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from latentzoo.inference.accumulate import chunks
from latentzoo.inference.codes import Gaussian
from latentzoo.inference.importance import Evidence, of_log_weights
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

BOUND_DRAWS = 30  # of a bound
CHUNK_ROWS = 2048
ACTIVE = 0.01  # the variance of a code's mean over rows, from which on its unit is active (Burda et al., 2016)
NODES = 40  # of the quadrature along a latent coordinate
MOST_NODES = 2000  # of the whole grid: up to two coordinates


def bound(
    zoo: "Entry", data: Any, prior: Any, params: Params, *, num_draws: int = BOUND_DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return the ELBO (1) of the data, in nats, and its standard error; 0 where it has no noise."""
    num_draws = num_draws if _is_noisy(zoo, data) else 1
    each = np.array([rows.sum() for rows in _draws(zoo.closed_form.bounds, zoo, data, prior, params, num_draws, seed)])
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(num_draws)) if num_draws > 1 else 0.0


def _is_noisy(zoo: "Entry", data: Any) -> bool:
    """Return whether a draw of the guide has noise: where all is summed out, one says it all."""
    return bool(zoo.closed_form.noise(contract.take_rows(data, slice(0, 1)), zoo.spec, np.random.default_rng(0)))


def evidence(
    zoo: "Entry",
    data: Any,
    params: Params,
    *,
    prior: Any = None,
    num_particles: int = 1000,
    seed: int = 0,
) -> Evidence:
    """Estimate log p(x) of each row by L_K (2), by hand; `importance.evidence` does so by either library.

    Discrete sites are summed out of the weights, so that with them L_1 may be above the ELBO. What is known of a row
    beside x, such as a label, is part of its evidence.

    num_particles: K, the draws for each row.

    Raises
    ------
    UserError: the model is no deep one, or num_particles is too small.
    """
    _check_deep(zoo)
    contract.check_whole("num_particles", num_particles, least=2)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior, data)
    params = zoo.check_params(params)
    parts = []
    for number, part in enumerate(chunks(data, max(CHUNK_ROWS * 100 // num_particles, 1))):
        drawn = _draws(zoo.closed_form.log_weights, zoo, part, prior, params, num_particles, seed + number)
        parts.append(of_log_weights(np.stack(list(drawn))))
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "ess", "khat"))
    rows, ess, khat = columns
    return Evidence(float(rows.sum()), float(np.sqrt(sum(part.error**2 for part in parts))), rows, ess, khat)


def _draws(
    function: Any, zoo: "Entry", data: Any, prior: Any, params: Params, num_draws: int, seed: int
) -> Iterator[Float[np.ndarray, "rows"]]:
    """Yield a function of the rows at one draw of the noise after another."""
    rng = np.random.default_rng(seed)
    for _ in range(num_draws):
        parts = []
        for part in chunks(data, CHUNK_ROWS):
            parts.append(function(params, part, prior, zoo.closed_form.noise(part, zoo.spec, rng), zoo.spec))
        yield np.concatenate(parts)


def _check_deep(zoo: "Entry") -> None:
    if zoo.is_exact:
        raise UserError(f"{zoo.name} has its bound in closed form: it needs no draws")
    check_by_hand(zoo)


def check_by_hand(zoo: "Entry") -> None:
    """Raise `UserError` where a model has networks of the user's own, of which nothing is known by hand."""
    if getattr(zoo.spec, "networks", None) is not None:
        raise UserError(
            "networks of your own have no derivation by hand: train them by the library's SVI, with zoo.model,"
            " zoo.guide and zoo.loss"
        )


# --- the codes --------------------------------------------------------------------------------------------------------


class Surgery(NamedTuple):
    """The parts of the divergence that the ELBO pays, in nats a row, and which latent coordinates are used.

    mean_kl: (3), the mean of KL(q_n || p). information: I_q (4), of at most log N. aggregate_kl: KL(q_agg || p), how
    far all codes together are from the prior: what makes samples from the prior poor. most: log N. active: for each
    latent coordinate, the variance of the mean of its code over the rows, small where the code ignores the row.
    """

    mean_kl: float
    information: float
    aggregate_kl: float
    most: float
    active: Float[np.ndarray, "latents"]

    @property
    def num_active(self) -> int:
        """The number of coordinates whose code varies over the rows."""
        return int((self.active > ACTIVE).sum())


def surgery(zoo: "Entry", data: Any, params: Params, *, num_draws: int = 20, seed: int = 0) -> Surgery:
    """Return what the Gaussian codes of some rows tell (3), by quadrature where the coordinates are one or two.

    With more, by so many draws for each row. Every row is weighed against every other one: give some hundreds.

    Raises
    ------
    UserError: the model has no Gaussian codes.
    """
    if not hasattr(zoo.closed_form, "posterior"):
        raise UserError(f"{zoo.name} has no Gaussian codes: surgery is of models with an encoder")
    q: Gaussian = zoo.closed_form.posterior(zoo.check_params(params), zoo.check(data), zoo.spec)
    num_rows, num_latents = q.loc.shape
    rng, information = np.random.default_rng(seed), 0.0
    for row in range(num_rows):
        eps, weights = _nodes(num_latents, num_draws, rng)
        z = Gaussian(q.loc[row, None], q.scale[row, None]).push(eps)
        log_q = Gaussian(q.loc[row], q.scale[row]).log_prob_at(eps)
        log_aggregate = logsumexp(q.log_prob(z[:, None]), axis=1) - np.log(num_rows)
        information += float(weights @ (log_q - log_aggregate)) / num_rows
    mean_kl = float(q.kl().mean())
    return Surgery(mean_kl, information, mean_kl - information, float(np.log(num_rows)), q.loc.var(0))


def _nodes(num_latents: int, num_draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes of standard normal noise and their weights: Gauss and Hermite's on a grid, or draws."""
    if NODES**num_latents > MOST_NODES:
        return rng.normal(size=(num_draws, num_latents)), np.full(num_draws, 1.0 / num_draws)
    line, weight = np.polynomial.hermite_e.hermegauss(NODES)
    grid = np.stack(np.meshgrid(*[line] * num_latents, indexing="ij"), -1).reshape(-1, num_latents)
    weights = np.prod(np.stack(np.meshgrid(*[weight] * num_latents, indexing="ij"), -1), -1).reshape(-1)
    return grid, weights / weights.sum()
