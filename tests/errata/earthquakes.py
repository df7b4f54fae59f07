"""What the notes get wrong about the super-epicentres: the truth by quadrature, SciPy, or the ELBO that Pyro makes."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pyro import poutine
from scipy import stats
from scipy.special import logsumexp, softmax

import latentzoo as lz
from latentzoo.guides.earthquakes import Phi
from latentzoo.inference.automatic import Pair, backend
from latentzoo.inference.closed_form import earthquakes as closed_form
from latentzoo.inference.expectations import Estimate, Integrand, expectation
from latentzoo.models.earthquakes import Data, Prior
from latentzoo.models.language.contract import leaves

Check = Callable[..., None]


# Six events and two centres. The first centre is worth one event, the second five.
ZOO = lz.get("earthquakes", num_components=2)
DATA = Data(
    location=np.array([[1.0, 0.5], [2.5, -1.0], [3.0, 0.0], [0.0, -2.0], [4.0, 1.0], [2.0, -3.0]]),
    strength=np.array([3.0, 7.0, 1.0, 4.0, 12.0, 0.0]),
)
OF_FIRST = np.array([0.05, 0.1, 0.05, 0.1, 0.65, 0.05])
RESP = np.stack([OF_FIRST, 1.0 - OF_FIRST], axis=1)
PRIOR = Prior(
    weights=np.array([0.35, 0.65]),
    loc_mean=np.array([2.0, -1.0]),
    loc_variance=np.array(3.0),
    noise_variance=np.array(0.5),
    strength_shape=np.array(2.0),
    strength_rate=np.array(0.3),
)
FIRST, SECOND = 0, 1


def example_is_that_of_the_page() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "errata" / "README.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| (\d) \| \((.+), (.+)\) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    events = zip(np.arange(1, 7), *DATA.location.T, DATA.strength, OF_FIRST, strict=True)
    assert [tuple(map(float, row)) for row in told] == list(events)


@functools.cache
def optimum(tau: float = 0.5, nu: tuple[float, float] = (2.0, -1.0)) -> Phi:
    """The zoo's update of q(loc) and q(rate), given the responsibilities."""
    prior = PRIOR._replace(noise_variance=np.array(tau), loc_mean=np.array(nu))
    start = Phi(np.zeros((2, 2)), np.zeros(2), np.zeros(2), np.zeros(2), component_logits=np.log(RESP))
    stats_ = closed_form.e_step(lz.Params(phi=start), DATA, prior, ZOO.spec)
    return closed_form.m_step(stats_, lz.Params(phi=start), prior, ZOO.spec).phi


def log_responsibilities() -> np.ndarray:
    """The zoo's update of q(component), given the others."""
    return closed_form.local_optimum(lz.Params(phi=optimum()), DATA, PRIOR, ZOO.spec).phi.component_logits


def at(**fields: np.ndarray) -> Phi:
    """Parameters at the zoo's optimum, the responsibilities written out, but for some fields."""
    return optimum()._replace(component_logits=np.log(RESP))._replace(**fields)


def by_pyro(phi: Phi, prior: Prior = PRIOR) -> Estimate:
    """The ELBO that Pyro makes of model and guide, and its gradient: exact, by the conjugate probe."""
    params = lz.Params(phi=phi)
    pair = Pair(ZOO.model.pyro, ZOO.guide.pyro, (DATA, prior, params), {}, ZOO.model_room.MAX_PLATE_NESTING)
    rule, estimate = expectation(Integrand(backend("pyro"), pair), leaves(params), 0)
    assert rule is not None  # no Monte Carlo
    return estimate


def slope(phi: Phi, field: str, index: Any = slice(None)) -> float:
    """The largest entry of the gradient of Pyro's ELBO by a field."""
    return float(np.abs(by_pyro(phi).gradient[f"phi.{field}"][index]).max())


class Line(NamedTuple):
    """A density on a line, by its values at the nodes of the trapezoid rule: exact to rounding, as its tails vanish."""

    nodes: np.ndarray
    weights: np.ndarray

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> float:
        return float(self.weights @ function(self.nodes))


def line(log_density: Callable[[np.ndarray], np.ndarray], nodes: np.ndarray) -> Line:
    return Line(nodes, softmax(log_density(nodes)))


def optimal_centre(k: int, coordinate: int, tau: float = 0.5, nu: tuple[float, float] = (2.0, -1.0)) -> Line:
    """What q(mu_k) must be, by its definition: exp E log p, normalised on a grid."""

    def log_density(mu: np.ndarray) -> np.ndarray:
        each = stats.norm.logpdf(DATA.location[:, coordinate], mu[:, None], np.sqrt(tau))
        return stats.norm.logpdf(mu, nu[coordinate], np.sqrt(PRIOR.loc_variance)) + each @ RESP[:, k]

    return line(log_density, np.linspace(-14.0, 18.0, 4001))


