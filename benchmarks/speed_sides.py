"""The sides of the comparisons of speed, each of which runs in a process of its own.

All sides of a comparison have the same data and start at the same parameters. What a run returns is the bound after so
many iterations, or the sums of one, by which the tests tell that the sides do the same.
"""

import itertools
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.benchmarks import speed_limits
from latentzoo.benchmarks.fresh import Run, answer, measured
from latentzoo.inference.kernels.executors import Executor

REG_COVAR = 1e-6  # scikit-learn's default, added to every variance
NUM_WORDS, NUM_CLASSES = 20_000, 32


def iterations(zoo: Any, data: Any, method: str, prior: Any, init: Any, executor: Executor) -> Callable[[int], float]:
    """Return the loop of EM and CAVI as `fit` runs it, without what `fit` does once; it returns the last bound."""
    from latentzoo.inference import coordinate_ascent

    data = zoo.check(data)
    prior = zoo.prior_for(method, zoo.prior(data) if prior is None else prior)
    e_step = coordinate_ascent.Settings(executor=executor).over(zoo.closed_form.e_step, data)

    def run(count: int) -> float:
        steps = coordinate_ascent.steps(zoo.closed_form, e_step, data, prior, zoo.spec, init, tol=0.0)
        return [step.elbo or 0.0 for step in itertools.islice(steps, count)][-1]

    return run


# --- mixtures of Gaussians --------------------------------------------------------------------------------------------


class Start(NamedTuple):
    """A table of numbers, of clusters that overlap, and where EM begins: rows as centres, the spread of all rows."""

    x: Float[np.ndarray, "rows columns"]
    loc: Float[np.ndarray, "components columns"]
    variance: Float[np.ndarray, "columns"]

    @property
    def weights(self) -> Float[np.ndarray, "components"]:
        """As large for each component."""
        return np.full(len(self.loc), 1.0 / len(self.loc))


def start(seed: int, size: int, columns: int, components: int, dtype: str = "float64") -> Start:
    """Draw a table."""
    rng = np.random.default_rng(seed)
    x = (2.0 * rng.normal(size=(components, columns)))[rng.integers(components, size=size)]
    x += rng.normal(size=x.shape)
    loc = x[rng.choice(size, components, replace=False)]
    return Start(x.astype(dtype, copy=False), loc, x.var(0))


def latentzoo_mixture(
    seed: int,
    *,
    size: int,
    columns: int,
    components: int,
    covariance: str = "diag",
    executor: Executor = "numba",
    dtype: str = "float64",
    devices: int = 1,
) -> Run:
    """Return EM by latentzoo. devices: of JAX, simulated on the CPU."""
    if devices > 1:
        os.environ["JAX_NUM_CPU_DEVICES"] = str(devices)  # which JAX reads when it is imported
    from latentzoo.inference.registry import get
    from latentzoo.models.gaussian_mixture import Theta

    begin = start(seed, size, columns, components, dtype)
    zoo = get("gaussian_mixture", num_components=components, covariance_type=covariance, reg_covar=REG_COVAR)
    log_scale = np.log(begin.variance) / 2.0
    raw_scale = np.stack([np.diag(log_scale) if covariance == "full" else log_scale] * components)
    theta = Theta(np.zeros(components), begin.loc, raw_scale)
    init = zoo.init(zoo.Data(begin.x[: 2 * components]), method="em")._replace(theta=theta)
    run = iterations(zoo, zoo.Data(begin.x), "em", None, init, executor)
    return lambda count: run(count) / size


def sklearn_mixture(
    seed: int, *, size: int, columns: int, components: int, covariance: str = "diag", dtype: str = "float64"
) -> Run:
    """Return EM by scikit-learn."""
    from sklearn.mixture import GaussianMixture

    begin = start(seed, size, columns, components, dtype)
    precision = np.diag(1.0 / begin.variance) if covariance == "full" else 1.0 / begin.variance
    peer = partial(
        GaussianMixture,
        components,
        covariance_type=covariance,
        reg_covar=REG_COVAR,
        tol=0.0,
        weights_init=begin.weights.astype(dtype),
        means_init=begin.loc.astype(dtype),
        precisions_init=np.array([precision] * components, dtype),
    )
    return lambda iterations: peer(max_iter=iterations).fit(begin.x).lower_bound_


