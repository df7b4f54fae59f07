"""Matching the labels of components: permuted copies come back, whatever the axes, and nothing else is touched."""

import time
from typing import Any

import numpy as np
import pytest

from latentzoo.inference.relabel import permutation, relabelled
from latentzoo.models.language.errors import UserError

DIMS = {
    "weights": ("components",),
    "loc": ("components", "coordinate"),
    "noise_variance": (),
    "factors": ("coordinate", "components"),
}
PLATE = "components"


def drawn(size: int, leading: tuple[int, ...] = (200,), seed: int = 0, spread: float = 10.0) -> dict[str, np.ndarray]:
    """Draws around components that lie apart, `spread` posterior deviations on average."""
    rng = np.random.default_rng(seed)
    shapes = {"weights": (size,), "loc": (size, 2), "noise_variance": (), "factors": (2, size)}
    centres = {site: spread * np.random.default_rng(99).normal(size=shape) for site, shape in shapes.items()}
    return {site: centres[site] + rng.normal(size=(*leading, *shape)) for site, shape in shapes.items()}


def shuffled(draws: dict[str, np.ndarray], order: Any) -> dict[str, np.ndarray]:
    """The same in another order, written out for each site."""
    return {
        "weights": draws["weights"][..., order],
        "loc": draws["loc"][..., order, :],
        "noise_variance": draws["noise_variance"],
        "factors": draws["factors"][..., order],
    }


@pytest.mark.parametrize("leading", [(), (50,), (4, 25)], ids=["a point", "draws", "chains and draws"])
@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_a_permuted_copy_comes_back(leading: tuple[int, ...], size: int) -> None:
    draws = drawn(size, leading)
    order = np.random.default_rng(size).permutation(size)
    copy = shuffled(draws, order)
    found = permutation(copy, draws, DIMS, PLATE)
    np.testing.assert_array_equal(order[found], np.arange(size))
    back = relabelled(copy, found, DIMS, PLATE)
    assert set(back) == set(draws)
    for site, values in draws.items():
        np.testing.assert_array_equal(back[site], values)


def test_leading_axes_may_differ() -> None:
    """Other draws of the same posterior, as chains, beside draws, and beside true values."""
    order = np.array([2, 0, 3, 1])
    chains = shuffled(drawn(4, (2, 300), seed=1), order)
    for reference in (drawn(4, (500,), seed=2), drawn(4, ())):
        np.testing.assert_array_equal(order[permutation(chains, reference, DIMS, PLATE)], np.arange(4))


def test_sites_without_the_plate_are_untouched() -> None:
    draws = drawn(3)
    draws["unknown"] = np.arange(200.0)  # not among the dims
    back = relabelled(draws, np.array([2, 0, 1]), DIMS, PLATE)
    assert back["noise_variance"] is draws["noise_variance"]
    assert back["unknown"] is draws["unknown"]
    assert back["weights"] is not draws["weights"]
    # However far such a site is, it has no say.
    other = {**draws, "noise_variance": draws["noise_variance"] + 1e6}
    np.testing.assert_array_equal(permutation(draws, other, DIMS, PLATE), np.arange(3))


def test_without_a_plate_nothing_moves() -> None:
    draws = drawn(3)
    for plate in (None, "kinds"):
        back = relabelled(draws, permutation(draws, drawn(3, seed=1), DIMS, plate), DIMS, plate)
        assert all(back[site] is values for site, values in draws.items())
    # Nor where no site is shared: then the order is that of as many components as there are.
    np.testing.assert_array_equal(permutation(draws, {}, DIMS, PLATE), np.arange(3))


def test_both_dimensions_of_a_matrix_of_transitions_are_moved() -> None:
    rng = np.random.default_rng(0)
    dims = {"transition": ("states", "states"), "rate": ("states",)}
    draws = {"transition": rng.normal(size=(20, 4, 4)), "rate": np.arange(4.0) + 0.1 * rng.normal(size=(20, 4))}
    order = np.array([3, 1, 0, 2])
    copy = {"transition": draws["transition"][:, order][:, :, order], "rate": draws["rate"][:, order]}
    back = relabelled(copy, permutation(copy, draws, dims, "states"), dims, "states")
    for site, values in draws.items():
        np.testing.assert_array_equal(back[site], values)


def test_fifty_components_are_fast() -> None:
    draws, order = drawn(50, (1000,), spread=30.0), np.random.default_rng(3).permutation(50)
    began = time.perf_counter()
    found = permutation(shuffled(draws, order), draws, DIMS, PLATE)
    assert time.perf_counter() - began < 2.0  # a search over orders would not end
    np.testing.assert_array_equal(order[found], np.arange(50))


def test_the_unit_of_a_site_does_not_matter() -> None:
    """Degrees or km, the match is the same; without units of their own, a site in large ones would decide alone."""
    mine, theirs = drawn(6, seed=1, spread=0.5), drawn(6, seed=2, spread=0.5)
    before = permutation(mine, theirs, DIMS, PLATE)
    for factor in (1e-6, 1e6):
        scaled = [{**draws, "loc": factor * draws["loc"]} for draws in (mine, theirs)]
        np.testing.assert_array_equal(permutation(*scaled, DIMS, PLATE), before)


def test_points_and_constants_are_matched() -> None:
    """Where a posterior sd is zero: a MAP fit, a site that does not vary, components that are all alike."""
    draws = {site: np.broadcast_to(values, (10, *values.shape)) for site, values in drawn(5, ()).items()}
    order = np.array([4, 2, 0, 1, 3])
    found = permutation(shuffled(draws, order), draws, DIMS, PLATE)
    np.testing.assert_array_equal(order[found], np.arange(5))
    # A constant whose mean is rounded has an sd of 1e-17: no unit to measure the others by.
    flat = {"weights": np.full((10, 3), 0.1), "loc": drawn(3, (10,))["loc"]}
    moved = {"weights": flat["weights"] + 1e-13 * np.arange(3), "loc": flat["loc"][:, [2, 0, 1]]}
    np.testing.assert_array_equal(permutation(moved, flat, DIMS, PLATE), [1, 2, 0])
    same = {"weights": np.full((10, 4), 0.25)}
    assert sorted(permutation(same, same, DIMS, PLATE)) == [0, 1, 2, 3]


def test_an_empty_component_does_not_drown_the_others() -> None:
    """One as wide as the prior, and the rate decides: places are alike, rates differ by many of their deviations."""
    rng = np.random.default_rng(4)
    wide = np.array([1.0, 1.0, 1e4])
    draws = {
        "weights": np.array([5.0, 9.0, 7.0]) + 0.1 * rng.normal(size=(500, 3)),
        "loc": np.array([[0.0, 0.0], [0.3, 0.0], [0.0, 0.0]]) + wide[:, None] * rng.normal(size=(500, 3, 2)),
    }
    copy = {"weights": draws["weights"][:, [1, 0, 2]], "loc": draws["loc"][:, [1, 0, 2]]}
    np.testing.assert_array_equal(permutation(copy, draws, DIMS, PLATE), [1, 0, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_draws_that_overflowed_do_not_stop_it(bad: float) -> None:
    draws = drawn(4)
    copy = shuffled(draws, [3, 2, 1, 0])
    copy["weights"][0, 0] = bad
    found = permutation(copy, draws, DIMS, PLATE)
    np.testing.assert_array_equal(found, [3, 2, 1, 0])


def test_another_number_of_components_is_said() -> None:
    with pytest.raises(UserError, match=r"weights has shape \(3,\) in the draws and \(4,\) in the reference"):
        permutation(drawn(3), drawn(4), DIMS, PLATE)
