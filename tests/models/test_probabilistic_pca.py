"""Probabilistic PCA in use: hard data, missing cells, files, both libraries, pictures."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import optax
import pyro
import pytest

import latentzoo as lz
from latentzoo.inference import pictures
from latentzoo.inference.closed_form import probabilistic_pca as closed_form
from latentzoo.models.language.contract import leaves
from latentzoo.models.probabilistic_pca import directions
from latentzoo.models.readers.table import names_of

IRIS = ("Sepal.Length", "Sepal.Width", "Petal.Length", "Petal.Width")


def table(zoo: Any, num_rows: int = 40, missing: float = 0.0, seed: int = 0) -> Any:
    """Rows along two directions of five, with noise; missing: the part of the cells that are."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 2)) @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(num_rows, 5)) + 2.0
    x[rng.random(x.shape) < missing] = np.nan
    return zoo.Data(x)


# --- hard data --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
PLANE = RNG.normal(size=(30, 2)) @ RNG.normal(size=(2, 5))
X = PLANE + 0.3 * RNG.normal(size=(30, 5))
HOLES = RNG.random(X.shape) < 0.2
# Name: rows, number of latents.
HARD: dict[str, tuple[np.ndarray, int]] = {
    "a constant column": (np.c_[X, np.full(30, 0.1)], 2),
    "two equal columns": (np.c_[X, X[:, 0]], 2),
    "duplicate rows": (np.repeat(X[:4], 8, 0), 2),
    "one row more than needed": (X[:4], 2),
    "as many latents as can be": (X, 4),
    "more features than rows": (RNG.normal(size=(6, 40)), 3),
    "noise alone": (RNG.normal(size=(30, 5)), 2),
    "fewer directions than features": (PLANE, 1),
    "almost no noise": (PLANE + 1e-5 * X, 2),
    "an offset of 1e9": (X + 1e9, 2),
    "a spread of 1e9": (X * 1e9, 2),
    "a spread of 1e-9": (X * 1e-9, 2),
    "a spread of 1e150": (X * 1e150, 2),
    "columns of other units": (X * [1e6, 1.0, 1e-2, 1e3, 1.0], 2),
}
INCOMPLETE: dict[str, tuple[np.ndarray, int]] = {
    "cells": (np.where(HOLES, np.nan, X), 2),
    "most cells": (np.where(RNG.random(X.shape) < 0.7, np.nan, X), 1),
    "a row": (np.where(np.arange(30)[:, None] == 5, np.nan, X), 2),
    "all of a column but one": (np.where((np.arange(30)[:, None] > 0) & (np.arange(5) == 2), np.nan, X), 2),
    "half of a column, the first half": (np.where((np.arange(30)[:, None] < 15) & (np.arange(5) == 0), np.nan, X), 2),
    "cells of columns of other units": (np.where(HOLES, np.nan, X * [1e5, 1.0, 1e-2, 1e3, 1.0]), 2),
}


@pytest.mark.parametrize("case", HARD)
def test_hard_data_have_the_same_fit_by_both_methods(case: str) -> None:
    """With rows that are all the same in a column, and so on, warnings being errors."""
    x, size = HARD[case]
    zoo = lz.get("probabilistic_pca", num_latents=size)
    best = lz.fit(zoo, zoo.Data(x), progress=False)
    fit = lz.fit(zoo, zoo.Data(x), "em", tol=1e-12, progress=False)
    assert fit.converged
    assert fit.elbo == pytest.approx(best.elbo, rel=1e-8)
    assert fit.num_steps < 300
    assert all(np.isfinite(leaf).all() for leaf in leaves(fit.params).values())
    assert not fit.restarts[0].flaw


@pytest.mark.parametrize("case", INCOMPLETE)
def test_missing_cells_have_a_fit(case: str) -> None:
    x, size = INCOMPLETE[case]
    zoo = lz.get("probabilistic_pca", num_latents=size)
    fit = lz.fit(zoo, zoo.Data(x), "em", progress=False)
    assert fit.converged
    assert (np.diff(fit.elbo_trace) > -1e-9).all()
    found = fit.predict()
    assert all(np.isfinite(leaf).all() for leaf in found.values())
    lonely = np.isnan(x).all(1)
    np.testing.assert_allclose(found["latent_sd"][lonely], 1.0)  # nothing is known of them but the prior
    np.testing.assert_allclose(found["x"][lonely], np.broadcast_to(fit.params.theta.loc, (lonely.sum(), 5)))