def test_earthquakes_variance(check: Check) -> None:
    """The notes count the precision of one event, whatever N_k."""
    variance = np.full(2, 1.0 / (1.0 / 0.5 + 1.0 / 3.0))
    rows = []
    for k, label, margin in ((FIRST, "N_k = 1", 0.0), (SECOND, "N_k = 5", 0.3)):
        q = optimal_centre(k, 0)
        mean = q.mean(lambda mu: mu)
        truth = q.mean(lambda mu, mean=mean: (mu - mean) ** 2)
        zoo = np.exp(2.0 * optimum().loc_log_scale[k])
        rows.append((f"v_k, {label}", variance[k], zoo, truth, margin))
    wrong = at(loc_log_scale=0.5 * np.log(variance))
    for k, label, margin in ((FIRST, "N_k = 1", 0.0), (SECOND, "N_k = 5", 6.0)):
        notes, zoo = (slope(phi, "loc_log_scale", k) for phi in (wrong, at()))
        rows.append((f"slope of the ELBO by log sqrt v_k, {label}", notes, zoo, 0.0, margin))
    check(*rows)


def test_earthquakes_mean(check: Check) -> None:
    """The notes drop nu, and N_k and tau from the denominator."""
    wrong = RESP.T @ DATA.location / (1.0 + 1.0 / 3.0)
    rows = []
    for label, settings, k, margin in (
        ("N_k = 1, tau = 1, nu = 0", (1.0, (0.0, 0.0)), FIRST, 0.0),
        ("N_k = 1", (0.5, (2.0, -1.0)), FIRST, 0.5),
        ("N_k = 5", (0.5, (2.0, -1.0)), SECOND, 5.0),
    ):
        truth = optimal_centre(k, 0, *settings).mean(lambda mu: mu)
        rows.append((f"m_k, {label}", wrong[k, 0], optimum(*settings).loc_mean[k, 0], truth, margin))
    notes, zoo = (slope(phi, "loc_mean", SECOND) for phi in (at(loc_mean=wrong), at()))
    rows.append(("slope of the ELBO by m_k, N_k = 5", notes, zoo, 0.0, 50.0))
    check(*rows)


def test_earthquakes_normaliser(check: Check) -> None:
    """It shows in the mass and in the ELBO, not in the responsibilities."""

    def excess(tau: float) -> float:
        """What the notes add to the log density of an event."""
        return float(-np.log(tau**2 * 2.0 * np.pi) + np.log(2.0 * np.pi * tau))

    def elbos(tau: float) -> tuple[float, float]:
        prior = PRIOR._replace(noise_variance=np.array(tau))
        return ZOO.elbo(lz.Params(phi=at()), DATA, prior), by_pyro(at(), prior).value

    grid = np.linspace(-8.0, 8.0, 161)
    plane = Data(np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2), np.zeros(grid.size**2))
    # So small a rate makes a count of zero certain: what is left is the density of the place.
    point = {"loc": np.array([[0.3, -0.2]]), "rate": np.full(1, 1e-300)}
    alone = PRIOR._replace(weights=np.ones(1))
    log_density = closed_form.log_likelihood(point, lz.Params(), plane, alone, ZOO.spec)
    mass = np.exp(log_density).sum() * 0.1**2
    resp, shifted = np.exp(log_responsibilities())[0, 0], softmax(log_responsibilities() + excess(0.5), axis=1)[0, 0]
    zoo, truth = elbos(0.5)
    zoo_at_one, truth_at_one = elbos(1.0)
    check(
        ("mass over the plane, tau = 1/2", mass * np.exp(excess(0.5)), mass, 1.0, 0.9),
        ("ELBO, tau = 1/2", zoo + 6 * excess(0.5), zoo, truth, 4.0),
        ("ELBO, tau = 1", zoo_at_one + 6 * excess(1.0), zoo_at_one, truth_at_one, 0.0),
        ("r of event 1, tau = 1/2", shifted, resp, expected_responsibilities()[0, 0], 0.0),
    )


