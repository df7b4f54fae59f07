"""The Gaussian mixture as its users meet it: published numbers, scikit-learn, other people's loops, mistakes."""

import warnings

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.precision import FORMS
from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.language.ppl import LIBRARIES

TYPES = ["full", "tied", "diag", "spherical"]


@pytest.fixture(scope="module")
def clusters():
    """Three clusters in three dimensions, of different shapes, which overlap."""
    rng = np.random.default_rng(5)
    factors = [np.diag([1.0, 0.3, 2.0]), np.eye(3), np.array([[1.0, 0, 0], [0.8, 0.5, 0], [0.2, -0.4, 0.7]])]
    return np.concatenate([rng.normal(size=(60, 3)) @ f.T + 3.0 * rng.normal(size=3) for f in factors])


def faithful(data_folder, zoo):
    return zoo.read(data_folder / "faithful.csv", columns=("eruptions", "waiting"))


@pytest.mark.parametrize(
    ("covariance_type", "published"), [("full", -1130.264), ("tied", -1140.187), ("diag", -1147.806)]
)
def test_the_published_maximum_of_old_faithful(data_folder, covariance_type, published):
    """Of R's mclust: models VVV, EEE and VVI with two components."""
    zoo = lz.get("gaussian_mixture", num_components=2, covariance_type=covariance_type)
    fit = lz.fit(zoo, faithful(data_folder, zoo), "em", progress=False)
    assert round(fit.elbo, 3) == published
    assert fit.evaluate()["log_density"] == pytest.approx(fit.elbo, abs=1e-8)


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.05])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_iterates_are_those_of_scikit_learn(clusters, covariance_type, reg_covar):
    from sklearn import mixture

    zoo = lz.get("gaussian_mixture", num_components=3, covariance_type=covariance_type, reg_covar=reg_covar)
    data, form = zoo.Data(clusters), FORMS[covariance_type]
    start = zoo.init(data, method="em", seed=1)
    num_steps = 9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # neither has converged
        fit = lz.fit(zoo, data, "em", init=start, num_steps=num_steps + 1, tol=0.0, progress=False)
        peer = mixture.GaussianMixture(
            3,
            covariance_type=covariance_type,
            tol=0.0,
            max_iter=num_steps,
            reg_covar=reg_covar,
            weights_init=np.full(3, 1.0 / 3.0),
            means_init=start.theta.loc,
            precisions_init=form.inverse(form.square(start.theta.raw_scale)),
        ).fit(clusters)
    theta = fit.params.theta
    assert fit.num_steps == num_steps + 1
    np.testing.assert_allclose(theta.loc, peer.means_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.exp(theta.weights_logits), peer.weights_, rtol=1e-8)
    np.testing.assert_allclose(form.square(theta.raw_scale), peer.covariances_, rtol=1e-8, atol=1e-8)
    assert fit.elbo == pytest.approx(peer.score(clusters) * len(clusters), rel=1e-9)
    metrics = fit.evaluate()
    assert metrics["bic"] == pytest.approx(peer.bic(clusters), rel=1e-9)
    assert metrics["aic"] == pytest.approx(peer.aic(clusters), rel=1e-9)
    np.testing.assert_allclose(fit.predict()["responsibilities"], peer.predict_proba(clusters), atol=1e-8)