def test_a_likelihood_without_a_maximum_is_told_after_em() -> None:
    """With missing cells it cannot be told before: the noise falls to zero, and EM stops there with a note."""
    zoo = lz.get("probabilistic_pca")
    with pytest.warns(lz.Note, match=r"the noise variance is .*rounding.*no maximum"):
        fit = lz.fit(zoo, zoo.Data(np.where(HOLES, np.nan, PLANE)), "em", progress=False)
    assert fit.converged
    assert np.isfinite(fit.elbo_trace).all()


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact", "em"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[:, :2], "num_latents is 2: it must be below the number of features, which is 2"),
        (X[:1], "data.x has 1 row"),
        (np.where(np.arange(5) == 3, np.nan, X), "data.x[:, 3] has no observed cell"),
        (np.full((6, 5), 0.1), "nothing varies"),
        (X[:3], "varies along 2 directions only"),
        (np.repeat(X[:2], 9, 0), "varies along 1 direction only"),
        (PLANE + 1e6, "varies along 2 directions only"),
        (X * [1e9, 1.0, 1.0, 1.0, 1.0], "columns of like scale"),
    ],
)
def test_data_without_a_maximum_are_refused_in_one_line(method: str, x: np.ndarray, words: str) -> None:
    zoo = lz.get("probabilistic_pca")
    with pytest.raises(lz.UserError) as error:
        lz.fit(zoo, zoo.Data(x), method, progress=False)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_exact_names_the_first_missing_cell() -> None:
    zoo = lz.get("probabilistic_pca")
    x = X.copy()
    x[7, 3] = x[9, 1] = np.nan
    with pytest.raises(lz.UserError, match=r"data\.x\[7, 3\] is missing.*method='em'"):
        lz.fit(zoo, zoo.Data(x), progress=False)


def test_other_mistakes_are_one_line() -> None:
    zoo = lz.get("probabilistic_pca")
    fit = lz.fit(zoo, zoo.Data(X), progress=False)
    with pytest.raises(lz.UserError, match=r"data\.x has 4 features: these parameters are of 5"):
        fit.predict(zoo.Data(X[:, :4]))
    with pytest.raises(lz.UserError, match=r"data\.x\[0, 1\] is inf"):
        lz.fit(zoo, zoo.Data(np.where(np.arange(5) == 1, np.inf, X)), progress=False)
    with pytest.raises(lz.UserError, match="num_latents is 0"):
        lz.get("probabilistic_pca", num_latents=0)
    with pytest.raises(lz.UserError, match="field of the prior"):
        zoo.prior(loc=1.0)


# --- what a fit says --------------------------------------------------------------------------------------------------


def test_missing_cells_are_filled_with_their_conditional_means() -> None:
    """By conditioning the joint normal of the features; observed cells are told without their noise."""
    zoo = lz.get("probabilistic_pca")
    fit = lz.fit(zoo, table(zoo), progress=False)
    theta = fit.params.theta
    row, seen = np.array([np.nan, 1.0, np.nan, 3.0, 2.5]), np.array([False, True, False, True, True])
    covariance = theta.weight @ theta.weight.T + np.exp(2.0 * theta.noise_log_scale) * np.eye(5)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[np.ix_(seen, ~seen)]).T
    expected = theta.loc[~seen] + gain @ (row[seen] - theta.loc[seen])
    found = fit.predict(zoo.Data(row[None]))
    np.testing.assert_allclose(found["x"][0, ~seen], expected, rtol=1e-10)
    np.testing.assert_allclose(found["x"][0], theta.weight @ found["latent"][0] + theta.loc, rtol=1e-12)
    draws = fit.posterior(3)
    assert {name: leaf.shape for name, leaf in draws.items()} == {
        "weight": (3, 5, 2),
        "loc": (3, 5),
        "noise_variance": (3,),
    }
    again = closed_form.predict_at(draws, fit.params, zoo.Data(row[None]), zoo.Prior(), zoo.spec)
    for name, leaf in found.items():
        np.testing.assert_allclose(again[name], leaf, rtol=1e-12, atol=1e-12, err_msg=name)


