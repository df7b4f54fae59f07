"""`lz.verify` on a user's own derivation: right ones pass, wrong ones are named, mistakes are one line."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import digamma, gammaln, polygamma

import latentzoo as lz

COUNTS = np.array([2.0, 5.0, 7.0, 1.0])
SHAPE, RATE = 2.0, 0.3  # neither library can hold 0.3 in float32: the proof must run in float64 throughout


def gamma_elbo(params, counts):
    a, b = params["a"], params["b"]
    log_rate, rate = digamma(a) - np.log(b), a / b
    likelihood = counts.sum() * log_rate - len(counts) * rate - gammaln(counts + 1).sum()
    prior = (SHAPE - 1) * log_rate - RATE * rate + SHAPE * np.log(RATE) - gammaln(SHAPE)
    entropy = -((a - 1) * log_rate - b * rate + a * np.log(b) - gammaln(a))
    return likelihood + prior + entropy


def gamma_gradient(params, counts):
    a, b = params["a"], params["b"]
    shape, rate = SHAPE + counts.sum(), RATE + len(counts)
    return {"a": (shape - a) * polygamma(1, a) - rate / b + 1, "b": -shape / b + rate * a / b**2}


def gamma_programs(library):
    if library == "pyro":
        import pyro as ppl
        import pyro.distributions as dist
        import torch

        one = torch.tensor(1.0)
    else:
        import numpyro as ppl
        import numpyro.distributions as dist

        one = 1.0

    def model(counts):
        rate = ppl.sample("rate", dist.Gamma(SHAPE, RATE))
        with ppl.plate("rows", len(counts)):
            ppl.sample("counts", dist.Poisson(rate), obs=counts)

    def guide(counts):
        a = ppl.param("a", one, constraint=dist.constraints.positive)
        b = ppl.param("b", one, constraint=dist.constraints.positive)
        ppl.sample("rate", dist.Gamma(a, b))

    return {"library": library, "model": model, "guide": guide}


def gamma_arguments(library):
    own = {"elbo": gamma_elbo, "gradient": gamma_gradient, "params": {"a": 3.7, "b": 0.9}, "data": COUNTS}
    return {**gamma_programs(library), **own}


@pytest.mark.parametrize("library", ["pyro", "numpyro"])
def test_a_right_derivation_passes_by_the_conjugate_probe(library):
    report = lz.verify(**gamma_arguments(library))
    assert report.ok, str(report)
    assert {row.quantity for row in report.rows} == {"elbo", "a", "b"}
    assert all(row.way == "conjugate probe (rate)" for row in report.rows)
    assert max(row.error for row in report.rows) < 1e-12


@pytest.mark.parametrize("library", ["pyro", "numpyro"])
def test_a_wrong_gradient_is_named_with_its_size(library):
    def wrong(params, counts):
        return {**gamma_gradient(params, counts), "b": gamma_gradient(params, counts)["b"] + 1e-7}

    report = lz.verify(**{**gamma_arguments(library), "gradient": wrong})
    (bad,) = [row for row in report.rows if not row.ok]
    assert bad.quantity == "b"
    np.testing.assert_allclose(bad.error, 1e-7, rtol=1e-3)
    assert "the gradient by b" in str(report)


def test_a_lost_constant_is_found():
    report = lz.verify(**{**gamma_arguments("numpyro"), "elbo": lambda p, x: gamma_elbo(p, x) + gammaln(x + 1).sum()})
    assert [row.quantity for row in report.rows if not row.ok] == ["elbo"]


def test_the_users_world_is_left_as_it_was():
    import pyro
    import torch

    pyro.param("a", torch.tensor(17.0))
    lz.verify(**gamma_arguments("pyro"))
    assert dict(pyro.get_param_store().items()) == {"a": torch.tensor(17.0)}
    assert torch.get_default_dtype() is torch.float32


def test_discrete_sites_are_enumerated_without_marks():
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    x, centres = np.array([0.3, -1.2, 2.0]), np.array([-1.0, 1.5])

    def model(x):
        with numpyro.plate("rows", 3):
            z = numpyro.sample("z", dist.Categorical(probs=np.array([0.4, 0.6])))
            numpyro.sample("x", dist.Normal(jnp.asarray(centres)[z], 0.7), obs=x)

    def guide(x):
        logits = numpyro.param("logits", np.zeros((3, 2)))
        with numpyro.plate("rows", 3):
            numpyro.sample("z", dist.Categorical(logits=logits))

    def terms(params):
        log_q = params["logits"] - np.logaddexp.reduce(params["logits"], axis=1, keepdims=True)
        squared = ((x[:, None] - centres) / 0.7) ** 2
        return np.exp(log_q), np.log([0.4, 0.6]) - 0.5 * squared - np.log(0.7 * np.sqrt(2 * np.pi)) - log_q

    def elbo(params, x):
        q, gap = terms(params)
        return (q * gap).sum()

    def gradient(params, x):
        q, gap = terms(params)
        return {"logits": q * (gap - (q * gap).sum(1, keepdims=True))}

    params = {"logits": np.array([[0.1, 0.4], [1.0, -1.0], [0.0, 2.0]])}
    arguments = {"library": "numpyro", "model": model, "guide": guide, "elbo": elbo, "params": params, "data": x}
    report = lz.verify(**arguments, gradient=gradient)
    assert report.ok, str(report)
    assert {row.way for row in report.rows} == {"enumeration (z)"}

    def wrong(params, x):
        off = gradient(params, x)["logits"].copy()
        off[1, 0] -= 0.25
        return {"logits": off}

    assert "logits[1, 0]" in str(lz.verify(**arguments, gradient=wrong))


def logistic(library):
    """Return programs whose integrand is not conjugate: a Bayesian logistic regression with one weight."""
    x, y = np.array([0.5, -1.0, 2.0, 0.3]), np.array([1.0, 0.0, 1.0, 1.0])
    import numpyro
    import numpyro.distributions as dist

    def model(y):
        weight = numpyro.sample("weight", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Bernoulli(logits=weight * x), obs=y)

    def guide(y):
        loc, scale = numpyro.param("loc", 0.1), numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
        numpyro.sample("weight", dist.Normal(loc, scale))

    def integral(function, params):
        loc, scale = params["loc"], params["scale"]

        def weighted(w):
            return function(w) * np.exp(-0.5 * ((w - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))

        return quad(weighted, loc - 12 * scale, loc + 12 * scale, epsabs=1e-14, epsrel=1e-13, limit=500)[0]

    def slope(w):
        return (x * (y - 1 / (1 + np.exp(-x * w)))).sum()

    def elbo(params, y):
        fit = integral(lambda w: (y * x * w - np.logaddexp(0, x * w)).sum(), params)
        loc, scale = params["loc"], params["scale"]
        return fit - (0.5 * (loc**2 + scale**2) - 0.5 - np.log(scale))

    def gradient(params, y):
        loc, scale = params["loc"], params["scale"]
        by_scale = integral(lambda w: slope(w) * (w - loc) / scale, params)
        return {"loc": integral(slope, params) - loc, "scale": by_scale - scale + 1 / scale}

    own = {"elbo": elbo, "gradient": gradient, "params": {"loc": 0.4, "scale": 0.7}, "data": y}
    return {"library": library, "model": model, "guide": guide, **own}


def test_a_scalar_site_that_is_not_conjugate_goes_by_quadrature():
    report = lz.verify(**logistic("numpyro"))
    assert report.ok, str(report)
    assert {row.way for row in report.rows} == {"quadrature (weight)"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"elbo": None}, "verify lacks elbo="),
        ({"library": "pyor"}, "did you mean 'pyro'"),
        ({"params": {"a": 1.0}}, "params lacks 'b'"),
        ({"params": {"a": 1.0, "b": 1.0, "c": 1.0}}, "params has 'c'"),
        ({"gradient": lambda p, x: {"a": 0.0}}, "gradient returns lacks 'b'"),
        ({"gradient": lambda p, x: {"a": np.zeros(2), "b": 0.0}}, "gradient by a has shape (2,)"),
        ({"modle": None}, "did you mean 'model'"),
    ],
)
def test_a_mistake_is_one_line(change, words):
    with pytest.raises(lz.UserError) as error:
        lz.verify(**{**gamma_arguments("pyro"), **change})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_where_nothing_exact_exists_a_z_test_states_its_power():
    import numpyro
    import numpyro.distributions as dist

    x, y = np.array([0.5, -1.0, 2.0, 0.3]), np.array([1.0, 0.0, 1.0, 1.0])

    def model(y):
        weight = numpyro.sample("weight", dist.Normal(np.zeros(2), 1.0).to_event(1))
        with numpyro.plate("rows", 4):
            numpyro.sample("y", dist.Bernoulli(logits=weight[0] * x + weight[1]), obs=y)

    def guide(y):
        loc, scale = numpyro.param("loc", np.zeros(2)), numpyro.param("scale", np.ones(2))
        numpyro.sample("weight", dist.Normal(loc, scale).to_event(1))

    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def elbo(params, y):
        first = params["loc"][0] + params["scale"][0] * nodes[:, None, None]
        second = params["loc"][1] + params["scale"][1] * nodes[None, :, None]
        logits = first * x + second
        fit = np.einsum("i,j,ij->", weights, weights, (y * logits - np.logaddexp(0, logits)).sum(-1))
        return fit - (0.5 * (params["loc"] ** 2 + params["scale"] ** 2) - 0.5 - np.log(params["scale"])).sum()

    def gradient(params, y, step=1e-5):
        found = {name: np.zeros(2) for name in params}
        for name, index in [(name, index) for name in params for index in range(2)]:
            move = {name: params[name] + step * np.eye(2)[index]}, {name: params[name] - step * np.eye(2)[index]}
            found[name][index] = np.subtract(*(elbo({**params, **each}, y) for each in move)) / (2 * step)
        return found

    params = {"loc": np.array([0.3, -0.2]), "scale": np.array([0.5, 0.8])}
    arguments = {"library": "numpyro", "model": model, "guide": guide, "params": params, "data": y}
    right = lz.verify(**arguments, elbo=elbo, gradient=gradient)
    assert right.ok, str(right)
    assert all("z-test (weight)" in row.way and "probability 0.99" in row.way for row in right.rows)
    wrong = lz.verify(**arguments, elbo=lambda p, y: elbo(p, y) + 1.0, gradient=gradient)
    assert not wrong.ok
