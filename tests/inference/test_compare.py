"""Fits side by side: the distances that theory gives, honest tables, and pictures that show what is in them."""

import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference.compare import Comparison, ComparisonRow, _worth, compare
from latentzoo.inference.comparison import number, with_error
from latentzoo.inference.pictures import comparison as comparison_picture
from latentzoo.inference.result import Fit
from latentzoo.models.language.errors import UserError

Draws = dict[str, np.ndarray]
NUM_DRAWS = 4000
SPEC = {"num_components": 3, "noise": "shared"}
NUM_COORDINATES = 3 * 2 + 3 + 1


class Fake(Fit):
    """A fit with any draws and any numbers: what `compare` reads of one."""

    label = elbo = elbo_error = num_steps = seconds = compile_seconds = num_gradients = None  # no properties here

    def __init__(self, draws: Callable[[int, int], Draws], method: str = "cavi", **given: Any) -> None:
        zoo = given.pop("entry", None) or lz.get("earthquakes", **SPEC)
        data = zoo.Data(np.arange(10.0).reshape(5, 2), np.arange(5.0))
        sampler = method == "nuts"
        vars(self).update(
            entry=zoo,
            method=method,
            library="numpyro" if sampler else None,
            elbo=np.nan if sampler else -123.456,
            elbo_error=np.nan if sampler else 0.0,
            converged=True,
            reason="it is a fake",
            num_steps=7,
            seconds=0.5,
            compile_seconds=0.0,
            num_gradients=7.0,
            data=data,
            prior=zoo.prior(data),
            params=lz.Params(),
            found={"r_hat": 1.001, "ess_bulk": 900.0, "num_divergences": 0.0} if sampler else {"khat": 0.2},
            chains=SimpleNamespace(draws={"rate": np.zeros((4, 250, 3))}) if sampler else None,
            draw=draws,
            seen=[],
        )
        vars(self).update(given)

    def posterior(self, num_draws: int = 1000, seed: int = 0, sites: Any = None) -> Draws:
        return self.draw(num_draws, seed)

    def evaluate(self, data: Any = None, num_draws: int = 200, seed: int = 0) -> dict[str, float]:
        self.seen.append(data)
        size = float(len(data.strength))
        return {
            "log_density": -2.0 * size,
            "log_density_per_row": -2.0,
            "log_density_error": 0.01 * size,
            "num_rows": size,
        }

    def diagnostics(self, num_draws: int = 1000, seed: int = 0, data: Any = None) -> Mapping[str, float]:
        return self.found


def normal(
    size: int = 3, own: int = 0, shift: float = 0.0, scale: float = 1.0, order: Any = None
) -> Callable[[int, int], Draws]:
    """Draws of a posterior whose components lie apart; of another with its means and sds shifted and scaled.

    Each `own` gives independent draws. The sds are of very different sizes: distances must not care.
    """
    shapes = {"loc": (size, 2), "rate": (size,), "noise_variance": ()}
    order = np.arange(size) if order is None else np.asarray(order)

    def draw(num_draws: int, seed: int) -> Draws:
        fixed, rng = np.random.default_rng(7), np.random.default_rng([seed, own])
        found = {}
        for (site, shape), sd in zip(shapes.items(), (1e-3, 50.0, 1.0), strict=True):
            mean = sd * 30.0 * fixed.normal(size=shape)
            values = mean + sd * (shift + scale * rng.normal(size=(num_draws, *shape)))
            found[site] = values[:, order] if shape else values
        return found

    return draw


def row(found: Comparison, name: str) -> ComparisonRow:
    (only,) = (each for each in found.rows if each.name == name)
    return only


# --- what theory gives ------------------------------------------------------------------------------------------------


def test_the_same_posterior_is_within_the_noise() -> None:
    """And the noise is what it is said to be: on average over coordinates, the square of the distance is its square."""
    others = {f"same {own}": Fake(normal(own=own)) for own in range(1, 41)}
    found = compare({"nuts": Fake(normal(), "nuts", found={}), **others}, num_draws=NUM_DRAWS)
    rows = [row(found, name) for name in others]
    for each in rows:
        assert each.distance_error == pytest.approx(np.sqrt(2.0 / NUM_DRAWS), rel=0.02)
        assert each.distance < 2.0 * each.distance_error  # ten coordinates: chi-squared, beyond 40 of 10 once in 1e5
        assert each.sd_ratio == pytest.approx(1.0, abs=5.0 / np.sqrt(NUM_DRAWS * NUM_COORDINATES))
    # All share the draws of one reference, which is half of the variance: hence the width.
    assert np.mean([(each.distance / each.distance_error) ** 2 for each in rows]) == pytest.approx(1.0, abs=0.8)