def test_predictions_over_draws_that_differ_have_both_parts_of_their_variance() -> None:
    zoo = lz.get("probabilistic_pca")
    data = table(zoo, missing=0.2)
    one, other = (lz.fit(zoo, data, "em", tol=tol, progress=False) for tol in (0.1, 1e-9))
    draws = {site: np.concatenate([one.posterior(1)[site], other.posterior(1)[site]]) for site in one.posterior(1)}
    found = closed_form.predict_at(draws, one.params, data, zoo.Prior(), zoo.spec)
    first, second = one.predict(), other.predict()
    np.testing.assert_allclose(found["latent"], (first["latent"] + second["latent"]) / 2.0, atol=1e-12)
    squares = [each["latent_sd"] ** 2 + each["latent"] ** 2 for each in (first, second)]
    np.testing.assert_allclose(found["latent_sd"] ** 2 + found["latent"] ** 2, sum(squares) / 2.0, rtol=1e-9)


def test_iris(data_folder: Path, tmp_path: Path) -> None:
    """The published shares of R's prcomp(iris[1:4]): 0.9246 and 0.0531; and everything that hangs on a fit."""
    zoo = lz.get("probabilistic_pca")
    data = zoo.read(data_folder / "iris.csv", columns=IRIS)
    assert data.x.shape == (150, 4)
    assert names_of(data) == IRIS
    fit = lz.fit(zoo, data, progress=False)
    np.testing.assert_allclose(directions(fit.params.theta).shares, [0.9246, 0.0531], atol=5e-5)
    words = fit.describe()
    assert "+0.86 Petal.Length" in words
    assert "92.5%" in words
    fit.save(tmp_path / "fit.npz")
    back = lz.load(tmp_path / "fit.npz")
    assert back.describe() == words
    other = zoo.read(data_folder / "iris.csv", like=back.like)
    assert (other.x == data.x).all()
    assert back.evaluate(other)["log_density"] == pytest.approx(fit.elbo, rel=1e-12)
    assert lz.fit(zoo, data, "em", progress=False).elbo == pytest.approx(fit.elbo, rel=1e-7)


def test_faithful(data_folder: Path) -> None:
    zoo = lz.get("probabilistic_pca", num_latents=1)
    data = zoo.read(data_folder / "faithful.csv", columns=("eruptions", "waiting"))
    assert data.x.shape == (272, 2)
    fit = lz.fit(zoo, data, progress=False)
    (share,) = directions(fit.params.theta).shares
    values = np.linalg.eigvalsh(np.cov(data.x.T))
    assert share == pytest.approx(values[1] / values.sum(), rel=1e-10)


def test_files_keep_missing_cells_and_names(tmp_path: Path) -> None:
    zoo = lz.get("probabilistic_pca")
    path = tmp_path / "cells.csv"
    path.write_text("name,a,b,c\nx,1,NA,3\ny,,2.5,?\nz,4,5,6\n", encoding="utf-8")
    reading = zoo.reading(path)
    assert "name" in reading.summary
    np.testing.assert_array_equal(reading.data.x, [[1, np.nan, 3], [np.nan, 2.5, np.nan], [4, 5, 6]])
    assert names_of(reading.data) == ("a", "b", "c")
    zoo.write(reading.data, tmp_path / "again.csv")
    again = zoo.read(tmp_path / "again.csv")
    np.testing.assert_array_equal(again.x, reading.data.x)
    assert names_of(again) == ("a", "b", "c")
    with pytest.raises(lz.UserError, match="line 2"):
        zoo.read(path, columns=("name", "a"))


# --- Pyro and NumPyro -------------------------------------------------------------------------------------------------


def test_a_svi_loop_of_the_user_in_numpyro() -> None:
    zoo = lz.get("probabilistic_pca")
    data, prior = table(zoo, missing=0.2), zoo.Prior()
    params = zoo.init(data, prior)
    svi = numpyro.infer.SVI(zoo.model.numpyro, zoo.guide.numpyro, optax.adam(0.05), zoo.loss.numpyro())
    state = svi.run(jax.random.PRNGKey(0), 300, data, prior, params, progress_bar=False)
    found = zoo.params(state.params)
    best = lz.fit(zoo, data, "em", tol=1e-12, progress=False).elbo
    assert zoo.elbo(params, data, prior) < best - 10.0
    assert best - 0.5 < zoo.elbo(found, data, prior) < best + 1e-3  # in JAX's float32


def test_a_svi_loop_of_the_user_in_pyro() -> None:
    zoo = lz.get("probabilistic_pca")
    data, prior = table(zoo, missing=0.2), zoo.Prior()
    params = zoo.init(data, prior)
    loss = zoo.loss.pyro(num_particles=2, vectorize_particles=True)
    svi = pyro.infer.SVI(zoo.model.pyro, zoo.guide.pyro, pyro.optim.Adam({"lr": 0.1}), loss)
    for _ in range(150):
        svi.step(data, prior, params)
    best = lz.fit(zoo, data, "em", tol=1e-12, progress=False).elbo
    found = zoo.elbo(zoo.params(pyro.get_param_store()), data, prior)
    assert zoo.elbo(params, data, prior) < best - 10.0
    assert best - 0.5 < found <= best + 1e-9