@functools.cache
def expected_responsibilities() -> np.ndarray:
    """What q(component) must be, by its definition: exp E log p, every expectation by quadrature."""
    phi, logits = optimum(), np.log(PRIOR.weights) + np.zeros((6, 2))
    for k in range(2):
        scale = np.exp(phi.loc_log_scale[k])
        for coordinate in range(2):
            centre = phi.loc_mean[k, coordinate]
            nodes = np.linspace(centre - 12.0 * scale, centre + 12.0 * scale, 401)
            q = line(lambda mu, at=centre, scale=scale: stats.norm.logpdf(mu, at, scale), nodes)
            x = DATA.location[:, coordinate, None]
            logits[:, k] += stats.norm.logpdf(x, q.nodes, np.sqrt(0.5)) @ q.weights
        q_rate = stats.gamma(np.exp(phi.rate_log_shape[k]), scale=np.exp(-phi.rate_log_rate[k]))
        # On the line of log lambda, where the density has a factor lambda more.
        nodes = np.log(q_rate.mean()) + np.linspace(-15.0, 5.0, 4001)
        q = line(lambda log_rate, of=q_rate: of.logpdf(np.exp(log_rate)) + log_rate, nodes)
        logits[:, k] += stats.poisson.logpmf(DATA.strength[:, None], np.exp(q.nodes)) @ q.weights
    return softmax(logits, axis=1)


def test_earthquakes_count(check: Check) -> None:
    """The notes have log lambda once, whatever the count; event 3 has a count of one."""
    phi, moments, truth = optimum(), closed_form.expected(optimum(), PRIOR), expected_responsibilities()
    joint = closed_form.expected_logits(moments, phi.loc_mean, np.exp(2.0 * phi.loc_log_scale), DATA)
    wrong = joint + (1.0 - DATA.strength[:, None]) * moments.log_rate
    zoo = log_responsibilities()
    rows = []
    for event, label, margin in ((2, "event 3, s = 1", 0.0), (4, "event 5, s = 12", 0.2)):
        notes, right = softmax(wrong, axis=1), np.exp(zoo)
        rows.append((f"r of {label}", notes[event, 0], right[event, 0], truth[event, 0], margin))
    rows.append(("sum of r over k, event 3", np.exp(wrong[2]).sum(), np.exp(zoo[2]).sum(), 1.0, 0.9))
    for index, label, margin in ((2, "event 3", 0.0), (slice(None), "largest", 1.5)):
        notes, right = (slope(at(component_logits=logits), "component_logits", index) for logits in (wrong, zoo))
        rows.append((f"slope of the ELBO by log r, {label}", notes, right, 0.0, margin))
    check(*rows)


def test_earthquakes_second_moment(check: Check) -> None:
    """E |mu|^2, which the zoo has in E |x - mu|^2: of an event at the origin."""
    k, phi = SECOND, optimum()
    variance = np.exp(2.0 * phi.loc_log_scale)
    truth = sum(optimal_centre(k, coordinate).mean(np.square) for coordinate in range(2))
    origin = Data(np.zeros((1, 2)), np.zeros(1))
    one = phi._replace(component_logits=np.array([[-1e3, 0.0]]))
    seen = closed_form.e_step(lz.Params(phi=one), origin, PRIOR, ZOO.spec)
    zoo = closed_form.squared_distance(seen, phi.loc_mean, variance, PRIOR)[k]
    check(("E of the squared length of mu_k", 2.0 * variance[k] + truth, zoo, truth, 0.1))


PLACE_STEP, RATE_STEP = 0.1, 0.01
PLACES = np.stack(np.meshgrid(*[np.arange(-10.0, 14.0, PLACE_STEP)] * 2), axis=-1).reshape(-1, 1, 2)
LOG_RATE = np.arange(-14.0, 5.0, RATE_STEP)


