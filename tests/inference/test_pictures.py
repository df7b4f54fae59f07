"""Pictures: what is drawn, read from the artists of the figures."""

import dataclasses
import importlib
import struct
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.patches import Circle

import latentzoo as lz
from latentzoo.inference import pictures
from latentzoo.inference.pictures import trace
from latentzoo.inference.posterior import OwnGuide
from latentzoo.inference.run import Trace
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


@pytest.fixture(scope="module")
def sampled() -> Any:
    """A short run of NUTS from where CAVI ended, which compiles once."""
    init = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)  # whether so few draws agree is no matter here
        sizes = {"num_steps": 100, "num_warmup": 100, "num_chains": 2}
        return lz.fit(init.entry, init.data, "nuts", prior=init.prior, init=init, progress=False, **sizes)


def with_own_guide(fit: Any) -> Any:
    """The same posterior, but of a guide of the user's own: all that is known of it are its draws."""

    def mine(data: Any, prior: Any, params: Any) -> None:
        fit.entry.guide.numpyro(data, prior, fit.params)

    changed = {"method": "svi", "library": "numpyro", "guide": OwnGuide("mine", mine, needs_data=False)}
    return dataclasses.replace(fit, params=lz.Params(phi={}), **changed)


def with_noise(fit: Any, num_blocks: int = 40, **changed: Any) -> Any:
    """The fit as SVI has it: every 50 steps a bound with a noise of 0.5 nats, near the exact one in the end."""
    blocks = np.arange(1, num_blocks + 1)
    elbo = fit.elbo - 1000.0 * np.exp(-blocks) + 0.5 * np.random.default_rng(0).normal(size=num_blocks)
    changed = {"method": "svi", "library": "pyro", **changed}
    return dataclasses.replace(fit, trace=Trace(50 * blocks, elbo, 0.1 * blocks, 50.0 * blocks), **changed)


def with_chains(fit: Any, draws: Any = None, **stats: Any) -> Any:
    """The fit with other draws, or with other statistics of them."""
    chains = fit.chains._replace(stats={**fit.chains.stats, **stats})
    return dataclasses.replace(fit, chains=chains if draws is None else chains._replace(draws=draws))


def words(figure: Any) -> Iterator[Any]:
    """The boxes of all words of a figure, in pixels."""
    figure.canvas.draw()
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    texts = [text for legend in legends if legend for text in legend.get_texts()] + [figure._suptitle]
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return (text.get_window_extent() for text in texts if text.get_text() and text.get_visible())


def assert_legible(figure: Any) -> None:
    """No words overlap, and none leave the picture."""
    found = list(words(figure))
    width, height = figure.bbox.size
    for index, one in enumerate(found):
        assert min(one.x0, one.y0) >= 0.0
        assert one.x1 <= width
        assert one.y1 <= height
        for other in found[:index]:
            overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(overlap) <= 1.0, (one, other)


def test_every_file_of_pictures_belongs_to_a_model_or_is_general() -> None:
    files = {path.stem for path in Path(str(pictures.__file__)).parent.glob("*.py")} - {"__init__"}
    assert files - set(pictures.GENERAL) <= set(lz.names())
    assert set(pictures.GENERAL) <= files
    assert not set(pictures.GENERAL) & set(lz.names())


def test_a_general_picture_is_not_taken_for_that_of_a_model() -> None:
    fit = fitted()
    for name in pictures.GENERAL:
        assert list(pictures.draw(dataclasses.replace(fit, entry=dataclasses.replace(fit.entry, name=name)))) == [
            "elbo"
        ]


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


# --- SVI --------------------------------------------------------------------------------------------------------------


def test_a_noisy_bound_is_drawn_as_its_distance_from_the_exact_one() -> None:
    fit = with_noise(fitted())
    figure = pictures.elbo(fit)
    by_steps, by_seconds = figure.axes
    steps, gap = by_steps.lines[0].get_data()
    np.testing.assert_array_equal(steps, fit.trace.step)
    np.testing.assert_array_equal(gap, fit.elbo - fit.elbo_trace)
    assert (gap < 0.0).any()  # which a logarithm could not show
    assert by_steps.get_yscale() == "symlog"
    np.testing.assert_array_equal(by_seconds.lines[0].get_xdata(), fit.seconds_trace)
    assert figure.get_suptitle().startswith(f"earthquakes, svi-pyro: ELBO {fit.elbo:.6g} nats after 2000 steps")
    keys = [text.get_text() for text in by_steps.get_legend().get_texts()]
    assert keys == ["noisy: means over blocks of steps", "the final bound, exact"]
    assert_legible(figure)


def test_an_estimated_bound_has_its_error() -> None:
    fit = with_noise(fitted(), guide=OwnGuide("AutoNormal", print, needs_data=False), elbo_error=0.25)
    figure = pictures.elbo(fit)
    assert f"svi-pyro with AutoNormal: ELBO {fit.elbo:.2f} ± 0.25 nats" in figure.get_suptitle()
    assert "± standard error" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert_legible(figure)


