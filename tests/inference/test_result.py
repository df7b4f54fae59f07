"""What a fit can do: draws, predictions, held-out densities, ArviZ, files, and the same numbers again."""

import hashlib
import io
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pytest
from scipy import stats

import latentzoo as lz
from latentzoo.inference.result import FORMAT
from latentzoo.models.language.contract import leaves

FULL = {"num_components": 3, "weights": "dirichlet", "noise": "per_component"}


def catalogue(zoo: Any, num_rows: int = 60, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    component = np.arange(num_rows) % 3
    location = np.array([[0.0, 0.0], [9.0, 1.0], [4.0, 9.0]])[component] + rng.normal(size=(num_rows, 2))
    return zoo.Data(location, rng.poisson(np.array([5.0, 20.0, 60.0])[component]).astype(float))


@pytest.fixture(scope="module")
def full() -> Any:
    """A fit with every latent variable."""
    zoo = lz.get("earthquakes", **FULL)
    return lz.fit(zoo, catalogue(zoo), progress=False)


@pytest.fixture(scope="module")
def exact() -> Any:
    """A fit that is the exact posterior: one component, known noise."""
    zoo = lz.get("earthquakes", num_components=1)
    data = catalogue(zoo, 30)
    return lz.fit(zoo, data, prior=zoo.prior(data, noise_variance=4.0), progress=False)


# --- draws ------------------------------------------------------------------------------------------------------------


def test_draws_are_from_q(full: Any) -> None:
    """Mean and variance of every site, by scipy's distributions: within 5 standard errors."""
    draws, phi = full.posterior(20_000, seed=1), full.params.phi
    a, b = np.exp(phi.rate_log_shape), np.exp(phi.rate_log_rate)
    c, d = np.exp(phi.noise_log_shape), np.exp(phi.noise_log_rate)
    expected = {
        "loc": stats.norm(phi.loc_mean, np.exp(phi.loc_log_scale)[:, None]),
        "rate": stats.gamma(a, scale=1.0 / b),
        "noise_variance": stats.invgamma(c, scale=d),
        "weights": stats.dirichlet(np.exp(phi.weights_log_concentration)),
    }
    assert set(draws) == set(expected)
    for site, q in expected.items():
        mean, variance = q.mean(), q.var()
        assert draws[site].shape == (20_000, *np.shape(mean))
        assert (abs(draws[site].mean(0) - mean) < 5.0 * np.sqrt(variance / 20_000)).all(), site
        squared = (draws[site] - mean) ** 2
        assert (abs(squared.mean(0) - variance) < 5.0 * squared.std(0) / np.sqrt(20_000)).all(), site
    # The blocks of q are independent of one another.
    columns = [draws["loc"][:, 0, 0], draws["loc"][:, 0, 1], draws["rate"][:, 0], draws["noise_variance"][:, 0]]
    correlation = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlation).max() < 5.0 / np.sqrt(20_000)


def test_draws_follow_the_seed(exact: Any) -> None:
    first, again, other = (exact.posterior(7, seed=seed) for seed in (2, 2, 3))
    for site, draw in first.items():
        assert draw.dtype == np.float64
        np.testing.assert_array_equal(draw, again[site])
        assert (draw != other[site]).any()


def test_local_draws_by_name(full: Any) -> None:
    draws = full.posterior(5, sites=("component", "rate"))
    assert set(draws) == {"component", "rate"}
    assert draws["component"].shape == (5, 60)
    assert draws["rate"].shape == (5, 3)
    # Clusters this far apart leave no doubt.
    assert (draws["component"] == full.predict()["component"]).mean() > 0.99


@pytest.mark.parametrize("sites", [("loc_mean",), ("nothing", "rate")])
def test_a_site_that_is_not_there_is_said(full: Any, sites: tuple[str, ...]) -> None:
    with pytest.raises(lz.UserError, match=sites[0]):
        full.posterior(2, sites=sites)


@pytest.mark.parametrize("num_draws", [0, -1])
def test_numbers_of_draws_are_checked(full: Any, num_draws: int) -> None:
    for method in (full.posterior, lambda n: full.evaluate(num_draws=n), lambda n: full.to_arviz(num_draws=n)):
        with pytest.raises(lz.UserError, match="num_draws"):
            method(num_draws)


