"""Two modes in use: every command and method without data, files, pictures, the benchmark, and the ascent elsewhere."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import latentzoo as lz
from latentzoo.benchmarks import data_sets, race, two_modes
from latentzoo.benchmarks.runner import Context
from latentzoo.cli import main
from latentzoo.inference import ascent, pictures
from latentzoo.inference.run import drive
from latentzoo.models.language.ppl import pyro_handle

ZOO = lz.get("two_modes")
PRIOR = ZOO.prior(log_evidence=2.0, weights=[0.3, 0.7])


@pytest.fixture(scope="module")
def fit() -> Any:
    return lz.fit(ZOO, prior=PRIOR, num_restarts=5, progress=False)


# --- without data -----------------------------------------------------------------------------------------------------


def test_a_fit_needs_no_data(fit: Any) -> None:
    assert fit.data == ZOO.Data()
    assert fit.converged
    assert fit.elbo == max(run.elbo for run in fit.restarts)
    assert fit.predict()["mode"] == pytest.approx([0.0, 1.0], abs=1e-2)
    assert fit.evaluate() == {}
    assert "x[0]" in fit.describe()
    with pytest.raises(lz.UserError, match="observes nothing: there are no rows to leave out"):
        fit.loo()
    with pytest.raises(lz.UserError, match="data is a NoneType: give earthquakes's Data"):
        lz.fit(lz.get("earthquakes"))
    with pytest.raises(lz.UserError, match=r"observes nothing: it has no data, leave x\.csv out"):
        ZOO.read("x.csv")


def test_a_fit_that_is_loaded_needs_no_data_either(fit: Any, tmp_path: Path) -> None:
    back = lz.load(fit.save(tmp_path / "fit.npz"))
    assert back.data == ZOO.Data()
    assert ZOO.elbo(back.params, back.data, back.prior) == fit.elbo


def test_the_joint_density_has_the_evidence_of_the_target(fit: Any) -> None:
    """By SciPy's densities; ArviZ is given the same, and no density of rows."""
    draws = fit.posterior(40)
    x = draws["x"][:, 0]
    exact = 2.0 + logsumexp(np.log(PRIOR.weights) + norm.logpdf(x[:, None], PRIOR.loc[:, 0], PRIOR.scale), axis=1)
    np.testing.assert_allclose(fit.log_joint(draws), exact, rtol=1e-12)
    exported = fit.to_arviz(num_draws=40)
    assert not hasattr(exported, "log_likelihood")
    assert not hasattr(exported, "observed_data")
    np.testing.assert_allclose(exported.sample_stats["lp"].values[0], exact, rtol=1e-12)


def test_svi_with_a_guide_of_the_library_has_a_bound_below_the_evidence() -> None:
    """On a target that is nearly Gaussian, where it is nearly reached."""
    near = ZOO.prior(loc=[[-0.1], [0.1]], log_evidence=2.0)
    with pytest.warns(lz.Note, match="has not converged: num_steps"):
        own = lz.fit(ZOO, method="svi", prior=near, guide="AutoNormal", num_steps=500, progress=False)
    assert own.elbo == pytest.approx(2.0, abs=0.02)


def test_verify_has_no_minibatch_and_a_fit_can_be_verified(fit: Any) -> None:
    report = lz.verify(fit, library="numpyro")
    assert report.ok
    assert {row.quantity for row in report.rows} == {"elbo", "phi.loc", "phi.raw_scale"}


def test_a_multivariate_noise_goes_through_the_cholesky_factor() -> None:
    """In three dimensions, far from any symmetry, in both libraries."""
    report = lz.verify("two_modes", num_dims=3, num_points=1, seed=5, progress=False)
    assert report.ok, str(report)
    assert {row.way for row in report.rows} == {"common noise (x)"}


# --- methods ----------------------------------------------------------------------------------------------------------


def test_the_ascent_climbs_any_bound_with_a_gradient() -> None:
    """It ends where CAVI does, from the same start, on a model with rows and many parameters."""
    zoo = lz.get("earthquakes", num_components=2)
    rng = np.random.default_rng(1)
    centre = np.repeat([[0.0, 0.0], [4.0, 3.0]], 30, axis=0)
    data = zoo.Data(centre + rng.normal(size=(60, 2)), rng.poisson(np.repeat([3.0, 9.0], 30)))
    prior = zoo.prior(data)
    start = zoo.init(data, prior, seed=2)
    best = lz.fit(zoo, data, prior=prior, init=start, tol=1e-12, progress=False)
    steps = ascent.steps(zoo.closed_form, data, prior, zoo.spec, start, settings=ascent.Settings(), tol=1e-12)
    run = drive(steps, num_steps=500)
    assert run.converged
    assert run.elbo == pytest.approx(best.elbo, rel=1e-9)
    assert (np.diff(run.trace.elbo) >= 0.0).all()


@pytest.mark.parametrize(("mean", "sd"), [(1e4, 1.0), (3.0, 1e-6), (0.0, 1e4), (0.0, 1.0)])
def test_the_ascent_comes_back_from_far_away(mean: float, sd: float) -> None:
    start = lz.Params(phi=ZOO.Phi([mean], [[np.log(sd)]]))
    found = lz.fit(ZOO, init=start, progress=False)
    assert found.converged
    assert found.num_steps < 200
    assert -found.elbo == pytest.approx(0.688769, abs=1e-5) or -found.elbo == pytest.approx(0.840621, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.5, 2.0, True, "0.5", float("nan")])
