"""Pictures: what is drawn, read from the artists of the figures."""

import importlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import Circle

import latentzoo as lz
from latentzoo.inference import pictures
from latentzoo.models.language.errors import Note, UserError

earthquakes = importlib.import_module("latentzoo.inference.pictures.earthquakes")


def events(size: int, seed: int = 0, scale: float = 1.0) -> Any:
    """Three well separated groups of events, without the cost of a simulation."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=size)
    location = scale * (np.array([[10.0, 40.0], [30.0, 45.0], [20.0, 55.0]])[group] + rng.normal(size=(size, 2)))
    return lz.get("earthquakes").Data(location, rng.poisson(np.array([5.0, 20.0, 80.0])[group]).astype(float))


def fitted(size: int = 120, scale: float = 1.0, num_components: int = 3, **options: Any) -> Any:
    zoo = lz.get("earthquakes", num_components=num_components)
    return lz.fit(zoo, events(size, scale=scale), progress=False, **options)


def drawn(axes: Any) -> Iterator[PathCollection]:
    return (artist for artist in axes.collections if isinstance(artist, PathCollection))


def test_every_file_of_pictures_belongs_to_a_model() -> None:
    files = {path.stem for path in Path(str(pictures.__file__)).parent.glob("*.py")} - {"__init__"}
    assert files <= set(lz.names())


def test_the_files_are_png_and_pyplot_is_left_alone(tmp_path: Path) -> None:
    paths = pictures.save(fitted(), tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["elbo.png", "map.png"]
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", content[16:24])
        assert width > 600
        assert height > 300
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot make the folder"):
        pictures.save(fitted(), tmp_path / "file" / "folder")


def test_the_map_shows_every_event_and_centre() -> None:
    fit = fitted()
    (axes,) = pictures.draw(fit)["map"].axes
    offsets = np.concatenate([np.asarray(points.get_offsets()) for points in drawn(axes)])
    np.testing.assert_array_equal(np.unique(offsets, axis=0), np.unique(fit.data.location, axis=0))

    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    assert len(circles) == 2 * 3
    around, regions = circles[::2], circles[1::2]
    phi = fit.params.phi
    np.testing.assert_allclose([c.center for c in around], phi.loc_mean)
    np.testing.assert_allclose([c.radius for c in around], 2.0 * np.sqrt(fit.prior.noise_variance))
    # 95 % of draws of each centre lie in its region.
    rng = np.random.default_rng(0)
    for k, region in enumerate(regions):
        draws = phi.loc_mean[k] + np.exp(phi.loc_log_scale[k]) * rng.normal(size=(20_000, 2))
        inside = np.hypot(*(draws - region.center).T) < region.radius
        assert inside.mean() == pytest.approx(0.95, abs=0.01)  # six standard errors


def test_colour_shape_and_strength_tell_the_component_and_its_certainty() -> None:
    fit = fitted()
    (axes,) = pictures.draw(fit)["map"].axes
    for points in drawn(axes):
        assert len({tuple(colour[:3]) for colour in np.asarray(points.get_facecolor())}) == 1
    found = {tuple(np.asarray(points.get_facecolor())[0, :3]) for points in drawn(axes)}
    assert len(found) == 3
    assert len({earthquakes.look(k) for k in range(20)}) == 20


def test_the_legend_gives_rates_with_their_intervals() -> None:
    fit = fitted()
    (axes,) = pictures.draw(fit)["map"].axes
    lines = [text.get_text() for text in axes.get_legend().get_texts()]
    for k, centre in enumerate(earthquakes.centres(fit)):
        assert centre.rate_low < centre.rate < centre.rate_high
        assert lines[k].startswith(f"{k}   {centre.rate:.3g} ({centre.rate_low:.3g} to {centre.rate_high:.3g})")
    assert sum(centre.share for centre in earthquakes.centres(fit)) == pytest.approx(1.0)


def test_many_events_are_sampled_and_the_title_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earthquakes, "MOST_EVENTS", 50)
    (axes,) = pictures.draw(fitted())["map"].axes
    assert sum(len(points.get_offsets()) for points in drawn(axes)) == 50
    assert "50 of the 120 events are drawn" in axes.get_title()


def test_degrees_are_stretched_and_km_are_not() -> None:
    fit = fitted()
    (axes,) = pictures.draw(fit)["map"].axes
    assert axes.get_xlabel() == "longitude (degrees)"
    assert axes.get_aspect() == pytest.approx(1.0 / np.cos(np.deg2rad(fit.data.location[:, 1].mean())))
    (axes,) = pictures.draw(fitted(scale=20.0))["map"].axes
    assert axes.get_xlabel() == "x (km)"
    assert axes.get_aspect() == 1.0
    centred = fit.data.location - fit.data.location.mean(0)
    assert not earthquakes.look_like_degrees(centred)


@pytest.mark.parametrize("noise", ["shared", "per_component"])
def test_latent_noise_and_empty_centres_are_drawn(noise: str) -> None:
    zoo = lz.get("earthquakes", num_components=6, noise=noise, weights="dirichlet")
    fit = lz.fit(zoo, events(4), progress=False)
    (axes,) = pictures.draw(fit)["map"].axes
    assert len([patch for patch in axes.patches if isinstance(patch, Circle)]) == 12


@pytest.mark.parametrize("num_components", [1, 3])
def test_one_event_and_one_component_have_a_map(num_components: int, tmp_path: Path) -> None:
    fit = fitted(size=1, num_components=num_components)
    assert len(pictures.save(fit, tmp_path)) == 2


def test_a_fit_that_was_loaded_has_a_map_without_events(tmp_path: Path) -> None:
    loaded = lz.load(fitted().save(tmp_path / "fit.npz"))
    (axes,) = pictures.draw(loaded)["map"].axes
    assert not list(drawn(axes))
    assert len(axes.patches) == 6


def test_the_bound_is_drawn_as_its_distance_from_the_best() -> None:
    fit = fitted(num_restarts=4)
    by_steps, by_seconds = pictures.elbo(fit).axes
    steps, gap = by_steps.lines[0].get_data()
    np.testing.assert_array_equal(steps, np.arange(1, fit.num_steps + 1))
    np.testing.assert_allclose(gap[:-1], fit.elbo - fit.elbo_trace[:-1])
    assert np.isnan(gap[-1])  # the best itself has no logarithm
    assert by_steps.get_yscale() == "log"
    milliseconds, _ = by_seconds.lines[0].get_data()
    np.testing.assert_allclose(milliseconds, 1e3 * fit.seconds_trace)
    assert "of 4 restarts ended at this bound" in by_steps.figure.get_suptitle()


def test_a_single_step_has_a_picture_too() -> None:
    with pytest.warns(Note, match="not converged"):
        fit = fitted(num_steps=1)
    figure = pictures.elbo(fit)
    assert "not converged: num_steps = 1 came first" in figure.get_suptitle()
    assert "no step was below the best" in [text.get_text() for text in figure.axes[0].texts]