def test_noisy_restarts_end_near_one_another() -> None:
    best = fitted(num_restarts=3)
    ends = best.elbo - np.array([0.0, 0.3, 70.0])
    restarts = tuple(
        restart._replace(elbo=elbo, num_steps=1500) for restart, elbo in zip(best.restarts, ends, strict=True)
    )
    figure = pictures.elbo(with_noise(best, restarts=restarts))
    assert "2 of 3 restarts ended within 1 nat of this bound" in figure.get_suptitle()
    (marks,) = [line for line in figure.axes[0].lines if line.get_marker() == "D"]
    np.testing.assert_allclose(marks.get_ydata(), [0.3, 70.0])
    assert_legible(figure)


@pytest.mark.parametrize("elbo", [-300.0, -np.inf, np.nan])
def test_a_single_block_has_a_picture_too(elbo: float) -> None:
    fit = with_noise(fitted(), num_blocks=1)
    pictures.elbo(dataclasses.replace(fit, trace=fit.trace._replace(elbo=np.array([elbo])))).canvas.draw()


@pytest.mark.parametrize("spec", [{"noise": "shared"}, {"noise": "per_component", "weights": "dirichlet"}])
def test_draws_give_the_centres_that_the_closed_form_gives(spec: dict[str, str]) -> None:
    zoo = lz.get("earthquakes", num_components=3, **spec)
    exact = lz.fit(zoo, events(120), progress=False)
    fit = with_own_guide(exact)
    for one, other in zip(earthquakes.centres(exact), earthquakes.centres(fit), strict=True):
        sd = (one.rate_high - one.rate_low) / 4.0
        # Some five Monte Carlo errors.
        np.testing.assert_allclose(other.place, one.place, atol=0.05 * one.radius)
        assert other.radius == pytest.approx(one.radius, rel=0.1)
        assert other.noise == pytest.approx(one.noise, rel=0.02)
        assert other.rate == pytest.approx(one.rate, abs=0.12 * sd)
        assert other.rate_low == pytest.approx(one.rate_low, abs=0.3 * sd)
        assert other.rate_high == pytest.approx(one.rate_high, abs=0.3 * sd)
        assert other.share == pytest.approx(one.share, abs=1e-3)
    (axes,) = pictures.draw(fit)["map"].axes
    assert axes.get_title().startswith("3 super-epicentres by svi-numpyro with mine, ELBO")


@pytest.mark.slow
def test_an_autoguide_has_its_pictures(tmp_path: Path) -> None:
    with pytest.warns(Note, match="not converged"):
        fit = fitted(method="svi", guide="AutoNormal", num_steps=200)
    assert [path.name for path in pictures.save(fit, tmp_path)] == ["elbo.png", "map.png"]
    steps, _ = pictures.elbo(fit).axes[0].lines[0].get_data()
    np.testing.assert_array_equal(steps, [50, 100, 150, 200])
    loaded = lz.load(fit.save(tmp_path / "fit.npz"))
    for one, other in zip(earthquakes.centres(fit), earthquakes.centres(loaded), strict=True):
        np.testing.assert_array_equal(one.place, other.place)
        assert other.share is None


# --- samplers ---------------------------------------------------------------------------------------------------------


def test_a_sampler_has_a_trace_in_place_of_the_bound(sampled: Any, tmp_path: Path) -> None:
    assert [path.name for path in pictures.save(sampled, tmp_path)] == ["trace.png", "map.png"]
    figure = pictures.draw(sampled)["trace"]
    found = sampled.diagnostics()
    title = figure.get_suptitle()
    assert title.startswith("earthquakes, nuts-numpyro: 2 chains of 100 draws, ")
    assert f"largest R-hat {found['r_hat']:.4f}, smallest bulk ESS {found['ess_bulk']:.0f}" in title
    assert f"{found['num_divergences']:.0f} divergent draw" in title
    assert "the 8 of 9 coordinates with the largest R-hat" in title
    left, right = figure.axes[::2], figure.axes[1::2]
    assert len(right) == 8
    for density, axes in zip(left, right, strict=True):
        site, _, index = density.get_title(loc="left").rstrip("]").partition("[")
        draws = sampled.chains.draws[site][(..., *(int(part) for part in index.split(", ")))]
        for chain, line in zip(draws, axes.lines, strict=False):
            np.testing.assert_array_equal(line.get_data(), [np.arange(100), chain])
        for line in density.lines[:2]:  # a density, but for the little that lies beyond the draws
            assert np.trapezoid(*line.get_data()[::-1]) == pytest.approx(1.0, abs=0.05)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["chain 0", "chain 1"]
    assert_legible(figure)


