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
from latentzoo.inference.importance import FEWEST, GOOD_KHAT, Evidence, of_log_weights
from latentzoo.inference.progress import progress as progress_bar
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError

if TYPE_CHECKING:
    from latentzoo.inference.registry import Entry

BOUND_DRAWS = 30  # of a bound
PARTICLES = 1000  # of L_K
FEWEST_ROWS, MOST_ROWS = 100, 1000  # whose density is estimated where nobody says by how many particles
WORK = 5 * 10**8  # numbers that the decoder makes for them: some seconds
BLOCK_NUMBERS = 2**18  # that the decoder makes at once: few enough to stay in a cache, and a thread's memory small
ACTIVE = 0.01  # the variance of a code's mean over rows, from which on its unit is active (Burda et al., 2016)
NODES = 40  # of the quadrature along a latent coordinate
MOST_NODES = 2000  # of the whole grid: up to two coordinates


def bound(
    zoo: "Entry", data: Any, prior: Any, params: Params, *, num_draws: int = BOUND_DRAWS, seed: int = 0
) -> tuple[float, float]:
    """Return the ELBO (1) of the data, in nats, and its standard error; 0 where it has no noise."""
    parts = [rows.sum(1) for rows in _draws(zoo.closed_form.bounds, zoo, data, prior, params, num_draws, seed)]
    each = np.sum(parts, axis=0)
    error = float(each.std(ddof=1) / np.sqrt(num_draws)) if num_draws > 1 and _is_noisy(zoo, data) else 0.0
    return float(each.mean()), error


def _is_noisy(zoo: "Entry", data: Any) -> bool:
    """Return whether a draw of the guide has noise: where all is summed out, one says it all."""
    return bool(zoo.closed_form.noise(contract.take_rows(data, slice(0, 1)), zoo.spec, np.random.default_rng(0)))