class Evidence(NamedTuple):
    """The evidence of events that share one centre."""

    data: Data
    prior: Prior

    def log_mass(self, loc: float = 1.0, rate: float = 1.0) -> float:
        """Integrate the model's log joint over the centre and the rate, whose priors count so often."""
        log_loc, log_location = self._log_densities({"loc": PLACES, "rate": np.ones(1)}, "loc", "location")
        log_rate, log_strength = self.at_rates("rate", "strength")
        over_places = logsumexp(loc * log_loc + log_location) + 2.0 * np.log(PLACE_STEP)
        return float(over_places + logsumexp(rate * log_rate + log_strength + LOG_RATE) + np.log(RATE_STEP))

    def at_rates(self, *sites: str) -> list[np.ndarray]:
        """Return log densities of sites at the rates exp(LOG_RATE)."""
        return self._log_densities({"loc": np.zeros((1, 2)), "rate": np.exp(LOG_RATE)[:, None]}, *sites)

    def _log_densities(self, latents: dict[str, np.ndarray], *sites: str) -> list[np.ndarray]:
        """Return Pyro's log densities of sites of the zoo's model, for a batch of values of the latent ones."""
        values = {name: torch.from_numpy(value) for name, value in latents.items()}
        values["component"] = torch.zeros(len(self.data.strength), dtype=torch.long)
        model = lz.get("earthquakes", num_components=1).model.pyro
        trace = poutine.trace(poutine.condition(model, values)).get_trace(self.data, self.prior)
        trace.compute_log_prob()
        return [trace.nodes[site]["log_prob"].sum(-1).numpy() for site in sites]

    def by_scipy(self) -> float:
        """Each count is negative binomial given those before it; the places share a centre, hence a covariance."""
        size = len(self.data.strength)
        shape = PRIOR.strength_shape + np.cumsum(self.data.strength) - self.data.strength
        rate = PRIOR.strength_rate + np.arange(size)
        counts = stats.nbinom.logpmf(self.data.strength, shape, rate / (rate + 1.0)).sum()
        covariance = 0.5 * np.eye(size) + 3.0
        means = PRIOR.loc_mean[:, None] * np.ones(size)
        columns = zip(self.data.location.T, means, strict=True)
        return float(counts + sum(stats.multivariate_normal(mean, covariance).logpdf(x) for x, mean in columns))


ALONE = PRIOR._replace(weights=np.ones(1))
TWO = Evidence(Data(DATA.location[:2], DATA.strength[:2]), ALONE)
ONE = Evidence(Data(DATA.location[:1], DATA.strength[:1]), ALONE)


def test_earthquakes_priors(check: Check) -> None:
    """The notes count a prior as often as there are events: that of a rate once more, outside of the plate."""
    zoo, truth = TWO.log_mass(), TWO.by_scipy()
    check(
        ("two events, prior of lambda in the plate and outside", TWO.log_mass(rate=3.0), zoo, truth, 4.0),
        ("two events, prior of mu weighted by z", TWO.log_mass(loc=2.0), zoo, truth, 3.0),
        ("one event, prior of mu weighted by z", ONE.log_mass(loc=1.0), ONE.log_mass(), ONE.by_scipy(), 0.0),
    )


def test_earthquakes_hyperparameters(check: Check) -> None:
    """The notes' conditions, taken at their word: the program with the hyperparameters exchanged."""
    exchanged = ALONE._replace(
        loc_mean=np.full(2, ALONE.strength_rate),
        loc_variance=ALONE.strength_shape,
        strength_shape=ALONE.loc_mean[0],  # the other coordinate of nu is negative: no shape of a Gamma at all
        strength_rate=ALONE.loc_variance,
    )
    with pytest.raises(lz.UserError, match="strength_shape"):
        ZOO.prior(DATA, strength_shape=PRIOR.loc_mean[1])
    normal = stats.norm(PRIOR.loc_mean[1], np.sqrt(PRIOR.loc_variance)).sf(0.0)  # "lambda_k is a 2-D Normal"
    (log_prior,) = TWO.at_rates("rate")
    gamma = np.exp(log_prior + LOG_RATE).sum() * RATE_STEP
    check(
        ("log evidence of two events", TWO._replace(prior=exchanged).log_mass(), TWO.log_mass(), TWO.by_scipy(), 4.0),
        ("mass of p(lambda_k) where lambda_k is positive", normal, gamma, 1.0, 0.7),
    )


def test_earthquakes_expected_log(check: Check) -> None:
    """The notes' E p in place of E log p, as a log q: Normal and negative binomial densities, by SciPy."""
    phi, zoo, truth = optimum(), log_responsibilities(), expected_responsibilities()
    wide = np.sqrt(0.5 + np.exp(2.0 * phi.loc_log_scale))
    density = stats.norm.pdf(DATA.location[:, None], phi.loc_mean, wide[:, None]).prod(-1)
    rate = np.exp(phi.rate_log_rate)
    counts = stats.nbinom.pmf(DATA.strength[:, None], np.exp(phi.rate_log_shape), rate / (rate + 1.0))
    mean = PRIOR.weights * density * counts
    rows = []
    for label, wrong, margin in (("E p", mean, 0.4), ("log E p", np.log(mean), 0.07)):
        notes = softmax(wrong, axis=1)[0, 0]
        rows.append((f"r of event 1, log q = {label}", notes, np.exp(zoo)[0, 0], truth[0, 0], margin))
        slopes = (slope(at(component_logits=logits), "component_logits") for logits in (wrong, zoo))
        rows.append((f"slope of the ELBO by log r, log q = {label}", *slopes, 0.0, margin))
    check(*rows)
