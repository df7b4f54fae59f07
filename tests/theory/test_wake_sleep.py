"""Reweighted wake-sleep by hand, in Pyro and in NumPyro, at the same noise; and the inclusive divergence it climbs."""

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp, ndtri, softmax

import latentzoo as lz
from latentzoo.inference import estimators
from latentzoo.inference.automatic import Pair
from latentzoo.inference.wake_sleep import ReweightedWakeSleep
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.ppl import LIBRARIES, handle

X = np.array([0.4, -1.2, 2.0])
PARAMS = {name: np.array(value) for name, value in {"w": 1.3, "a": 0.2, "b": 0.5, "log_s": -0.3}.items()}
FACTOR = 2.0  # the three rows are a minibatch of six


def linear(library: str) -> Pair:
    """z[n] ~ Normal(0, 1), x[n] ~ Normal(w z[n], 1); q(z[n]) = Normal(a + b x[n], s^2)."""
    ppl = handle(library)

    def model() -> None:
        w = ppl.param("w", np.array(0.0))
        with ppl.scale(scale=FACTOR), ppl.plate("rows", len(X)):
            x = ppl.array(X)
            z = ppl.sample("z", ppl.dist.Normal(ppl.xp.zeros_like(x), ppl.xp.ones_like(x)))
            ppl.sample("x", ppl.dist.Normal(w * z, ppl.xp.ones_like(x)), obs=x)

    def guide() -> None:
        a, b, log_s = (ppl.param(name, np.array(0.0)) for name in ("a", "b", "log_s"))
        with ppl.scale(scale=FACTOR), ppl.plate("rows", len(X)):
            x = ppl.array(X)
            ppl.sample("z", ppl.dist.Normal(a + b * x, ppl.xp.exp(log_s) + 0.0 * x))

    return Pair(model, guide, (), {}, 1)


def by_hand(eps: np.ndarray) -> tuple[float, dict[str, float]]:
    """L_K and the gradients of reweighted wake-sleep, (particles, rows) of noise.

    d log p / d w = (x - w z) z;  d log q / d loc = eps / s;  d log q / d log s = eps^2 - 1.
    """
    w, a, b, s = PARAMS["w"], PARAMS["a"], PARAMS["b"], np.exp(PARAMS["log_s"])
    z = a + b * X + s * eps
    log_w = -0.5 * z**2 - 0.5 * np.log(2 * np.pi) - 0.5 * (X - w * z) ** 2 + 0.5 * eps**2 + np.log(s)
    v = softmax(log_w, axis=0)
    gradient = {
        "w": FACTOR * (v * (X - w * z) * z).sum(),
        "a": FACTOR * (v * eps / s).sum(),
        "b": FACTOR * (v * X * eps / s).sum(),
        "log_s": FACTOR * (v * (eps**2 - 1)).sum(),
    }
    return FACTOR * float((logsumexp(log_w, axis=0) - np.log(len(eps))).sum()), gradient


