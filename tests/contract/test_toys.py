"""A toy EM mixture and a toy VAE keep the contract, so that the first real model does not hide its holes."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import accumulate
from latentzoo.inference.registry import Entry
from latentzoo.models.language.contract import Params
from latentzoo.models.language.ppl import LIBRARIES


def toy(name: str, **spec) -> Entry:
    file = Path(__file__).with_name(f"{name}.py")
    module_spec = importlib.util.spec_from_file_location(name, file)
    room = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(room)
    return Entry(name, room, room, room, room.Spec(**spec))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["toy_em_mixture", "toy_vae"])
def test_hand_equals_automatic_with_minibatches(name, library):
    report = lz.verify(toy(name), library=library)
    assert report.ok, str(report)
    assert any("minibatch" in row.variant for row in report.rows)


def em_mixture() -> tuple[Entry, object]:
    zoo = toy("toy_em_mixture")
    theta = zoo.Theta(np.array([0.0, 1.0]), np.array([-2.0, 2.0]), np.zeros(2))
    return zoo, zoo.simulate(seed=3, num_rows=200, params=Params(theta, zoo.Phi()))[0]


def test_em_reaches_the_maximum_of_the_likelihood():
    # An independent truth: scikit-learn's EM on the same data, from the same start, in one dimension.
    from sklearn import mixture

    zoo, data = em_mixture()
    start = zoo.init(data, zoo.prior(data), seed=0)
    fit = lz.fit(zoo, data, "em", init=start, tol=1e-13)
    peer = mixture.GaussianMixture(
        2,
        covariance_type="diag",
        tol=1e-13,
        max_iter=1000,
        reg_covar=0.0,
        weights_init=np.full(2, 0.5),
        means_init=start.theta.loc[:, None],
        precisions_init=np.ones((2, 1)),
    ).fit(data.x[:, None])
    np.testing.assert_allclose(fit.elbo, peer.score(data.x[:, None]) * 200, rtol=1e-10)


@pytest.mark.parametrize("method", ["em", "map"])
def test_chunks_give_the_same_statistics_and_the_bound_rises(method):
    zoo, data = em_mixture()
    prior = zoo.prior_for(method, zoo.prior(data))
    params = zoo.init(data, prior)
    form = zoo.closed_form
    whole = form.e_step(params, data, prior, zoo.spec)
    parts = accumulate.in_chunks(form.e_step, 37)(params, data, prior, zoo.spec)
    for actual, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    fit = lz.fit(zoo, data, method)
    assert (np.diff(fit.elbo_trace) >= -1e-9).all()
    assert fit.converged


def test_a_wrong_gradient_of_a_toy_is_found():
    zoo = toy("toy_vae")
    right = zoo.closed_form.value_and_gradient

    def wrong(params, data, prior, noise, spec):
        value, gradient = right(params, data, prior, noise, spec)
        bias = gradient.phi.encoder["out"].bias.copy()
        bias[2] += 1e-7
        out = gradient.phi.encoder["out"]._replace(bias=bias)
        return value, gradient._replace(phi=zoo.Phi({**gradient.phi.encoder, "out": out}))

    zoo.closed_form.value_and_gradient = wrong
    report = lz.verify(zoo, library="numpyro", num_points=1)
    assert {row.quantity for row in report.rows if not row.ok} == {"phi.encoder.out.bias"}
    assert "phi.encoder.out.bias[2]" in str(report)