def test_alpha_lies_between_its_limits(alpha: Any) -> None:
    with pytest.raises(lz.UserError, match=r"^alpha is .*: it must be a number above 0 and below 1"):
        lz.fit(ZOO, method="alpha", alpha=alpha)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scale": [1.0, 0.0]}, r"prior.scale\[1\] is 0: it must be positive"),
        ({"weights": [0.5, 0.6]}, r"prior.weights\[0\] is 0.5: it must be positive, and sum to one"),
        ({"loc": [0.0, 1.0]}, r"prior.loc has shape \(2,\): give an array of shape \(2, num_dims\)"),
        ({"log_evidence": np.inf}, "prior.log_evidence is inf: it must be finite"),
    ],
)
def test_a_target_that_is_none_is_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(lz.UserError, match=words):
        ZOO.prior(**given)
    with pytest.raises(lz.UserError, match="num_dims is 0"):
        lz.get("two_modes", num_dims=0)


# --- commands, pictures, benchmarks -----------------------------------------------------------------------------------


def run(line: str) -> int:
    return main(shlex.split(line))


def test_the_commands_run_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"fit two_modes --num-dims 2 --prior log_evidence=1 -o {tmp_path / 'fit'}") == 0
    assert "two_modes observes nothing" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "fit").iterdir()}
    assert names == {"fit.npz", "fit.json", "table.txt", "posterior.nc", "elbo.png", "target.png"}
    assert run(f"compare two_modes --methods ascent,alpha --alpha 0.9 -o {tmp_path / 'compare'}") == 0
    assert "no rows to hold out" in capsys.readouterr().out
    assert run("show two_modes") == 0
    assert run("fit two_modes --help") == 0
    assert "--data" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("simulate two_modes -o x.csv", "two_modes observes nothing: there are no data to write"),
        ("fit two_modes --data x.csv -o out", "No such option '--data'"),
        ("fit two_modes --method alpha --alpha 2 -o out", "alpha is 2.0: it must be a number above 0 and below 1"),
        ("bench --quick --data two_modes=x.csv -o out", "two_modes observes nothing, leave it out"),
    ],
)
def test_a_mistake_is_one_line(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(line) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_draws_have_pictures_and_hop_between_the_modes() -> None:
    with pytest.warns(lz.Note, match="one chain alone has no R-hat"):
        found = lz.fit(ZOO, method="nuts", num_steps=100, num_warmup=100, num_chains=1, progress=False)
    assert set(pictures.draw(found)) == {"trace", "target"}
    assert found.predict()["mode"].sum() == pytest.approx(1.0)


def test_pyro_has_a_transform_for_the_support_of_a_mixture() -> None:
    """Without one its NUTS and its AutoGuides refuse the model."""
    import torch

    dist = pyro_handle().dist
    parts = dist.Normal(torch.zeros(2, 3), torch.ones(2, 3)).to_event(1)
    mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
    assert torch.distributions.biject_to(mixture.support)(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_a_picture_of_many_dimensions_is_of_the_plane_through_both_modes() -> None:
    from latentzoo.inference.pictures.two_modes import plane_of

    for loc in (np.zeros((2, 5)), np.random.default_rng(0).normal(size=(2, 5)), np.eye(5)[:2]):
        zoo = lz.get("two_modes", num_dims=5)
        prior = zoo.prior(loc=loc)
        plane = plane_of(prior)
        np.testing.assert_allclose(plane.T @ plane, np.eye(2), atol=1e-12)
        between = loc[1] - loc[0]
        np.testing.assert_allclose(plane @ (plane.T @ between), between, atol=1e-9)
        assert "target" in pictures.draw(lz.fit(zoo, method="moments", prior=prior))


def test_other_suites_take_a_target_for_data(tmp_path: Path) -> None:
    context = Context(tmp_path, True, 0, {})
    (source,) = (each for each in data_sets.sources(context, 10, 5) if each.entry == "two_modes")
    task = source.load()
    assert (source.data, task.data, task.held_out, task.about) == ("target", ZOO.Data(), None, "nothing is observed")
    assert not any("two_modes" in unit.name for unit in race.units(context))


def test_the_sweep_finds_the_optima_and_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_modes, "GRID", {True: (5, 3)})
    monkeypatch.setattr(two_modes, "NUM_ALPHAS", {True: 5})
    monkeypatch.setattr(two_modes, "LEARNING_RATES", {True: (0.05, 0.1)})
    monkeypatch.setattr(two_modes, "NUM_STARTS", {True: 2})
    (unit,) = two_modes.units(Context(tmp_path, True, 0, {}))
    rows = list(unit.work())
    claims = [row for row in rows if row.ok is not None]
    assert len(claims) == 2 + (3 + 1) + 1 + 1
    assert all(row.ok for row in claims)
    text = two_modes.section(rows, tmp_path)
    assert "two_modes/two_modes.png" in text
    assert (tmp_path / two_modes.PICTURE).stat().st_size > 20_000