def evidence(
    zoo: "Entry",
    data: Any,
    params: Params,
    *,
    prior: Any = None,
    num_particles: int = PARTICLES,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Estimate log p(x) of each row by L_K (2), by hand; `importance.evidence` does so by either library.

    Discrete sites are summed out of the weights, so that with them L_1 may be above the ELBO. What is known of a row
    beside x, such as a label, is part of its evidence.

    num_particles: K, the draws for each row. progress: whether to draw a bar, where it takes long.

    It is computed in the precision of data.x: single precision takes a third of the time, and loses less than a
    thousandth of a nat of a row of a thousand features.

    Raises
    ------
    UserError: the model is no deep one, or num_particles is too small.
    """
    _check_deep(zoo)
    contract.check_whole("num_particles", num_particles, least=2)
    contract.check_whole("seed", seed, least=0)
    data = zoo.check(data)
    prior = zoo.prior(data) if prior is None else zoo.check_prior(prior, data)
    params = zoo.check_params(params)
    parts, done = list[Evidence](), 0
    with progress_bar(f"L_{num_particles} of {zoo.name}", len(data.x), progress) as update:
        for log_weights in _draws(zoo.closed_form.log_weights, zoo, data, prior, params, num_particles, seed):
            parts.append(of_log_weights(log_weights))
            done += log_weights.shape[1]
            update(done, "")
    rows, ess, khat = (np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "ess", "khat"))
    return Evidence(float(rows.sum()), float(np.sqrt(sum(part.error**2 for part in parts))), rows, ess, khat)


def evaluate(
    zoo: "Entry", data: Any, prior: Any, params: Params, num_particles: int | None, seed: int
) -> dict[str, float]:
    """Return L_K and the ELBO of data, and how far L_K can be trusted: numbers by name.

    num_particles: K, for all rows. None: so many for so many rows, drawn by the seed, as take some seconds.

    log_density, elbo: L_K and the bound of these rows, in nats; each by row and with its standard error, too.
    num_rows, num_rows_left_out: of how many rows they are, and of how many they are not. num_particles: K.
    ess_per_row: what the particles of a row are worth in draws of its posterior, the median over rows. bad_khat: the
    part of the rows whose weights have a tail so heavy that L_K and its error cannot be trusted, from 25 particles on.
    Where nothing is drawn, log_density is log p(x) itself.
    """
    total, noisy = len(data.x), _is_noisy(zoo, data)
    if num_particles is None:
        num_particles = PARTICLES
        affordable = WORK // (num_particles * _numbers(zoo.spec, data.x.shape[1])) if noisy else MOST_ROWS
        most = min(max(affordable, FEWEST_ROWS), MOST_ROWS)
        data = contract.draw_rows(data, most, np.random.default_rng(seed))
    found = evidence(zoo, data, params, prior=prior, num_particles=num_particles, seed=seed)
    elbo, elbo_error = bound(zoo, data, prior, params, seed=seed)
    num_rows = len(found.rows)
    numbers = {
        "log_density": found.log_evidence,
        "log_density_per_row": found.log_evidence / num_rows,
        "log_density_error": found.error,
        "elbo": elbo,
        "elbo_per_row": elbo / num_rows,
        "elbo_error": elbo_error,
        "num_rows": float(num_rows),
    }
    if num_rows < total:
        numbers["num_rows_left_out"] = float(total - num_rows)
    if not noisy:
        return numbers
    numbers |= {"num_particles": float(num_particles), "ess_per_row": float(np.median(found.ess))}
    if num_particles < FEWEST:
        return numbers
    return numbers | {"bad_khat": float((found.khat > GOOD_KHAT).mean())}


def _draws(
    function: Any, zoo: "Entry", data: Any, prior: Any, params: Params, num_draws: int, seed: int
) -> Iterator[Float[np.ndarray, "draws rows"]]:
    """Yield a function of the rows at draws of the noise, for some rows after the other.

    The noise of a row depends on the seed and its number alone, so that it is no matter how the rows are split.
    """
    dtype = data.x.dtype
    params, prior = (contract.map_leaves(lambda _, leaf: np.asarray(leaf, dtype), tree) for tree in (params, prior))
    if not _is_noisy(zoo, data):
        yield np.broadcast_to(function(params, data, prior, {}, zoo.spec), (num_draws, len(data.x)))
        return
    at_once = max(BLOCK_NUMBERS // _numbers(zoo.spec, data.x.shape[1]), 1)  # draws times rows
    size, first = min(num_draws, at_once), 0
    for part in chunks(data, at_once // size):
        noise = _noise(zoo, part, num_draws, [(seed, first + row) for row in range(len(part.x))])
        blocks = (
            {name: eps[start:][:size].astype(dtype) for name, eps in noise.items()}
            for start in range(0, num_draws, size)
        )
        yield np.concatenate([function(params, part, prior, block, zoo.spec) for block in blocks]).astype(np.float64)
        first += len(part.x)


def _noise(
    zoo: "Entry", data: Any, num_draws: int, seeds: list[tuple[int, int]]
) -> dict[str, Float[np.ndarray, "draws rows ..."]]:
    """Return noise for draws of each row, by a generator of its own."""
    one = data._replace(x=np.broadcast_to(data.x[:1], (num_draws, data.x.shape[1])))
    each = [zoo.closed_form.noise(one, zoo.spec, np.random.default_rng(of_row)) for of_row in seeds]
    return {name: np.stack([noise[name] for noise in each], 1) for name in each[0]}


def _numbers(spec: Any, num_features: int) -> int:
    """Return how many numbers one draw of a row takes at once: the widest link of the decoder, or all components."""
    chain = spec.decoder(spec.num_latents, num_features)
    widest = max(step.outputs if step.patches is None else step.patches.size + step.outputs for step in chain)
    components = getattr(spec, "num_components", 1) * spec.num_latents
    return max(widest * getattr(spec, "num_classes", 1), components)


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
