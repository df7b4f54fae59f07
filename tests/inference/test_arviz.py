"""What ArviZ makes of fits by every method: summaries, plots, LOO, comparisons, files."""

import warnings
from typing import Any

import arviz as az
import numpy as np
import pytest
from matplotlib import pyplot

import latentzoo as lz
from latentzoo.inference import arviz_export, importance
from latentzoo.models.language.contract import take_rows

GROUPS = {
    "posterior",
    "posterior_predictive",
    "log_likelihood",
    "sample_stats",
    "observed_data",
    "constant_data",
    "optimisation",
}
METHODS = ("cavi", "svi", "nuts")


class Problem:
    """Two clusters that overlap."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.zoo = lz.get("earthquakes", num_components=2, weights="dirichlet")
        component = np.arange(40) % 2
        location = np.array([[0.0, 0.0], [2.2, 0.5]])[component] + rng.normal(size=(40, 2))
        self.data = self.zoo.Data(location, rng.poisson(np.array([6.0, 14.0])[component]).astype(float))
        self.prior = self.zoo.prior(self.data, noise_variance=1.0)
        self.fits = {method: self.fit(method) for method in METHODS}
        self.exported = {method: fit.to_arviz(num_draws=200, seed=1) for method, fit in self.fits.items()}

    def fit(self, method: str) -> Any:
        settings = {"cavi": {"num_restarts": 3}, "svi": {"num_steps": 300}, "nuts": {"num_steps": 250}}[method]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lz.Note)
            return lz.fit(self.zoo, self.data, method, prior=self.prior, progress=False, **settings)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


@pytest.mark.parametrize("method", METHODS)
def test_groups_and_their_dimensions(problem: Problem, method: str) -> None:
    found, fit = problem.exported[method], problem.fits[method]
    assert set(found.groups()) == GROUPS
    chains = {"cavi": 3, "svi": 1, "nuts": 4}[method]  # of a sampler, or one for each restart
    assert dict(found.posterior.sizes) == {"chain": chains, "draw": 200, "components": 2, "coordinate": 2}
    assert found.posterior["weights"].dims == ("chain", "draw", "components")
    assert found.log_likelihood["obs"].dims == ("chain", "draw", "events")
    assert found.posterior_predictive["location"].dims == ("chain", "draw", "events", "coordinate")
    assert found.observed_data["location"].dims == ("events", "coordinate")
    assert found.attrs["method"] == fit.label
    stats = {"nuts": {"lp", "diverging", "n_steps", "tree_depth", "acceptance_rate", "step_size"}}
    assert set(found.sample_stats.data_vars) == stats.get(method, {"lp", "log_q"})
    np.testing.assert_array_equal(found.optimisation["elbo"], fit.elbo_trace)
    np.testing.assert_array_equal(found.optimisation["step"], fit.trace.step)


@pytest.mark.parametrize("method", METHODS)
def test_arviz_works_on_it(problem: Problem, method: str, tmp_path: Any) -> None:
    found = problem.exported[method]
    summary = az.summary(found, kind="stats" if method == "svi" else "all")
    assert {"loc[0, 0]", "rate[1]", "weights[0]"} <= set(summary.index)
    assert np.isfinite(summary["mean"]).all()
    for plot in (az.plot_trace, az.plot_forest, az.plot_posterior):
        plot(found, var_names=["rate"])
    az.plot_ppc(found, var_names=["strength"], num_pp_samples=10)
    pyplot.close("all")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter", UserWarning)
        assert np.isfinite(az.loo(found).elpd_loo)
    found.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    assert set(again.groups()) == GROUPS
    for group in GROUPS:
        assert again[group].equals(found[group]), group


def test_fits_can_be_compared_by_their_loo(problem: Problem) -> None:
    """All three are fits of one model to the same data: ArviZ must not tell them apart by more than their error."""
    table = az.compare({name: fit.loo(400) for name, fit in problem.fits.items()})
    assert set(table.index) == set(METHODS)
    assert table["elpd_diff"].max() < 1.0
    plain = az.compare(problem.exported)
    assert set(plain.index) == set(METHODS)


def test_restarts_of_one_optimum_are_chains_and_of_another_are_told(problem: Problem) -> None:
    assert az.rhat(problem.exported["cavi"]).to_array().max() < 1.05  # labels matched
    zoo = lz.get("earthquakes", num_components=3)
    data, _ = zoo.simulate(seed=0, num_rows=60)
    fit = lz.fit(zoo, data, num_restarts=6, progress=False)
    assert max(fit.elbo - run.elbo for run in fit.restarts) > 1.0
    found = fit.to_arviz(num_draws=50)
    elsewhere = sum(fit.elbo - run.elbo > 1.0 for run in fit.restarts)
    assert found.attrs["restarts_in_other_optima"] == elsewhere
    assert found.posterior.sizes["chain"] == 6 - elsewhere
    for means in found.posterior["loc"].mean("draw").values:
        assert means == pytest.approx(fit.params.phi.loc_mean, abs=0.5)


def test_mean_field_is_too_sure_of_itself(problem: Problem) -> None:
    """Clusters that overlap: q has narrower marginals than NUTS, by more than five Monte Carlo errors."""
    table = lz.compare(problem.fits, num_draws=1000)
    row = next(row for row in table.rows if row.name == "cavi")
    coordinates = sum(site.name == "cavi" for site in table.sites)
    assert table.reference == "nuts"
    error = np.sqrt(1.0 / (1000 * coordinates))  # an sd from n draws is off by 1 / sqrt(2 n) of itself, a ratio by more
    assert row.sd_ratio < 1.0 - 5.0 * error
    assert row.distance < 1.0


def test_predicted_data_look_like_the_data(problem: Problem) -> None:
    """Under the fitted model the mean over new data is near that of the data: within 5 of its posterior sds."""
    for found in problem.exported.values():
        predicted = found.posterior_predictive["strength"].mean("events")
        data = float(found.observed_data["strength"].mean())
        assert abs(float(predicted.mean()) - data) < 5.0 * float(predicted.std())
        assert (found.posterior_predictive["strength"].values % 1 == 0).all()


def test_lp_less_log_q_is_the_bound_on_average() -> None:
    """Of one component with known noise q is the posterior: log p - log q is the log evidence at every single draw."""
    zoo = lz.get("earthquakes", num_components=1)
    data, _ = zoo.simulate(seed=1, num_rows=8)
    fit = lz.fit(zoo, data, progress=False)
    stats = fit.to_arviz(num_draws=30).sample_stats
    assert (stats["lp"] - stats["log_q"]).values == pytest.approx(np.full((1, 30), fit.elbo), rel=1e-10)
    assert fit.diagnostics(30) == {"khat": -np.inf, "ess": pytest.approx(30.0)}


# --- leave one out ----------------------------------------------------------------------------------------------------


def exact_loo(zoo: Any, data: Any, prior: Any) -> float:
    """Sum of log p(row n | the others), each the difference of two log evidences: exact with one component."""

    def evidence(rows: Any) -> float:
        return lz.fit(zoo, rows, prior=prior, tol=1e-14, progress=False).elbo

    every = np.arange(len(data.strength))
    return sum(evidence(data) - evidence(take_rows(data, every != n)) for n in every)


def test_loo_is_right_although_the_guide_is_not() -> None:
    """q is a half wider than the posterior. Draws of it weighed by p / q give the exact LOO; unweighed they do not."""
    zoo = lz.get("earthquakes", num_components=1)
    data, _ = zoo.simulate(seed=1, num_rows=20)
    prior = zoo.prior(data, noise_variance=4.0)
    fit = lz.fit(zoo, data, prior=prior, progress=False)
    wide = fit.params.phi._replace(loc_log_scale=fit.params.phi.loc_log_scale + np.log(1.5))
    wider = lz.fit(zoo, data, lambda *_: lz.Params(phi=wide), prior=prior, progress=False)
    expected = exact_loo(zoo, data, prior)
    found = wider.loo(4000)
    assert not found.warning
    assert found.elpd_loo == pytest.approx(expected, abs=0.05)
    assert fit.loo(4000).elpd_loo == pytest.approx(expected, abs=0.05)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter", UserWarning)
        plain = az.loo(wider.to_arviz(num_draws=4000))
    assert abs(plain.elpd_loo - expected) > 0.2


def test_the_shape_of_weights_tells_bad_from_good() -> None:
    """q = Normal(0, s^2) for p = Normal(0, 1): bounded weights where s > 1, else a tail of shape 1 - s^2."""
    rng = np.random.default_rng(0)
    for scale, low, high in ((1.2, -np.inf, 0.3), (0.6, 0.4, 0.9)):
        draws = scale * rng.normal(size=20_000)
        ratio = -(draws**2) / 2.0 + draws**2 / (2.0 * scale**2)
        found = importance.of_weights(ratio)
        assert low < found["khat"] < high
        assert 1.0 < found["ess"] < 20_000.0


def test_too_few_draws_are_refused(problem: Problem) -> None:
    for method in (problem.fits["cavi"].diagnostics, problem.fits["cavi"].loo):
        with pytest.raises(lz.UserError, match="num_draws is 10: it must be a whole number, at least 25"):
            method(10)


@pytest.mark.filterwarnings("ignore:.* has not converged")
def test_a_deep_model_has_the_latent_variables_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arviz_export, "DEEP_ROWS", 10)
    zoo = lz.get("vae", hidden=(3,))
    x = (np.random.default_rng(0).random((25, 4)) < 0.5).astype(float)
    fit = lz.fit(zoo, zoo.Data(x=x), num_steps=20, progress=False)
    found = fit.to_arviz(num_draws=400, seed=1)
    latent = found.posterior["latent"]
    assert latent.dims == ("chain", "draw", "rows", "latents")
    rows = latent.coords["rows"].values
    assert len(set(rows)) == 10
    np.testing.assert_array_equal(found.observed_data["x"], x[rows])
    said = fit.predict()
    gap = (latent.mean(("chain", "draw")) - said["latent"][rows]) / said["latent_sd"][rows]
    assert abs(gap.values).max() < 5.0 / np.sqrt(400)
    np.testing.assert_allclose(latent.std(("chain", "draw")), said["latent_sd"][rows], rtol=5.0 / np.sqrt(800))
    assert found.optimisation.sizes["step"] == len(fit.elbo_trace)