# --- predictions and densities ----------------------------------------------------------------------------------------


def test_predictions_sum_to_one(full: Any) -> None:
    for data in (None, catalogue(full.entry, 11, seed=5)):
        found = full.predict(data)
        resp = found["responsibilities"]
        np.testing.assert_allclose(resp.sum(1), 1.0, rtol=0, atol=1e-12)
        assert (resp >= 0.0).all()
        np.testing.assert_array_equal(found["component"], resp.argmax(1))
    # Each true cluster is one component.
    found = full.predict()["component"]
    assert [len(set(found[k::3])) for k in range(3)] == [1, 1, 1]
    assert len(set(found)) == 3


def brute_force_predictive(fit: Any, data: Any) -> float:
    """The exact posterior predictive density, row by row: a normal for the place, a negative binomial for the count."""
    x, s, prior = fit.data.location, fit.data.strength, fit.prior
    # The place of a new event and of those seen are jointly normal.
    covariance = prior.noise_variance * np.eye(len(s)) + prior.loc_variance
    gain = np.linalg.solve(covariance, np.full(len(s), prior.loc_variance))
    mean = prior.loc_mean + gain @ (x - prior.loc_mean)
    variance = prior.noise_variance + prior.loc_variance * (1.0 - gain.sum())
    place = stats.norm(mean, np.sqrt(variance)).logpdf(data.location).sum()
    rate = prior.strength_rate + len(s)
    return float(place + stats.nbinom(prior.strength_shape + s.sum(), rate / (rate + 1.0)).logpmf(data.strength).sum())


def test_log_density_is_the_exact_predictive(exact: Any) -> None:
    """K = 1 and known noise: within 4 standard errors, by the delta method from the same draws."""
    held_out, num_draws = catalogue(exact.entry, 8, seed=9), 4000
    found = exact.evaluate(held_out, num_draws, seed=1)
    draws = exact.posterior(num_draws, seed=1)
    rows = [exact.log_likelihood(held_out, {site: draw[i] for site, draw in draws.items()}) for i in range(num_draws)]
    density = np.exp(rows)
    error = float((density / density.mean(0)).sum(1).std() / np.sqrt(num_draws))
    assert found["log_density"] == pytest.approx(np.log(density.mean(0)).sum(), rel=1e-12)
    assert abs(found["log_density"] - brute_force_predictive(exact, held_out)) < 4.0 * error
    assert error < 1e-3 * abs(found["log_density"])  # so a wrong density would show
    assert (
        0.3 * error < found["log_density_error"] < 2.0 * error
    )  # from the scatter of ten groups: nine degrees of freedom
    assert found["num_rows"] == 8.0
    assert found["log_density_per_row"] == pytest.approx(found["log_density"] / 8, rel=1e-14)


def test_log_likelihood_is_that_of_the_story(full: Any) -> None:
    """At one draw: the sum over components of weight, normal and Poisson, by scipy."""
    data = catalogue(full.entry, 9, seed=4)
    draw = {site: value[0] for site, value in full.posterior(1).items()}
    joint = sum(
        draw["weights"][k]
        * stats.multivariate_normal(draw["loc"][k], draw["noise_variance"][k] * np.eye(2)).pdf(data.location)
        * stats.poisson(draw["rate"][k]).pmf(data.strength)
        for k in range(3)
    )
    np.testing.assert_allclose(full.log_likelihood(data, draw), np.log(joint), rtol=1e-10)


def test_held_out_data_of_the_same_kind_are_likelier(exact: Any) -> None:
    alike = catalogue(exact.entry, 30, seed=7)
    elsewhere = alike._replace(location=alike.location + 20.0)
    assert exact.evaluate(alike, 20)["log_density"] > exact.evaluate(elsewhere, 20)["log_density"] + 100.0


# --- ArviZ ------------------------------------------------------------------------------------------------------------