def test_a_shift_by_two_deviations_is_a_distance_of_two() -> None:
    fits = {"nuts": Fake(normal(), "nuts", found={}), "moved": Fake(normal(own=1, shift=-2.0))}
    found = compare(fits, num_draws=NUM_DRAWS)
    moved = row(found, "moved")
    assert moved.distance == pytest.approx(2.0, abs=4.0 * moved.distance_error)
    assert moved.sd_ratio == pytest.approx(1.0, abs=0.05)
    sites = [each for each in found.sites if each.name == "moved"]
    assert len(sites) == NUM_COORDINATES
    for each in sites:
        assert each.distance == pytest.approx(-2.0, abs=0.15)  # the sign says where to
        assert each.distance == (each.mean - each.reference_mean) / each.reference_sd


def test_half_the_width_is_a_ratio_of_one_half() -> None:
    fits = {"narrow": Fake(normal(own=1, scale=0.5)), "nuts": Fake(normal(), "nuts", found={})}
    narrow = row(compare(fits, num_draws=NUM_DRAWS), "narrow")
    assert narrow.sd_ratio == pytest.approx(0.5, rel=0.03)
    # Narrow draws are less noisy: of the variance of the difference, a fifth is theirs.
    assert narrow.distance_error == pytest.approx(np.sqrt(1.25 / NUM_DRAWS), rel=0.02)
    assert narrow.distance < 2.0 * narrow.distance_error


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
def test_the_names_of_components_do_not_matter(order: list[int]) -> None:
    plain = compare({"nuts": Fake(normal(), "nuts"), "other": Fake(normal(own=1))})
    permuted = compare({"nuts": Fake(normal(), "nuts"), "other": Fake(normal(own=1, order=order))})
    assert plain.rows == permuted.rows
    assert plain.sites == permuted.sites