def test_cavi_ends_where_scikit_learn_does_with_full_covariances():
    """The only type for which BayesianGaussianMixture is exact; the clusters are so far apart that there is one end."""
    from sklearn import mixture

    rng = np.random.default_rng(2)
    clusters = np.concatenate([rng.normal(size=(70, 2)), [[7.0, 2.0]] + rng.normal(size=(40, 2)) @ [[1, 0.8], [0, 1]]])
    zoo = lz.get("gaussian_mixture", num_components=2)
    data = zoo.Data(clusters)
    prior = zoo.prior(data)
    fit = lz.fit(zoo, data, "cavi", prior=prior, tol=1e-15, num_steps=5000, progress=False)
    peer = mixture.BayesianGaussianMixture(
        n_components=2,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=1.0,
        mean_prior=prior.loc_mean,
        mean_precision_prior=float(prior.loc_strength),
        degrees_of_freedom_prior=2.0 * float(prior.precision_shape),
        covariance_prior=2.0 * prior.precision_rate,
        reg_covar=0.0,
        tol=1e-13,
        max_iter=5000,
        random_state=1,
    ).fit(clusters)
    phi = fit.params.phi
    order = [int(((phi.loc_mean - mean) ** 2).sum(1).argmin()) for mean in peer.means_]
    assert sorted(order) == [0, 1]
    np.testing.assert_allclose(phi.loc_mean[order], peer.means_, rtol=1e-6)
    np.testing.assert_allclose(np.exp(phi.loc_log_strength)[order], peer.mean_precision_, rtol=1e-6)
    np.testing.assert_allclose(2.0 * np.exp(phi.precision_log_shape)[order], peer.degrees_of_freedom_, rtol=1e-6)
    np.testing.assert_allclose(np.exp(phi.weights_log_concentration)[order], peer.weight_concentration_, rtol=1e-6)
    rate = FORMS["full"].square(phi.precision_raw_rate)[order]
    covariance = rate / np.exp(phi.precision_log_shape)[order, None, None]
    np.testing.assert_allclose(covariance, peer.covariances_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_collapsed_component_is_told_and_loses(covariance_type):
    """Rows that are all alike have a likelihood without bound: it is kept finite, and no restart wins by it."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 2)), np.repeat([[8.0, 8.0]], 20, axis=0)])
    zoo = lz.get("gaussian_mixture", num_components=2, covariance_type=covariance_type)
    if covariance_type == "tied":
        assert lz.fit(zoo, zoo.Data(x), "em", progress=False).restarts[0].flaw == ""
        return
    with pytest.warns(Note, match=r"component \d has collapsed"):
        fit = lz.fit(zoo, zoo.Data(x), "em", progress=False)
    assert "map" in fit.restarts[0].flaw
    assert np.isfinite(fit.elbo_trace).all()
    assert all(np.isfinite(leaf).all() for leaf in (*fit.params.theta, fit.predict()["responsibilities"]))
    assert lz.fit(zoo, zoo.Data(x), "map", progress=False).restarts[0].flaw == ""
    noise = rng.normal(size=(300, 2))
    crowded = lz.get("gaussian_mixture", num_components=6, covariance_type=covariance_type)
    data = crowded.Data(np.concatenate([noise, [[0.0, 0.0]] * 3]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        many = lz.fit(crowded, data, "em", num_restarts=8, tol=1e-6, progress=False)
    flawed = [bool(run.flaw) for run in many.restarts]
    best = many.restarts[[run.params is many.params for run in many.restarts].index(True)]
    assert bool(best.flaw) == all(flawed) == any("collapsed" in str(one.message) for one in caught)


@pytest.mark.parametrize("method", ["em", "map", "cavi"])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_numbers_stay_finite(covariance_type, method):
    """As many components as rows, duplicates, columns of very different units far from zero."""
    zoo = lz.get("gaussian_mixture", num_components=4, covariance_type=covariance_type)
    rng = np.random.default_rng(3)
    tables = [
        rng.normal(size=(4, 2)),
        np.repeat(rng.normal(size=(5, 2)), 3, axis=0),
        1e6 + rng.normal(size=(50, 2)) * [1e-3, 1e3],
    ]
    for x in tables:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Note)
            fit = lz.fit(zoo, zoo.Data(x), method, progress=False)
        assert np.isfinite(fit.elbo_trace).all()
        assert np.isfinite(fit.predict()["responsibilities"]).all()


def test_far_from_zero_the_fit_is_the_same(clusters):
    zoo = lz.get("gaussian_mixture", num_components=3)
    near, far = (lz.fit(zoo, zoo.Data(clusters + shift), "em", progress=False) for shift in (0.0, 1e6))
    assert far.elbo == pytest.approx(near.elbo, rel=1e-8)
    np.testing.assert_allclose(far.params.theta.loc - 1e6, near.params.theta.loc, atol=1e-5)


def test_a_fit_is_saved_read_back_and_exported(tmp_path, clusters):
    zoo = lz.get("gaussian_mixture", num_components=3)
    for method in ("em", "cavi"):
        fit = lz.fit(zoo, zoo.Data(clusters), method, progress=False)
        back = lz.load(fit.save(tmp_path / "fit.npz"))
        assert back.elbo == fit.elbo
        assert back.describe() == fit.describe() != ""
        draws = fit.posterior(30)
        assert set(draws) == {"weights", "precision", "loc"}
        assert (np.ptp(draws["loc"], axis=0) == 0.0).all() == (method == "em")
        exported = fit.to_arviz(num_draws=30)
        assert exported.posterior["loc"].dims == ("chain", "draw", "components", "features")
        assert exported.posterior_predictive["x"].shape == (1, 30, 180, 3)
    with pytest.raises(UserError, match="no posterior to leave rows out of"):
        lz.fit(zoo, zoo.Data(clusters), "em", progress=False).loo()


def test_the_exact_predictive_density_is_the_mean_over_draws(clusters):
    zoo = lz.get("gaussian_mixture", num_components=3)
    fit = lz.fit(zoo, zoo.Data(clusters), "cavi", progress=False)
    exact = fit.evaluate()["log_density"]
    draws = fit.posterior(4000)
    rows = [fit.log_likelihood(fit.data, {s: v[i] for s, v in draws.items()}) for i in range(4000)]
    by_draws = (np.logaddexp.reduce(rows) - np.log(4000)).sum()
    assert exact == pytest.approx(by_draws, abs=0.2)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_user_climbs_the_bound_in_their_own_loop(library, clusters):
    zoo = lz.get("gaussian_mixture", num_components=2, covariance_type="diag")
    data = zoo.Data(clusters[:40])
    prior = zoo.prior(data)
    for params in (zoo.init(data, prior, method="cavi"), zoo.init(data, prior, method="map")):
        if library == "pyro":
            import pyro

            pyro.set_rng_seed(0)
            pyro.clear_param_store()
            svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.02}), zoo.loss.pyro())
            for _ in range(60):
                svi.step(data, prior, params)
            found = zoo.params(pyro.get_param_store())
        else:
            import jax
            import numpyro
            import optax

            svi = numpyro.infer.SVI(zoo.model.numpyro, zoo.guide.numpyro, optax.adam(0.02), zoo.loss.numpyro())
            state = svi.run(jax.random.PRNGKey(0), 60, data, prior, params, progress_bar=False)
            found = zoo.params(state.params)
        assert zoo.elbo(found, data, prior) > zoo.elbo(params, data, prior) + 1.0


@pytest.mark.parametrize(
    ("x", "options", "method", "prior", "words"),
    [
        ([[0.0, 1.0], [2.0, 3.0]], {}, "em", {}, "num_components is 3: there are 2 rows"),
        ([[0.0, 7.0], [2.0, 7.0], [1.0, 7.0]], {}, "em", {}, "column 1 is 7 in every row"),
        ([[0.0, 1.0], [np.nan, 3.0]], {}, "em", {}, "data.x[1, 0] is nan"),
        ([[0.0, 1.0], [2.0, np.inf]], {}, "em", {}, "data.x[1, 1] is inf"),
        ([1.0, 2.0], {}, "em", {}, "data.x has shape (2,)"),
        (None, {"reg_covar": -1.0}, "em", {}, "reg_covar is -1"),
        (None, {"covariance_type": "ful"}, "em", {}, "did you mean 'full'"),
        (None, {}, "map", {"weights_concentration": [0.5, 0.5, 0.5]}, "weights_concentration is 0.5"),
        (None, {}, "map", {"precision_shape": 1.0}, "prior.precision_shape is 1"),
        (None, {}, "cavi", {"precision_shape": 0.4}, "prior.precision_shape is 0.4"),
        (None, {}, "cavi", {"precision_rate": [[1.0, 2.0], [2.0, 1.0]]}, "symmetric and positive definite"),
        (None, {}, "cavi", {"precision_rate": 1.0}, "prior.precision_rate has shape ()"),
        (None, {}, "cavi", {"loc_mean": [0.0, 0.0, 0.0]}, "prior.loc_mean has shape (3,)"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(x, options, method, prior, words):
    with pytest.raises(UserError) as error:  # noqa: PT012
        zoo = lz.get("gaussian_mixture", **options)
        data = zoo.Data([[0.0, 1.0], [2.0, 3.0], [4.0, 4.0], [1.0, 0.0]] if x is None else x)
        lz.fit(zoo, data, method, prior=zoo.prior(data, **prior) if prior else None, progress=False)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