def test_arviz(full: Any, tmp_path: Path) -> None:
    found = full.to_arviz(num_draws=50, seed=4)
    groups = {"posterior", "log_likelihood", "observed_data", "constant_data", "optimisation"}
    assert groups <= set(found.groups())
    posterior = found.posterior
    assert posterior.sizes["chain"] == 1
    assert posterior.sizes["draw"] == 50
    assert posterior.rate.dims == ("chain", "draw", "components")
    assert posterior.noise_variance.dims == ("chain", "draw", "components")
    assert posterior["loc"].dims[:3] == ("chain", "draw", "components")
    np.testing.assert_array_equal(posterior.rate[0], full.posterior(50, seed=4)["rate"])
    assert found.log_likelihood.obs.dims == ("chain", "draw", "events")
    assert found.observed_data.strength.dims == ("events",)
    np.testing.assert_array_equal(found.observed_data.location, full.data.location)
    np.testing.assert_array_equal(found.constant_data.prior_weights_concentration, full.prior.weights_concentration)
    np.testing.assert_array_equal(found.optimisation.elbo, full.elbo_trace)
    summary = az.summary(found, kind="stats")
    assert {"loc[0, 0]", "rate[2]", "weights[1]"} <= set(summary.index)

    path = tmp_path / "fit.nc"
    found.to_netcdf(str(path))
    again = az.from_netcdf(str(path))
    for group in groups:
        assert found[group].identical(again[group]) or found[group].equals(again[group]), group


# --- files ------------------------------------------------------------------------------------------------------------


def assert_same_bits(found: Any, expected: Any) -> None:
    one, other = leaves(found), leaves(expected)
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert one[name].shape == other[name].shape
        assert one[name].tobytes() == other[name].tobytes(), name


