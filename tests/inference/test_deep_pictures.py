"""The pictures of deep models: what is drawn, read from the artists of the figures."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import autoencoder, pictures
from latentzoo.inference.autoencoder import fit_autoencoder
from latentzoo.inference.pictures import deep, panels
from latentzoo.inference.result import Fit, Restart
from latentzoo.inference.run import Trace

GENERAL = {"samples", "reconstructions"}
OWN = {
    "vae": {"interpolations", "latent"},
    "two_latent_vae": {"interpolations", "latent_first", "latent_second", "factors"},
    "mixture_vae": {"interpolations", "latent", "components"},
    "discrete_vae": {"codes"},
    "semisupervised_vae": {"interpolations", "latent", "styles"},
}


QUICK = 20  # steps of the autoencoder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "fit_autoencoder", functools.partial(fit_autoencoder, num_steps=QUICK))


def fitted(name: str, x: Any, label: Any = None, **spec: Any) -> Any:
    """A fit that has taken no step: what is drawn does not ask how good it is."""
    zoo = lz.get(name, hidden=(3,), **spec)
    data = rows(zoo, x, label)
    prior = zoo.prior(data)
    params, trace = zoo.init(data, prior, 0), Trace(*np.array([[1.0], [-5.0], [0.1], [1.0]]))
    restarts = (Restart(-5.0, True, 1, params),)
    how = {"method": "svi", "library": "numpyro", "seed": 0, "elbo": -5.0, "trace": trace, "compile_seconds": 0.0}
    return Fit(zoo, prior, params, converged=True, reason="", restarts=restarts, versions={}, data=data, **how)


def rows(zoo: Any, x: Any, label: Any = None) -> Any:
    if "label" not in zoo.Data._fields:
        return zoo.Data(x=np.asarray(x))
    return zoo.Data(x=np.asarray(x), label=np.full(len(x), -1) if label is None else label)


def images(size: int = 30, side: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((size, side * side))


def tiles(axes: Any, side: int, columns: int) -> np.ndarray:
    """The images of a grid, one after the other."""
    canvas = np.asarray(axes.images[0].get_array().filled(np.nan))
    lines = canvas.shape[0] // (side + 1)
    return (
        canvas.reshape(lines, side + 1, columns, side + 1)
        .transpose(0, 2, 1, 3)[:, :, :side, :side]
        .reshape(-1, side * side)
    )


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", ["images", "table"])
def test_every_deep_model_has_its_pictures(name: str, kind: str) -> None:
    x = images(12) if kind == "images" else np.random.default_rng(0).normal(size=(12, 3)) * [1.0, 100.0, 0.0]
    spec = {} if kind == "images" else {"likelihood": "gaussian"}
    found = pictures.draw(fitted(name, x, **spec))
    assert GENERAL | OWN[name] | ({"manifold"} if name == "vae" else set()) == set(found)
    for figure in found.values():
        figure.canvas.draw()
        assert figure.get_suptitle().startswith(name)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (20, 1)])
def test_a_row_or_a_feature_is_enough(name: str, shape: tuple[int, int]) -> None:
    x = np.full(shape, 0.5)  # the features are constant, too
    fit = fitted(name, x, num_latents=1, likelihood="gaussian")
    found = pictures.draw(fit)
    assert set(found) >= GENERAL
    for figure in found.values():
        figure.canvas.draw()


@pytest.mark.parametrize("name", OWN)
def test_a_fit_without_data_draws_what_the_model_makes(name: str) -> None:
    found = pictures.draw(dataclasses.replace(fitted(name, images(6)), data=None))
    assert "samples" in found
    assert not {"reconstructions", "latent", "interpolations"} & set(found)
    assert len(found["samples"].axes) == 1


def test_reconstructions_stand_under_their_rows() -> None:
    fit, test = fitted("vae", images()), images(seed=1)
    figure = pictures.draw(fit, rows(fit.entry, test))["reconstructions"]
    above, below, plain = figure.axes
    assert above.get_title(loc="left") == "30 test rows"
    real, made = tiles(above, 5, 16), tiles(below, 5, 16)
    row = [int(np.flatnonzero((test == each).all(1))[0]) for each in real]  # each is a row of the test data
    assert len(set(row)) == 16
    np.testing.assert_allclose(made, fit.predict(rows(fit.entry, test[row]))["x"], rtol=1e-12)
    assert "autoencoder" in plain.get_title(loc="left")
    fitted_to = fit_autoencoder(fit.data.x, fit.entry.spec, seed=fit.seed, num_steps=QUICK)
    np.testing.assert_allclose(tiles(plain, 5, 16), fitted_to.reconstruct(real), rtol=1e-12)


def test_ways_between_rows_start_and_end_at_them() -> None:
    fit = fitted("vae", images())
    model, plain = pictures.draw(fit)["interpolations"].axes
    length = deep.NUM_STEPS + 2
    for axes in (model, plain):
        ways = tiles(axes, 5, length).reshape(deep.NUM_PAIRS, length, 25)
        assert all((fit.data.x == row).all(1).any() for row in ways[:, [0, -1]].reshape(-1, 25))
    ways = tiles(model, 5, length).reshape(deep.NUM_PAIRS, length, 25)
    np.testing.assert_allclose(ways[0, 1], fit.predict(rows(fit.entry, ways[0, :1]))["x"][0], rtol=1e-12)
    np.testing.assert_allclose(ways[0, -2], fit.predict(rows(fit.entry, ways[0, -1:]))["x"][0], rtol=1e-12)


def test_every_code_is_drawn_once_and_no_class_lies_upon_all_others() -> None:
    x, label = images(200), np.random.default_rng(0).integers(-1, 3, 200)
    fit = fitted("semisupervised_vae", x, label, num_classes=3)
    axes = pictures.draw(fit)["latent"].axes[0]
    points = np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections])
    np.testing.assert_allclose(np.sort(points, axis=0), np.sort(fit.predict()["latent"], axis=0))
    colours = [tuple(each.get_facecolor()[0]) for each in axes.collections if len(each.get_offsets())]
    assert len(set(colours)) == 4  # three classes, and none
    assert len(colours) > 3 * len(set(colours))


def test_the_ellipses_are_those_of_the_components() -> None:
    fit = fitted("mixture_vae", images(), num_components=4)
    theta = fit.params.theta
    axes = pictures.draw(fit)["latent"].axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == deep.CIRCLE.shape[1]]
    assert len(lines) == 4
    for line, loc, log_scale in zip(lines, theta.loc, theta.log_scale, strict=True):
        away = (np.stack(line.get_data(), 1) - loc) / np.exp(log_scale)
        np.testing.assert_allclose((away**2).sum(1), 1.0, rtol=1e-6)


def test_many_latents_are_drawn_along_the_directions_in_which_codes_vary_most() -> None:
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    codes = rng.normal(size=(500, 4)) * [3.0, 2.0, 0.1, 0.0] @ turn + 5.0
    centre, plane, names = deep._plane(codes)
    np.testing.assert_allclose(abs(plane.T @ turn.T), np.eye(4)[:2], atol=0.05)
    np.testing.assert_allclose(((codes - centre) @ plane).var(0).sum(), codes.var(0).sum(), rtol=0.01)
    assert names[0].startswith(f"direction 0 of 4: {(codes @ plane[:, 0]).var() / codes.var(0).sum():.0%}")


def test_the_confusion_counts_every_row() -> None:
    label = np.random.default_rng(0).integers(3, size=40)
    fit = fitted("semisupervised_vae", images(40), label, num_classes=3)
    axes = pictures.draw(fit)["confusion"].axes[0]
    counts = np.zeros((3, 3), dtype=int)
    for text in axes.texts:
        column, row = (round(place) for place in text.get_position())
        counts[row, column] = int(text.get_text())
    given = fit.predict()["label"]
    np.testing.assert_array_equal(counts, [[((given == k) & (label == c)).sum() for c in range(3)] for k in range(3)])


def test_styles_are_one_latent_in_every_class() -> None:
    fit = fitted("semisupervised_vae", images(), num_classes=3)
    grid = tiles(pictures.draw(fit)["styles"].axes[0], 5, 4).reshape(-1, 4, 25)
    said = fit.predict(rows(fit.entry, grid[:, 0]))
    own = 1 + said["label"]
    np.testing.assert_allclose(grid[np.arange(len(grid)), own], said["x"], rtol=1e-12)


@pytest.mark.parametrize(("size", "side"), [(9, 0), (16, 0), (25, 5), (26, 0), (64, 8), (784, 28)])
def test_what_is_taken_for_an_image(size: int, side: int) -> None:
    assert panels.side_of(size) == side


def test_large_images_lose_pixels_and_not_places() -> None:
    x = np.arange(200.0**2)[None]
    canvas, pitch = panels.mosaic(x, 200, 1)
    assert pitch - 1 <= panels.MOST_PIXELS
    np.testing.assert_array_equal(canvas[: pitch - 1, : pitch - 1], x.reshape(200, 200)[::4, ::4])