def pomegranate_mixture(seed: int, *, size: int, columns: int, components: int, dtype: str = "float64") -> Run:
    """Return EM by pomegranate, in torch."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    begin = start(seed, size, columns, components, dtype)
    x, loc, variance, weights = (torch.tensor(array, dtype=getattr(torch, dtype)) for array in (*begin, begin.weights))

    def run(iterations: int) -> float:
        normals = [Normal(each.clone(), variance.clone(), covariance_type="diag") for each in loc]
        model = GeneralMixtureModel(normals, priors=weights, max_iter=iterations - 1, tol=-np.inf)
        return float(model.fit(x).log_probability(x).mean())

    return run


def hmmlearn_mixture(seed: int, *, size: int, columns: int, components: int) -> Run:
    """Return EM by hmmlearn: its hidden Markov model of one state that emits a mixture is a mixture."""
    from hmmlearn.hmm import GMMHMM

    begin = start(seed, size, columns, components)

    def run(iterations: int) -> float:
        model = GMMHMM(
            1, components, covariance_type="diag", n_iter=iterations, tol=-np.inf, init_params="", params="mcw"
        )
        model.n_features = columns
        model.startprob_, model.transmat_ = np.ones(1), np.ones((1, 1))
        model.weights_, model.means_ = begin.weights[None], begin.loc[None].copy()
        model.covars_ = np.array([[begin.variance] * components])
        return model.fit(begin.x).monitor_.history[-1] / size

    return run


# --- super-epicentres -------------------------------------------------------------------------------------------------


def latentzoo_earthquakes(seed: int, *, size: int, components: int, executor: Executor = "numba") -> Run:
    """Return CAVI by latentzoo: E step, bound and M step."""
    zoo, data, prior, init = _events(seed, size, components)
    return iterations(zoo, data, "cavi", prior, init, executor)


def bayespy_earthquakes(seed: int, *, size: int, components: int) -> Run:
    """Return variational message passing by BayesPy on the same model, priors and start, in the same order.

    A Gaussian of known precision for the locations and a Poisson for the counts share the assignment.
    """
    from bayespy.inference import VB
    from bayespy.nodes import Categorical, Gamma, Gaussian, GaussianARD, Mixture, Poisson

    _, data, prior, init = _events(seed, size, components)
    phi = init.phi

    def run(iterations: int) -> float:
        component = Categorical(prior.weights, plates=(size,))
        loc = GaussianARD(prior.loc_mean, 1.0 / prior.loc_variance, shape=(2,), plates=(components,))
        rate = Gamma(prior.strength_shape, prior.strength_rate, plates=(components,))
        location = Mixture(component, Gaussian, loc, np.eye(2) / prior.noise_variance)
        strength = Mixture(component, Poisson, rate)
        location.observe(data.location)
        strength.observe(data.strength.astype(int))
        loc.initialize_from_parameters(phi.loc_mean, np.exp(-2.0 * phi.loc_log_scale)[:, None] * np.ones(2))
        rate.initialize_from_parameters(np.exp(phi.rate_log_shape), np.exp(phi.rate_log_rate))
        model = VB(location, strength, component, loc, rate)
        for _ in range(iterations):
            model.update(component, verbose=False)
            bound = model.compute_lowerbound()
            model.update(loc, rate, verbose=False)
        return float(bound)

    return run


def _events(seed: int, size: int, components: int) -> tuple[Any, Any, Any, Any]:
    from latentzoo.inference.registry import get

    zoo = get("earthquakes", num_components=components)
    data, _ = zoo.simulate(seed=seed, num_rows=size)
    prior = zoo.prior(data)
    return zoo, data, prior, zoo.init(data, prior, seed)


# --- bigrams ----------------------------------------------------------------------------------------------------------


class Text(NamedTuple):
    """Distinct bigrams, sorted as a reader gives them, and both tables: as common as words in a text (Zipf's law)."""

    context: Int[np.ndarray, "rows"]
    word: Int[np.ndarray, "rows"]
    times: Float[np.ndarray, "rows"]
    class_probs: Float[np.ndarray, "words classes"]
    word_probs: Float[np.ndarray, "words classes"]


def text(seed: int, size: int, words: int = NUM_WORDS, classes: int = NUM_CLASSES) -> Text:
    """Draw so many distinct bigrams."""
    rng = np.random.default_rng(seed)
    common = 1.0 / np.arange(1.0, words + 1.0)
    code = np.empty(0, dtype=np.int64)
    while len(code) < size:
        drawn = rng.choice(words, size=(2, size), p=common / common.sum())
        code = np.union1d(code, drawn[0] * words + drawn[1])
    code = np.sort(rng.permutation(code)[:size])
    times = rng.integers(1, 20, size=size).astype(np.float64)
    tables = rng.dirichlet(np.ones(classes), words), rng.dirichlet(np.ones(words), classes).T.copy()
    return Text(code // words, code % words, times, *tables)


def latentzoo_bigrams(seed: int, *, size: int, executor: Executor = "numba") -> Run:
    """Return the sums of an E step by latentzoo."""
    from latentzoo.inference.kernels.bigram import bigram_sums
    from latentzoo.inference.kernels.executors import using

    drawn = text(seed, size)
    logs = np.log(drawn.class_probs), np.log(drawn.word_probs)

    def run(iterations: int) -> Any:
        with using(executor):
            return _last(lambda: bigram_sums(*drawn[:3], *logs), iterations)

    return run


def scipy_bigrams(seed: int, *, size: int) -> Run:
    """Return the same sums as one would write them with NumPy, in chunks, and SciPy."""
    drawn = text(seed, size)
    starts = np.searchsorted(drawn.context, np.arange(len(drawn.class_probs) + 1))
    return lambda iterations: _last(lambda: _plain_sums(drawn, starts), iterations)


def _last(iterate: Callable[[], Any], iterations: int) -> Any:
    """Return what the last iteration returns; those before are given back, as EM does."""
    for _ in range(iterations - 1):
        iterate()
    return iterate()


def _plain_sums(drawn: Text, starts: np.ndarray, chunk: int = 2**14) -> tuple[float, Any, Any]:
    from scipy.sparse import csr_array

    left, right = drawn.class_probs, drawn.word_probs
    total = np.empty(len(drawn.times))
    for begin in range(0, len(total), chunk):
        rows = slice(begin, begin + chunk)
        total[rows] = (left[drawn.context[rows]] * right[drawn.word[rows]]).sum(1)
    shape = (len(left), len(right))
    weight = csr_array((drawn.times / total, drawn.word, starts), shape=shape)
    return float(drawn.times @ np.log(total)), left * (weight @ right), right * (weight.T @ left)


MAKERS: dict[str, Callable[..., Run]] = {
    "latentzoo_mixture": latentzoo_mixture,
    "sklearn_mixture": sklearn_mixture,
    "pomegranate_mixture": pomegranate_mixture,
    "hmmlearn_mixture": hmmlearn_mixture,
    "latentzoo_earthquakes": latentzoo_earthquakes,
    "bayespy_earthquakes": bayespy_earthquakes,
    "latentzoo_bigrams": latentzoo_bigrams,
    "scipy_bigrams": scipy_bigrams,
}
SIDES: dict[str, Callable[..., Any]] = {
    **{name: partial(measured, make) for name, make in MAKERS.items()},
    "limits": speed_limits.limits,
}

if __name__ == "__main__":
    answer(SIDES)