def test_the_coordinates_that_agree_least_come_first(sampled: Any) -> None:
    found, total = trace.worst(sampled.chains)
    assert total == 9
    assert [each.r_hat for each in found] == sorted((each.r_hat for each in found), reverse=True)
    assert found[0].r_hat == pytest.approx(sampled.diagnostics()["r_hat"])
    # What never moves has no R-hat, and comes last.
    rate = sampled.chains.draws["rate"].copy()
    rate[..., 1] = 3.0
    last = trace.worst(sampled.chains._replace(draws={"rate": rate}))[0][-1]
    assert last.name == "rate[1]"
    assert np.isnan(last.r_hat)


def test_a_chain_that_is_stuck_is_a_line(sampled: Any) -> None:
    rate = sampled.chains.draws["rate"].copy()
    rate[0, :, 1] = 3.0
    fit = with_chains(sampled, {**sampled.chains.draws, "rate": rate})
    figure = trace.draw(fit, fit.chains)
    assert figure.axes[0].get_title(loc="left") == "rate[1]"
    assert list(figure.axes[0].lines[0].get_xdata()) == [3.0, 3.0]
    assert_legible(figure)


def test_divergent_draws_are_marked(sampled: Any) -> None:
    diverging = np.zeros((2, 100), bool)
    diverging[0, [7, 30]] = diverging[1, 50] = True
    figure = trace.draw(fit := with_chains(sampled, diverging=diverging), fit.chains)
    assert "3 divergent draws" in figure.get_suptitle()
    assert figure.legends[0].get_texts()[-1].get_text() == "a divergent draw"
    (first, *_), _ = trace.worst(fit.chains)
    for axes, at in zip(figure.axes[:2], (first.draws[diverging], [7, 30, 50]), strict=True):
        (marks,) = [line for line in axes.lines if line.get_marker() == "|"]
        np.testing.assert_array_equal(marks.get_xdata(), at)
    assert_legible(figure)


def test_one_chain_has_no_r_hat_and_a_long_one_is_thinned(sampled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_DRAWS", 30)
    draws = {site: values[:1] for site, values in sampled.chains.draws.items()}
    fit = with_chains(sampled, draws, diverging=np.zeros((1, 100), bool))
    figure = trace.draw(fit, fit.chains)
    assert "1 chain of 100 draws" in figure.get_suptitle()
    assert "no R-hat of one chain" in figure.get_suptitle()
    assert "the first 8 of 9 coordinates" in figure.get_suptitle()
    assert figure.axes[-1].get_xlabel() == "draw (one in 4 is drawn)"
    np.testing.assert_array_equal(figure.axes[1].lines[0].get_xdata(), np.arange(0, 100, 4))


def test_many_chains_fit_in_the_key(sampled: Any) -> None:
    draws = {site: np.concatenate([values] * 10) for site, values in sampled.chains.draws.items()}
    fit = with_chains(sampled, draws, diverging=np.ones((20, 100), bool))
    figure = trace.draw(fit, fit.chains)
    assert "chain 9, and so on" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert_legible(figure)


def test_the_map_of_a_sampler_is_that_of_its_draws(sampled: Any) -> None:
    (axes,) = pictures.draw(sampled)["map"].axes
    assert axes.get_title() == "3 super-epicentres by nuts-numpyro, 2 chains of 100 draws"
    circles = [patch for patch in axes.patches if isinstance(patch, Circle)]
    around, regions = circles[::2], circles[1::2]
    loc = sampled.chains.draws["loc"].reshape(-1, 3, 2)
    np.testing.assert_allclose([c.center for c in around], loc.mean(0))
    np.testing.assert_allclose([c.radius for c in around], 2.0 * np.sqrt(sampled.prior.noise_variance))
    for k, region in enumerate(regions):
        assert (np.hypot(*(loc[:, k] - region.center).T) <= region.radius).mean() == pytest.approx(0.95, abs=0.005)
    found = earthquakes.centres(sampled)
    rate = sampled.chains.draws["rate"].reshape(-1, 3)
    np.testing.assert_allclose([centre.rate_low for centre in found], np.quantile(rate, 0.025, axis=0))
    np.testing.assert_allclose([centre.rate_high for centre in found], np.quantile(rate, 0.975, axis=0))
    assert sum(centre.share for centre in found) == pytest.approx(1.0)
    # NUTS began where CAVI ended: component for component, they found the same.
    for one, other in zip(earthquakes.centres(fitted()), found, strict=True):
        assert np.hypot(*(one.place - other.place)) < one.radius


def test_a_sampler_that_was_loaded_has_its_pictures(sampled: Any, tmp_path: Path) -> None:
    loaded = lz.load(sampled.save(tmp_path / "fit.npz"))
    found = pictures.draw(loaded)
    assert list(found) == ["trace", "map"]
    assert not list(drawn(found["map"].axes[0]))
