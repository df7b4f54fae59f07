"""The problems that estimators are measured on, each with its exact gradient, by a way that no estimator takes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.benchmarks import estimators_exact
from latentzoo.benchmarks.estimators_measure import Contest, flat
from latentzoo.inference.arrays import cholesky
from latentzoo.inference.automatic import Pair
from latentzoo.inference.registry import Entry, get
from latentzoo.models.language import contract
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import LIBRARIES, Handle, handle

# --- a normal guide of a normal posterior -----------------------------------------------------------------------------

MEAN = 1.0  # m


def normal(scales: Float[np.ndarray, "scales"]) -> Contest:
    """Return p = Normal(0, 1) and q = Normal(m, s^2), a row for each s: rows know nothing of each other."""

    def model(ppl: Handle) -> None:
        with ppl.plate("scales", len(scales)):
            ppl.sample("z", ppl.dist.Normal(ppl.array(np.zeros(len(scales))), 1.0))

    def guide(ppl: Handle) -> None:
        mean, log_scale = (ppl.param(name, leaf) for name, leaf in params.items())
        with ppl.plate("scales", len(scales)):
            ppl.sample("z", ppl.dist.Normal(mean, ppl.xp.exp(log_scale)))

    params = {"mean": np.full(len(scales), MEAN), "log_scale": np.log(scales)}
    return Contest(_pairs(model, guide), params, ("scales",))


def normal_gradient(scales: Float[np.ndarray, "scales"]) -> Float[np.ndarray, "numbers"]:
    """Return the derivatives by m and by log s of minus the KL divergence, (1 - m^2 - s^2) / 2 + log s."""
    return np.concatenate([np.full(len(scales), -MEAN), 1.0 - scales**2])


def _pairs(model: Callable[[Handle], None], guide: Callable[[Handle], None]) -> dict[str, Pair]:
    """Return two programs that are written once, bound to each library."""
    return {
        name: Pair(partial(model, handle(name)), partial(guide, handle(name)), max_plate_nesting=1)
        for name in LIBRARIES
    }


# --- entries of the zoo -----------------------------------------------------------------------------------------------


class Zoo(NamedTuple):
    """An entry with data, at parameters away from the optimum. total_rows: of the data that these rows are part of."""

    entry: Entry
    data: Any
    prior: Any
    params: Params
    total_rows: int | None = None

    @property
    def contest(self) -> Contest:
        """The programs and their parameters."""
        entry, told = self.entry, {} if self.total_rows is None else {"total_rows": self.total_rows}
        args, depth = (self.data, self.prior, self.params), entry.model_room.MAX_PLATE_NESTING
        pairs = [Pair(entry.model.on(name), entry.guide.on(name), args, told, depth) for name in LIBRARIES]
        return Contest(dict(zip(LIBRARIES, pairs, strict=True)), contract.leaves(self.params), entry.row_plates)

    @property
    def factor(self) -> float:
        """How many rows of the whole data one of these stands for."""
        return 1.0 if self.total_rows is None else self.total_rows / (contract.num_rows(self.data) or 1)

    def gradient(self, num_particles: int = 1) -> Float[np.ndarray, "numbers"]:
        """Return the gradient of the bound by the closed form; of probabilistic PCA of L_K, too, by quadrature."""
        if num_particles > 1:
            exact = estimators_exact.importance_weighted(self.params, self.data.x, num_particles).gradient
        else:
            exact = self._closed_form()
        given, found = contract.leaves(self.params), contract.leaves(exact)
        return self.factor * flat({name: found[name] for name in given})

    def _closed_form(self) -> Params:
        closed, spec = self.entry.closed_form, self.entry.spec
        stats = closed.e_step(self.params, self.data, self.prior, spec)
        shared = closed.elbo_gradient(stats, self.params, self.prior, spec)
        if all(getattr(self.params.phi, field) is None for field in self.entry.guide_room.LOCAL):
            return shared
        return shared._replace(phi=closed.local_gradient(self.params, self.data, self.prior, spec).phi)

    def wake_gradient(self) -> Float[np.ndarray, "numbers"]:
        """Return, of probabilistic PCA, the gradient of log p(x) by theta and of -KL(p(z | x) || q) by phi.

        With p(z | x) = Normal(a, S), q = Normal(m, A A'), B = A^-1 and M = S + (a - m) (a - m)', the latter is
        B' B (a - m) by m and B' (B M B' - I) by A.
        """
        closed, spec, phi = self.entry.closed_form, self.entry.spec, self.params.phi
        best = closed.local_optimum(self.params, self.data, self.prior, spec)
        stats = closed.e_step(best, self.data, self.prior, spec)
        of_evidence = closed.elbo_gradient(stats, best, self.prior, spec)
        apart = best.phi.latent_mean - phi.latent_mean
        factor, own = (cholesky(each.latent_raw_scale) for each in (best.phi, phi))
        moment = factor @ np.swapaxes(factor, -1, -2) + apart[:, :, None] * apart[:, None, :]
        inverse, identity = np.linalg.inv(own), np.eye(spec.num_latents)
        turned = np.swapaxes(inverse, -1, -2)
        by_mean = (turned @ inverse @ apart[..., None])[..., 0]
        by_factor = np.tril(turned @ (inverse @ moment @ turned - identity))
        by_raw = np.where(identity > 0, own * by_factor, by_factor)  # the diagonal is a logarithm
        found = contract.leaves(of_evidence._replace(phi=self.entry.Phi(by_mean, by_raw)))
        return flat({name: found[name] for name in contract.leaves(self.params)})

    def minibatch(self, num_rows: int) -> "Zoo":
        """Return the first rows, as a minibatch of all."""
        rows = slice(0, num_rows)
        local = {name: getattr(self.params.phi, name)[rows] for name in self.entry.guide_room.LOCAL}
        params = self.params._replace(phi=self.params.phi._replace(**local))
        return self._replace(
            data=contract.take_rows(self.data, rows), params=params, total_rows=contract.num_rows(self.data)
        )


def probabilistic_pca(
    seed: int, num_rows: int, *, num_latents: int = 2, distance: float = 0.2, width: float = 1.0
) -> Zoo:
    """Return probabilistic PCA with q(latent[n]) free for each row: that of the posterior, moved.

    distance: the standard deviation of the moves of its parameters. width: what its scales are multiplied by.
    """
    entry = get("probabilistic_pca", num_latents=num_latents)
    rng, num_features = np.random.default_rng(seed), num_latents + 3
    data = entry.check(entry.Data(rng.normal(size=(num_rows, num_features))))
    prior = entry.prior(data)
    weight = rng.normal(size=(num_features, num_latents)) / np.sqrt(num_latents)
    theta = entry.Theta(weight, np.zeros(num_features), np.array(-0.3))
    params = entry.closed_form.local_optimum(Params(theta, entry.Phi()), data, prior, entry.spec)
    mean, raw_scale = (leaf + distance * rng.normal(size=leaf.shape) for leaf in params.phi)
    return Zoo(entry, data, prior, params._replace(phi=entry.Phi(mean, widened(raw_scale, width))))


def widened(raw_scale: Float[np.ndarray, "rows d d"], factor: float) -> Float[np.ndarray, "rows d d"]:
    """Return the parameters of Cholesky factors that are so many times as large; a diagonal is a logarithm."""
    identity = np.eye(raw_scale.shape[-1])
    return np.where(identity > 0, raw_scale + np.log(factor), factor * raw_scale)


def earthquakes(seed: int, num_rows: int, distance: float = 0.2) -> Zoo:
    """Return super-epicentres with Gamma sites, the assignments enumerated, near the start of a fit."""
    entry = get("earthquakes", num_components=2)
    rng = np.random.default_rng(seed)
    location = 3.0 * rng.choice([-1.0, 1.0], size=(num_rows, 1)) + rng.normal(size=(num_rows, 2))
    data = entry.check(entry.Data(location, rng.poisson(8.0, size=num_rows).astype(np.float64)))
    prior = entry.prior(data)
    start = entry.init(data, prior, seed)
    moved = contract.map_leaves(lambda _, leaf: leaf + distance * rng.normal(size=np.shape(leaf)), start)
    return Zoo(entry, data, prior, moved)


# --- one-hot categories -----------------------------------------------------------------------------------------------


class OneHot(NamedTuple):
    """z[n] ~ OneHotCategorical(prior), x[n] ~ Normal((place' z[n])^2, 1): convex between the corners of the simplex.

    logits: of q(z[n]), (rows, categories).
    """

    x: Float[np.ndarray, "rows"]
    place: Float[np.ndarray, "categories"]
    prior: Float[np.ndarray, "categories"]
    logits: Float[np.ndarray, "rows categories"]

    @property
    def contest(self) -> Contest:
        """The programs and their parameters."""

        def draw(ppl: Handle, logits: Any) -> Any:
            return (ppl.sample("z", ppl.dist.OneHotCategorical(logits=logits)) * ppl.array(self.place)).sum(-1)

        return self._contest(draw)

    @property
    def indexed(self) -> Contest:
        """The same by the numbers of the categories: these both libraries enumerate, one-hot vectors only Pyro."""

        def draw(ppl: Handle, logits: Any) -> Any:
            return ppl.array(self.place)[ppl.sample("z", ppl.dist.Categorical(logits=logits))]

        return self._contest(draw)

    def _contest(self, draw: Callable[[Handle, Any], Any]) -> Contest:
        """draw: samples z[n] from its logits and returns place' z[n]."""

        def model(ppl: Handle) -> None:
            with ppl.plate("rows", len(self.x)):
                mean = draw(ppl, ppl.array(np.log(self.prior))) ** 2
                ppl.sample("x", ppl.dist.Normal(mean, 1.0), obs=ppl.array(self.x))

        def guide(ppl: Handle) -> None:
            logits = ppl.param("logits", self.logits)
            with ppl.plate("rows", len(self.x)):
                draw(ppl, logits)

        return Contest(_pairs(model, guide), {"logits": self.logits}, ("rows",))

    def gradient(self) -> Float[np.ndarray, "numbers"]:
        """Return the gradient by the logits, summed over the categories: q_k (f_k - sum_j q_j f_j)."""
        from scipy import special, stats

        log_q = special.log_softmax(self.logits, axis=1)
        cost = np.log(self.prior) + stats.norm.logpdf(self.x[:, None], self.place**2) - log_q
        q = np.exp(log_q)
        return (q * (cost - (q * cost).sum(1, keepdims=True))).ravel()


def one_hot(seed: int, num_rows: int = 4, num_categories: int = 4) -> OneHot:
    """Return a problem of categories with a few rows."""
    rng = np.random.default_rng(seed)
    place = np.linspace(-1.0, 2.0, num_categories)
    prior = rng.dirichlet(np.full(num_categories, 5.0))
    logits = rng.normal(size=(num_rows, num_categories))
    return OneHot(rng.uniform(0.0, 3.0, size=num_rows), place, prior, logits)