@pytest.mark.parametrize("which", ["full", "exact"])
@pytest.mark.parametrize("name", ["fit.npz", "fit", "my fit.latentzoo"])
def test_a_file_holds_the_fit_to_the_bit(which: str, name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    fit = request.getfixturevalue(which)
    path = fit.save(tmp_path / name)
    assert path == tmp_path / name
    assert list(tmp_path.iterdir()) == [path]
    again = lz.load(path)
    assert again.entry.name == "earthquakes"
    assert again.entry.spec == fit.entry.spec
    for field in ("params", "prior"):
        assert_same_bits(getattr(again, field), getattr(fit, field))
    np.testing.assert_array_equal(again.elbo_trace, fit.elbo_trace)
    np.testing.assert_array_equal(again.seconds_trace, fit.seconds_trace)
    for field in ("method", "library", "seed", "converged", "reason", "elbo", "num_steps", "versions", "label"):
        assert getattr(again, field) == getattr(fit, field), field
    for found, expected in zip(again.restarts, fit.restarts, strict=True):
        assert found._replace(params=None) == expected._replace(params=None)
        assert_same_bits(found.params, expected.params)
    assert repr(again) == repr(fit)


def test_a_loaded_fit_works(exact: Any, tmp_path: Path) -> None:
    again = lz.load(exact.save(tmp_path / "fit.npz"))
    data = catalogue(exact.entry, 12, seed=3)
    for found, expected in (
        (again.predict(data), exact.predict(data)),
        (again.evaluate(data, 20), exact.evaluate(data, 20)),
    ):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    for method in (again.predict, again.evaluate, again.to_arviz):
        with pytest.raises(lz.UserError, match="pass data="):
            method()
    with pytest.raises(lz.UserError, match="data is a ndarray"):
        again.predict(np.zeros((3, 2)))


def refused(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(lz.UserError) as raised:
        lz.load(path)
    message = str(raised.value)
    assert "\n" not in message
    return message


def loaded_or_refused(path: Path) -> Any:
    """The fit, None where it is refused with one line."""
    try:
        return lz.load(path)
    except lz.UserError as error:
        message = str(error)
    assert "\n" not in message
    return None


def rewritten(path: Path, **changes: Any) -> Path:
    """The file again, with other fields in its summary."""
    with np.load(path) as file:
        arrays = dict(file)
    summary = json.loads(str(arrays.pop("summary"))) | changes
    np.savez(path, summary=json.dumps(summary), **arrays)
    return path


def test_damaged_files_are_one_line(full: Any, tmp_path: Path) -> None:
    """Cut off anywhere, or with any one byte changed: it loads whole, or it is refused in a line."""
    path = full.save(tmp_path / "fit.npz")
    whole = path.read_bytes()
    for length in [0, 1, 3, 10, *range(20, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        assert str(path) in refused(path)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        again = loaded_or_refused(path)
        if again is not None:  # a byte that says nothing: dates, attributes
            assert_same_bits(again.params, full.params)


class Trap:
    """What a pickle could do to whoever opens it."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("sprung"),))


def test_foreign_files_are_one_line(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fit.npz"
    assert "does not exist" in refused(path)
    assert refused(tmp_path)  # a folder
    path.write_text("longitude,latitude\n1,2\n", encoding="utf-8")
    assert "not a fit" in refused(path)
    path.write_bytes(pickle.dumps(Trap()))
    assert "not a fit" in refused(path)
    np.savez(path, x=np.ones(3))
    assert "not a fit" in refused(path)
    with path.open("wb") as file:
        np.save(file, np.ones(3))
    assert "not a fit" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("summary.txt", "{}")
    assert "not a fit" in refused(path)
    full.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"phi.loc_mean": np.array([Trap()], dtype=object)}))
    assert "not a fit" in refused(path)
    buffer = io.BytesIO()
    np.save(buffer, np.array([Trap()], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())
    assert "not a fit" in refused(path)
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": FORMAT + 1}, f"this version reads {FORMAT}"),
        ({"format": None}, f"this version reads {FORMAT}"),
        ({"model": "earthquake"}, "did you mean 'earthquakes'"),
        ({"spec": {"num_components": -1}}, "num_components is -1"),
        ({"spec": {"weights": "heavy"}}, "no weights 'heavy'"),
        ({"spec": {"unheard_of": 1}}, "no option 'unheard_of'"),
        ({"spec": [1, 2]}, "not a fit"),
        ({"spec": None}, "not a fit"),
        ({"restarts": [{"elbo": 1.0}]}, "not a fit"),
        ({"restarts": 3}, "not a fit"),
        ({"spec": FULL | {"num_components": 4}}, "prior"),
        ({"spec": FULL | {"noise": "known"}}, "prior"),
    ],
)
def test_a_summary_of_another_kind_is_one_line(
    full: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(rewritten(full.save(tmp_path / "fit.npz"), **changes))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phi.loc_mean", np.zeros((3, 5))),
        ("phi.loc_mean", np.full((3, 2), np.nan)),
        ("phi.loc_mean", np.array(["a", "b"])),
        ("phi.unheard_of", np.zeros(3)),
        ("prior.unheard_of", np.zeros(3)),
        ("prior.loc_variance", np.array(-1.0)),
        ("trace.elbo", np.zeros(0)),
        ("phi.loc_mean", None),
        ("prior.loc_variance", None),
        ("trace.elbo", None),
        ("summary", None),
    ],
    ids=str,
)
def test_arrays_that_do_not_belong_are_one_line(full: Any, tmp_path: Path, name: str, value: Any) -> None:
    """None: left out."""
    path = full.save(tmp_path / "fit.npz")
    with np.load(path) as file:
        arrays = dict(file) | {name: value}
    np.savez(path, **{each: array for each, array in arrays.items() if array is not None})
    assert refused(path)


# --- the same again ---------------------------------------------------------------------------------------------------

FIT = """
import hashlib, json, sys
import latentzoo as lz, numpy as np
from latentzoo.models.language.contract import leaves
rng = np.random.default_rng(0)
zoo = lz.get("earthquakes", num_components=4, weights="dirichlet", noise="per_component")
data = zoo.Data(rng.normal(size=(5000, 2)), rng.poisson(5.0, 5000).astype(float))
fit = lz.fit(zoo, data, seed=7, num_restarts=2, tol=1e-6, progress=False)
arrays = [*leaves(fit.params.phi).values(), fit.elbo_trace]
"""
PRINT = "print(hashlib.sha256(b''.join(a.tobytes() for a in arrays)).hexdigest())"


def test_the_same_seed_is_the_same_fit_in_two_processes() -> None:
    scope: dict[str, Any] = {}
    exec(FIT, scope)
    here = hashlib.sha256(b"".join(a.tobytes() for a in scope["arrays"])).hexdigest()
    there = subprocess.run([sys.executable, "-c", FIT + PRINT], capture_output=True, text=True)
    assert there.returncode == 0, there.stderr
    assert there.stdout.strip() == here