@pytest.mark.parametrize("library", LIBRARIES)
def test_wake_phases_at_the_same_noise(library: str) -> None:
    noise = np.random.default_rng(0).normal(size=(3, 5, len(X)))
    values, found = estimators.gradients(
        library, "rws", linear(library), PARAMS, rows=("rows",), num_particles=5, num_draws=3, noise={"z": noise}
    )
    for index in range(3):
        value, gradient = by_hand(noise[index])
        assert values[index] == pytest.approx(value, rel=1e-10)
        for name, exact in gradient.items():
            assert found[name][index] == pytest.approx(exact, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_l_k_and_its_doubly_reparametrised_gradient_at_the_same_noise(library: str) -> None:
    """Tucker et al. (2019), equation 7, by hand: v^2 times the path, and v times the gradient by w."""
    noise = np.random.default_rng(1).normal(size=(1, 4, len(X)))
    values, found = estimators.gradients(
        library, "dreg", linear(library), PARAMS, rows=("rows",), num_particles=4, num_draws=1, noise={"z": noise}
    )
    w, b, s, eps = PARAMS["w"], PARAMS["b"], np.exp(PARAMS["log_s"]), noise[0]
    z = PARAMS["a"] + b * X + s * eps
    v = softmax(-0.5 * z**2 - 0.5 * (X - w * z) ** 2 + 0.5 * eps**2, axis=0)
    path = v**2 * (-z + w * (X - w * z) + eps / s)
    exact = {"a": path.sum(), "b": (path * X).sum(), "log_s": (path * s * eps).sum(), "w": (v * (X - w * z) * z).sum()}
    assert values[0] == pytest.approx(by_hand(eps)[0], rel=1e-10)
    for name, derived in exact.items():
        assert found[name][0] == pytest.approx(FACTOR * derived, rel=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_wake_phi_climbs_the_inclusive_divergence(library: str) -> None:
    """With the quantiles of a wide q as particles, self-normalised weights are a quadrature rule."""
    ppl, num = handle(library), 800

    def model() -> None:
        loc = ppl.array(np.array([-1.0, 1.0]))
        parts = ppl.dist.Normal(loc, ppl.xp.ones_like(loc))
        ppl.sample("z", ppl.dist.MixtureSameFamily(ppl.dist.Categorical(logits=ppl.xp.zeros_like(loc)), parts))

    def guide() -> None:
        loc, log_s = ppl.param("m", np.array(0.0)), ppl.param("log_s", np.array(0.0))
        ppl.sample("z", ppl.dist.Normal(loc, ppl.xp.exp(log_s)))

    m, s = 0.3, 3.0
    eps = ndtri((np.arange(num) + 0.5) / num)
    params = {"m": np.array(m), "log_s": np.array(np.log(s))}
    _, found = estimators.gradients(
        library,
        "rws",
        Pair(model, guide, (), {}, 0),
        params,
        num_particles=num,
        num_draws=1,
        noise={"z": eps[None]},
    )
    # -KL(p || q) by m and log s, from the moments of p, which are 0 and 1 + 1.
    assert found["m"][0] == pytest.approx((0.0 - m) / s**2, abs=1e-10)
    assert found["log_s"][0] == pytest.approx((2.0 + m**2) / s**2 - 1, abs=1e-10)


@pytest.mark.parametrize("library", LIBRARIES)
def test_sleep_phi_is_unbiased(library: str) -> None:
    """At the exact posterior the guide cannot be mended, and away from it the dream says so."""
    zoo = lz.get("probabilistic_pca", num_latents=1)
    data, _ = zoo.simulate(seed=0, num_rows=3)
    prior = zoo.prior(data)
    params = zoo.closed_form.local_optimum(zoo.init(data, prior, seed=1), data, prior, zoo.spec)
    pair = Pair(zoo.model.on(library), zoo.guide.on(library), (data, prior, params), {}, 1)
    _, found = estimators.gradients(
        library, ReweightedWakeSleep("sleep"), pair, leaves(params), rows=("rows",), num_draws=300, num_particles=2
    )
    # The dreams are of other rows: q(latent[n]) = Normal(m_n, s_n^2) is drawn to the prior, which is Normal(0, 1).
    mean, raw = params.phi.latent_mean[:, 0], params.phi.latent_raw_scale[:, 0, 0]
    exact = {
        "phi.latent_mean": -mean * np.exp(-2 * raw),
        "phi.latent_raw_scale": (1 + mean**2) * np.exp(-2 * raw) - 1,
    }
    for name, wanted in exact.items():
        drawn = found[name].reshape(300, 3)
        error = drawn.std(0) / np.sqrt(300)
        assert (np.abs(drawn.mean(0) - wanted) < 5 * error).all()
        assert (np.abs(wanted) > 10 * error).any()  # so that a wrong sign or factor would show


def test_both_phases_are_halves() -> None:
    zoo = lz.get("probabilistic_pca", num_latents=1)
    data, _ = zoo.simulate(seed=0, num_rows=3)
    prior = zoo.prior(data)
    params = zoo.closed_form.local_optimum(zoo.init(data, prior, seed=1), data, prior, zoo.spec)
    pair = Pair(zoo.model.pyro, zoo.guide.pyro, (data, prior, params), {}, 1)

    def gradient(phi: Any) -> Any:
        options: dict[str, Any] = {"rows": ("rows",), "num_draws": 1, "num_particles": 2, "seed": 4}
        return estimators.gradients("pyro", ReweightedWakeSleep(phi), pair, leaves(params), **options)[1]

    wake, sleep, both = gradient("wake"), gradient("sleep"), gradient("both")
    for name in ("phi.latent_mean", "phi.latent_raw_scale"):
        assert both[name] == pytest.approx((wake[name] + sleep[name]) / 2, rel=1e-10)
    with pytest.raises(lz.UserError, match="phi"):
        ReweightedWakeSleep("dream")  # type: ignore[arg-type]