def test_data_in_single_precision() -> None:
    """All is computed in the precision of the parameters."""
    zoo = lz.get("probabilistic_pca")
    narrow = zoo.Data(table(zoo, missing=0.2).x.astype(np.float32))
    fit = lz.fit(zoo, narrow, "em", progress=False)
    assert fit.elbo == lz.fit(zoo, zoo.Data(narrow.x.astype(np.float64)), "em", progress=False).elbo
    loss = zoo.loss.pyro().loss(zoo.model.pyro, zoo.guide.pyro, narrow, zoo.Prior(), fit.params)
    assert -loss == pytest.approx(fit.elbo, rel=1e-6)


def test_svi_approaches_the_exact_value() -> None:
    zoo = lz.get("probabilistic_pca")
    data = table(zoo)
    best = lz.fit(zoo, data, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lz.Note)
        fit = lz.fit(zoo, data, "svi", library="numpyro", num_steps=500, progress=False)
    assert best.elbo - 1e-3 < fit.elbo < best.elbo + 1e-9
    assert fit.trace.elbo[-1] == pytest.approx(fit.elbo, abs=0.01)  # its gradients have no variance
    np.testing.assert_allclose(fit.predict()["x"], best.predict()["x"], atol=0.02)


@pytest.mark.parametrize("library", ["pyro", "numpyro"])
def test_simulation_has_no_missing_cells(library: Any) -> None:
    zoo = lz.get("probabilistic_pca", num_latents=4)
    data, truth = zoo.simulate(seed=1, num_rows=6, library=library)
    assert data.x.shape == (6, 7)
    assert np.isfinite(data.x).all()
    shapes = {"weight": (7, 4), "loc": (7,), "noise_variance": (), "latent": (6, 4)}
    assert {site: np.shape(truth[site]) for site in shapes} == shapes
    assert zoo.dims()["weight"] == ("features", "latents")


def test_missing_cells_in_arviz() -> None:
    zoo = lz.get("probabilistic_pca")
    data = table(zoo, missing=0.2)
    found = lz.fit(zoo, data, "em", progress=False).to_arviz(num_draws=2)
    assert found.posterior["weight"].dims[2:] == ("features", "latents")
    np.testing.assert_array_equal(found.observed_data["x"], data.x)
    rows = closed_form.log_predictive(lz.fit(zoo, data, "em", progress=False).params, data, zoo.Prior(), zoo.spec)
    np.testing.assert_allclose(found.log_likelihood["obs"][0, 0], rows, rtol=1e-10)
    assert np.isfinite(found.posterior_predictive["x"]).all()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_latents", "num_rows", "missing"), [(1, 30, 0.0), (2, 30, 0.2), (3, 400, 0.0), (2, 5200, 0.001)]
)
def test_pictures(num_latents: int, num_rows: int, missing: float, tmp_path: Path) -> None:
    zoo = lz.get("probabilistic_pca", num_latents=num_latents)
    fit = lz.fit(zoo, table(zoo, num_rows, missing), "em", progress=False)
    (picture,) = (figure for name, figure in pictures.draw(fit).items() if name == "latent")
    rows, bars = picture.axes
    assert rows.get_xlabel().startswith("latent coordinate 0")
    heights = [patch.get_height() for patch in bars.patches]
    assert sum(heights) == pytest.approx(100.0)
    assert ("5,000 of the 5,200" in picture.get_suptitle()) == (num_rows > 5000)
    if num_latents > 1:
        drawn = sum(len(each.get_offsets()) for each in rows.collections if type(each).__name__ == "PathCollection")
        assert drawn == min(num_rows, 5000)
    fit.save(tmp_path / "fit.npz")
    (alone,) = pictures.draw(lz.load(tmp_path / "fit.npz"))["latent"].axes
    assert [patch.get_height() for patch in alone.patches] == heights


def test_a_picture_of_a_column_that_is_constant(tmp_path: Path) -> None:
    zoo = lz.get("probabilistic_pca")
    data = zoo.Data(np.c_[X[:, :3], np.ones(30)])
    paths = pictures.save(lz.fit(zoo, data, progress=False), tmp_path)
    assert "latent.png" in [path.name for path in paths]