@pytest.mark.parametrize(
    ("ess", "total", "worth"),
    [
        (50.0, 1000, 50.0),  # every draw is taken: the noise is the chain's own
        (4000.0, 4000, 1000.0),  # a quarter of independent draws is as many independent draws
        (1e-9, 1000, 1.0),
        (np.nan, 1000, 1000.0),
    ],
)
def test_a_chain_is_worth_its_effective_draws(ess: float, total: int, worth: float) -> None:
    point = Fake(normal(own=1, scale=1e-6))
    chains = SimpleNamespace(draws={"rate": np.zeros((4, total // 4, 3))})
    chain = Fake(normal(), "nuts", found={"r_hat": 1.0, "ess_bulk": ess}, chains=chains)
    found = row(compare({"chain": chain, "point": point}), "point")
    assert found.distance_error == pytest.approx(1.0 / np.sqrt(worth), rel=1e-6)


def test_the_noise_of_draws_picked_from_chains_is_as_said() -> None:
    """Autocorrelated chains, made anew each time and picked from: the spread of their means is what is announced."""
    rng, rho, each, num_draws = np.random.default_rng(3), 0.8, 500, 400
    ess = 4 * each * (1.0 - rho) / (1.0 + rho)
    gaps, errors = [], []
    for seed in range(300):
        series = rng.normal(size=(4, each))
        for step in range(1, each):
            series[:, step] = rho * series[:, step - 1] + np.sqrt(1.0 - rho**2) * series[:, step]
        chains = SimpleNamespace(draws={"x": series})
        picked = rng.choice(series.ravel(), num_draws, replace=False)
        fit = Fake(normal(), "nuts", chains=chains)
        errors.append(1.0 / np.sqrt(_worth(fit, num_draws, ess)))
        gaps.append(picked.mean())
        assert seed == 0 or errors[-1] == errors[0]
    assert np.std(gaps) == pytest.approx(errors[0], rel=0.15)  # of 300: four standard errors


def test_the_reference_is_the_first_by_nuts_or_the_named_one() -> None:
    fits = {"a": Fake(normal(own=1, shift=1.0)), "b": Fake(normal(), "nuts"), "c": Fake(normal(own=2), "nuts")}
    found = compare(fits)
    assert found.reference == "b"
    assert (row(found, "b").distance, row(found, "b").distance_error, row(found, "b").sd_ratio) == (None, None, None)
    assert {each.distance for each in found.sites if each.name == "b"} == {None}
    assert row(found, "c").distance < 1.0 / 4.0
    named = compare(fits, reference="a")
    assert row(named, "a").distance is None
    assert row(named, "b").distance == pytest.approx(1.0, abs=0.2)


def test_without_a_reference_there_are_no_distances() -> None:
    """But components are still matched, with those of the first fit, so that coordinates can be read across."""
    found = compare({"a": Fake(normal()), "b": Fake(normal(own=1, order=[2, 0, 1]))})
    assert found.reference is None
    assert all(each.distance is None and each.sd_ratio is None for each in (*found.rows, *found.sites))
    a, b = ({(s.site, s.index): s for s in found.sites if s.name == name} for name in "ab")
    assert all(abs(a[place].mean - b[place].mean) < a[place].sd for place in a)
    assert "There is no reference" in str(found)


def test_constants_have_no_distance_and_points_no_width() -> None:
    """A site with no posterior sd in the reference is left out; a fit that is a point is infinitely over-confident."""

    def with_constant(draw: Callable[[int, int], Draws], spread: float) -> Callable[[int, int], Draws]:
        return lambda n, seed: {**draw(n, seed), "weights": np.full((n, 3), 0.1) + spread * np.arange(n)[:, None]}

    reference = Fake(with_constant(normal(), 0.0), "nuts", found={})
    plain = compare({"nuts": Fake(normal(), "nuts", found={}), "b": Fake(normal(own=1))})
    found = compare({"nuts": reference, "b": Fake(with_constant(normal(own=1), 1e-3))})
    assert row(found, "b") == row(plain, "b")
    assert [each.distance for each in found.sites if each.site == "weights"] == [None] * 6
    point = row(compare({"nuts": reference, "b": Fake(normal(own=1, scale=0.0))}), "b")
    assert point.sd_ratio == pytest.approx(0.0, abs=1e-12)
    assert point.distance < 0.2


# --- what is passed on ------------------------------------------------------------------------------------------------


def test_densities_are_of_the_fitted_or_of_held_out_rows() -> None:
    fits = {"a": Fake(normal()), "loaded": Fake(normal(own=1), data=None)}
    found = compare(fits)
    assert [each.log_density_per_row for each in found.rows] == [-2.0, -2.0]
    assert found.rows[0].log_density_error == pytest.approx(0.01)  # a row, not in all
    assert fits["loaded"].seen == [fits["a"].data]  # which has no data of its own
    assert "those of another fit" in row(found, "loaded").note
    assert not found.rows[0].held_out
    held_out = fits["a"].data._replace(strength=np.ones(5))
    found = compare(fits, held_out=held_out)
    assert all(each.held_out for each in found.rows)
    np.testing.assert_array_equal(fits["a"].seen[-1].strength, np.ones(5))
    assert "of held-out rows" in str(found)
    alone = compare({"loaded": fits["loaded"]})
    assert alone.rows[0].log_density_per_row is None
    assert "pass held_out=" in alone.rows[0].note


def test_numbers_of_the_fits_are_passed_on() -> None:
    fit = Fake(normal(), elbo_error=0.25, compile_seconds=3.5, num_gradients=0.75, library="pyro", num_steps=9)
    found = compare({"a": fit, "chain": Fake(normal(), "nuts")})
    a, chain = found.rows
    assert (a.elbo, a.elbo_error, a.seconds, a.compile_seconds) == (-123.456, 0.25, 0.5, 3.5)
    assert (a.num_gradients, a.num_steps, a.library, a.method, a.khat) == (0.75, 9, "pyro", "cavi", 0.2)
    assert (chain.elbo, chain.elbo_error, chain.khat) == (None, None, None)
    assert (chain.r_hat, chain.ess) == (1.001, 900.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"found": {"khat": 0.9}}, "importance weights unreliable: k-hat is 0.9, not below 0.7"),
        ({"found": {"khat": np.nan}}, "importance weights unreliable: k-hat is not known"),
        ({"found": {"r_hat": 1.2}}, "the chains disagree: R-hat is 1.2, not below 1.01"),
        ({"found": {"r_hat": np.nan}}, "the chains disagree: R-hat is not known"),
        ({"found": {"num_divergences": 12.0}}, "divergent transitions: 12"),
        ({"converged": False, "reason": "num_steps = 3 came first"}, "not converged: num_steps = 3 came first"),
    ],
)
def test_what_is_unusual_is_noted(given: dict[str, Any], words: str) -> None:
    found = compare({"fine": Fake(normal()), "odd": Fake(normal(own=1), **given)}, reference="odd")
    assert words in row(found, "odd").note
    assert row(found, "fine").note == ""
    assert words in " ".join(str(found).split())
    assert any("in doubt" in note for note in found.notes)
    assert "nan" not in str(found).split("\n\n")[1]  # the table itself


def test_what_cannot_be_had_is_noted() -> None:
    class Undiagnosed(Fake):
        def diagnostics(self, num_draws: int = 1000, seed: int = 0, data: Any = None) -> Mapping[str, float]:
            raise UserError("this fit was loaded without its data")

    assert "no diagnostics" in compare({"a": Undiagnosed(normal())}).rows[0].note

    def wild(num_draws: int, seed: int) -> Draws:
        draws = normal(own=1)(num_draws, seed)
        draws["rate"][0, 0] = np.inf
        return draws

    found = row(compare({"nuts": Fake(normal(), "nuts"), "wild": Fake(wild)}), "wild")
    assert "not finite: rate" in found.note
    assert found.distance is None


def test_other_priors_and_other_data_are_noted() -> None:
    first = Fake(normal())
    prior = first.prior._replace(strength_shape=np.array(9.0))
    data = first.data._replace(strength=np.ones(5))
    assert compare({"a": first, "b": Fake(normal())}).notes == ()
    assert "different priors" in compare({"a": first, "b": Fake(normal(), prior=prior)}).notes[0]
    assert "different data" in compare({"a": first, "b": Fake(normal(), data=data, prior=first.prior)}).notes[0]


MORE = lz.get("earthquakes").Data(np.zeros((6, 2)), np.ones(6))


@pytest.mark.parametrize(
    ("fits", "options", "words"),
    [
        ({}, {}, "fits is empty"),
        ([Fake(normal())], {}, "fits is a list"),
        ({"a": "cavi"}, {}, "fits['a'] is a str"),
        ({1: Fake(normal())}, {}, "1 is a int"),
        ({"a": Fake(normal()), "b": Fake(normal(), entry=lz.get("earthquakes"))}, {}, "different models: 'a' is of"),
        ({"a": Fake(normal()), "b": Fake(normal(), data=MORE)}, {}, "'a' is of 5 rows, 'b' of 6"),
        ({"a": Fake(normal()), "chain": Fake(normal())}, {"reference": "chains"}, "did you mean 'chain'"),
        ({"a": Fake(normal())}, {"num_draws": 1}, "num_draws is 1"),
        ({"a": Fake(normal())}, {"seed": -1}, "seed"),
        ({"a": Fake(normal())}, {"held_out": 3}, "data is a int"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(fits: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        compare(fits, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# --- tables -----------------------------------------------------------------------------------------------------------


def many(num_fits: int, size: int = 3) -> dict[str, Fake]:
    """As many fits as asked for, the last by NUTS."""
    zoo = lz.get("earthquakes", **{**SPEC, "num_components": size})
    names = ["cavi", "svi-pyro", "svi-numpyro", "svi-natural", "flow", "full-rank", "laplace"]
    fits = {
        name: Fake(
            normal(size, own=own, shift=0.2 * own, scale=0.6 + 0.1 * own),
            entry=zoo,
            elbo=-2761.0 - own,
            elbo_error=0.3 * own,
            seconds=0.004 * 5.0**own,
            compile_seconds=2.5 * (own > 0),
            found={"khat": 0.15 * (own + 1)},
        )
        for own, name in enumerate(names[: num_fits - 1])
    }
    return {**fits, "nuts": Fake(normal(size, own=99), "nuts", entry=zoo, seconds=80.0, compile_seconds=11.0)}


def test_the_table_is_aligned_and_complete() -> None:
    found = compare(many(5))
    lines = str(found).split("\n")
    assert (
        lines[0] == "earthquakes, num_components=3, weights=fixed, noise=shared: 5 fits, 1,000 draws of each posterior"
    )
    table = lines[2:10]
    assert len({len(line) for line in table[1:]}) == 1
    heads = ["name", "± error", "per row", "± error", "ratio", "k-hat", "R-hat", "seconds", "compile", "gradients"]
    assert " ".join(table[1].split()) == " ".join([*heads, "converged"])
    for line, each in zip(table[3:], found.rows, strict=True):
        assert line.startswith(each.name)
        assert line.endswith("yes")
    assert table[-1].split()[1] == "-"  # a sampler has no ELBO
    assert "The reference is nuts." in lines[11]
    assert max(map(len, lines[10:])) <= 120
    assert repr(found) == str(found)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (None, None, "-"),
        (np.nan, 0.1, "-"),
        (-2761.23456, 0.0, "-2,761.23"),
        (-1.23456789, 0.0, "-1.23457"),
        (-2761.23456, 0.31, "-2,761.23 ± 0.31"),
        (-2761.23456, 31.0, "-2,761 ± 31"),
        (0.5, 0.045, "0.500 ± 0.045"),
        (3e-9, 0.045, "3e-09 ± 0.045"),
        (-2.0, 3e-12, "-2.00000000 ± 3e-12"),
        (-2.0, None, "-2 ± ?"),
        (-2.0, np.inf, "-2 ± ?"),
        (-np.inf, np.nan, "-inf"),
        (0.0, 0.1, "0.00 ± 0.10"),
    ],
)
def test_numbers_have_the_digits_that_their_errors_allow(value: float | None, error: float | None, text: str) -> None:
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (np.nan, "-"),
        (0.0, "0"),
        (1.2e-7, "1.2e-07"),
        (0.8312, "0.831"),
        (12345.6, "12,346"),
        (1e20, "1e+20"),
    ],
)
def test_small_numbers_are_not_zero(value: float | None, text: str) -> None:
    assert number(value) == text


def test_frames_hold_every_field() -> None:
    found = compare(many(3))
    frame, sites = found.to_pandas(), found.sites_to_pandas()
    assert list(frame.index) == ["cavi", "svi-pyro", "nuts"]
    assert list(frame.columns) == list(ComparisonRow._fields[1:])
    assert frame.loc["cavi", "distance"] == row(found, "cavi").distance
    assert np.isnan(frame.loc["nuts", "elbo"])
    assert frame["r_hat"].dtype == np.float64
    assert len(sites) == 3 * NUM_COORDINATES
    assert sites["index"][0] == (0, 0)
    # The numbers of the fits come back from those of the coordinates.
    each = sites[sites.name == "cavi"]
    assert np.sqrt((each.distance**2).mean()) == pytest.approx(frame.loc["cavi", "distance"])
    assert np.exp(np.log(each.sd_ratio).mean()) == pytest.approx(frame.loc["cavi", "sd_ratio"])


def test_a_comparison_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        compare({"a": Fake(normal())}).rows = ()  # type: ignore[misc]


# --- the picture ------------------------------------------------------------------------------------------------------


def boxes(axes: Any) -> list[Any]:
    """The boxes of all words of some axes, in pixels, and of their titles."""
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]  # the others are hidden
    texts = [*axes.texts, *([*axes.get_yticklabels(), *ticks] if axes.axison else []), axes.title, axes.xaxis.label]
    if legend := axes.get_legend():
        texts += legend.get_texts()
    return [text.get_window_extent() for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("num_fits", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [3, 8])
def test_no_words_overlap_and_none_leave_the_picture(num_fits: int, size: int) -> None:
    figure = compare(many(num_fits, size)).plot()
    figure.canvas.draw()
    found = [box for axes in figure.axes for box in boxes(axes)]
    assert len(found) > 10
    width, height = figure.bbox.size
    for box in found:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
    for index, one in enumerate(found):
        for other in found[:index]:
            overlap = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
            assert min(overlap) <= 1.0, (one, other)  # pixels


def test_the_picture_shows_the_numbers() -> None:
    found = compare(many(4))
    left, right, key = found.plot().axes
    assert [label.get_text() for label in left.get_yticklabels()][:2] == ["loc[0, 0]", "loc[0, 1]"]
    drawn = {line.get_color(): line.get_xdata() for line in left.lines if len(line.get_xdata()) == NUM_COORDINATES}
    assert len(drawn) == 3  # the reference is a band
    shown = drawn[comparison_picture.COLOURS[0]]
    np.testing.assert_allclose(shown, [each.distance for each in found.sites if each.name == "cavi"])
    widths = sorted({round(bar.get_width(), 6) for bar in right.patches})
    times = {each for one in found.rows for each in (one.seconds, one.compile_seconds)} - {0.0}
    assert widths == sorted(round(each, 6) for each in times)
    assert right.get_xscale() == "log"
    assert right.get_yticklabels()[1].get_text() == "svi-pyro\nELBO -2,762.00 ± 0.30"
    assert "nuts, the reference: mean ± 2 sd" in [text.get_text() for text in key.get_legend().get_texts()]


def test_of_many_coordinates_those_that_differ_are_drawn() -> None:
    def odd(num_draws: int, seed: int) -> Draws:
        draws = normal(40, own=1)(num_draws, seed)
        draws["loc"][:, 37, 1] += 3e-3  # three sds
        draws["noise_variance"] += 100.0
        return draws

    zoo = lz.get("earthquakes", **{**SPEC, "num_components": 40})
    found = compare({"nuts": Fake(normal(40), "nuts", entry=zoo), "odd": Fake(odd, entry=zoo)})
    left = found.plot().axes[0]
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert len(labels) == comparison_picture.MOST_COORDINATES
    assert {"loc[37, 1]", "noise_variance"} <= set(labels)
    assert "the 24 of 121 coordinates" in left.get_title()
    # What is too far for the axis is an arrow at its edge.
    arrows = [line for line in left.lines if line.get_marker() == ">" and len(line.get_xdata())]
    assert [labels[round(y)] for line in arrows for y in line.get_ydata()] == ["noise_variance"]
    assert left.get_xlim()[1] == comparison_picture.FURTHEST


def test_nothing_to_draw_is_said() -> None:
    found = compare({"a": Fake(lambda n, seed: {}, seconds=0.0)})
    left, right, _ = found.plot().axes
    assert "no latent variable" in left.texts[0].get_text()
    assert "no time" in right.texts[0].get_text()
    assert "a" in str(found)


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_real_fits_compare() -> None:
    zoo = lz.get("earthquakes", **SPEC)
    rng = np.random.default_rng(0)
    component = np.arange(90) % 3
    location = np.array([[0.0, 0.0], [9.0, 1.0], [4.0, 9.0]])[component] + rng.normal(size=(90, 2))
    data = zoo.Data(location, rng.poisson(np.array([5.0, 20.0, 60.0])[component]).astype(float))
    fits = {f"seed {seed}": lz.fit(zoo, data, method="cavi", seed=seed, progress=False) for seed in (0, 3)}
    found = compare(fits, reference="seed 0", num_draws=200)
    assert row(found, "seed 0").elbo == fits["seed 0"].elbo
    assert len(found.sites) == 2 * NUM_COORDINATES
    other = row(found, "seed 3")
    if abs(other.elbo - fits["seed 0"].elbo) < 1e-3:  # one optimum, under whatever names
        assert other.distance < 2.0 * other.distance_error
    assert other.log_density_per_row == pytest.approx(row(found, "seed 0").log_density_per_row, abs=0.1)
    assert found.plot().axes


def test_of_very_many_numbers_fewer_draws_are_taken() -> None:
    large = Fake(normal(), params=lz.Params(phi={"table": np.zeros((1000, 20))}))
    assert lz.compare({"cavi": large}).num_draws == 50
    assert lz.compare({"cavi": Fake(normal())}).num_draws == 1000
