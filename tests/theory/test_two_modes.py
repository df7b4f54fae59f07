"""Two modes against quadrature by SciPy, from SciPy's densities, and against what theory says of the divergences."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import chi, norm, ortho_group

import latentzoo as lz
from latentzoo.guides.two_modes import Phi
from latentzoo.inference.arrays import raw_cholesky
from latentzoo.inference.closed_form import two_modes as closed_form
from latentzoo.inference.divergences import kl_isotropic_normal
from latentzoo.models.language.contract import Params

LINE = lz.get("two_modes")
# Name: weight of the first mode, places, widths, log_evidence; mean and sd of q.
CASES: dict[str, tuple[float, tuple[float, float], tuple[float, float], float, float, float]] = {
    "on a mode": (0.5, (-3.0, 3.0), (1.0, 1.0), 0.0, 3.0, 1.0),
    "across both": (0.5, (-3.0, 3.0), (1.0, 1.0), 0.0, 0.0, 2.75),
    "40 sd apart": (0.5, (-20.0, 20.0), (1.0, 1.0), -1.7, 19.0, 1.2),
    "40 sd apart, across both": (0.3, (-20.0, 20.0), (1.0, 1.0), 1.7, 2.0, 15.0),
    "unequal": (0.3, (-3.0, 8.0), (0.5, 2.0), 1.7, 1.0, 4.0),
    "one in the other": (0.9, (0.0, 0.5), (5.0, 0.1), 0.0, 0.2, 3.0),
    "nearly as wide": (0.5, (-3.0, 3.0), (1.0, 1.0 + 1e-9), 0.0, 1.0, 2.0),
    "the same": (0.2, (1.0, 1.0), (2.0, 2.0), 0.0, -1.0, 1.5),
    "a narrow q": (0.5, (-3.0, 3.0), (1.0, 1.0), 0.0, 0.5, 0.01),
}


def target(case: str) -> tuple[Any, Callable[[float], float]]:
    """Return the prior of a case, and the logarithm of its target by SciPy's densities."""
    weight, loc, scale, log_evidence, *_ = CASES[case]
    prior = LINE.prior(
        weights=[weight, 1 - weight], loc=np.reshape(loc, (2, 1)), scale=scale, log_evidence=log_evidence
    )

    def log_density(x: float) -> float:
        parts = np.log([weight, 1.0 - weight]) + norm.logpdf(x, loc, scale)
        return float(log_evidence + np.logaddexp(*parts))

    return prior, log_density


def gaussian(mean: Any, sd: Any) -> Params:
    """Return the params of a q: of one dimension, or with independent coordinates."""
    return Params(phi=Phi(np.atleast_1d(mean).astype(float), np.diag(np.log(np.atleast_1d(sd)))))


def integral(function: Callable[[float], float], case: str, reach: float = 12.0) -> float:
    """Return the integral over the line, piece by piece: a kink lies in a small one."""
    _, loc, scale, _, mean, sd = CASES[case]
    ends = [(m - reach * s, m + reach * s) for m, s in zip((*loc, mean), (*scale, sd), strict=True)]
    edges = np.unique(np.concatenate([np.linspace(*each, 13) for each in ends] + [np.linspace(*sorted(loc), 40)]))
    pieces = itertools.pairwise(edges)
    return sum(integrate.quad(function, *piece, epsabs=1e-14, epsrel=1e-12)[0] for piece in pieces)


# --- the exclusive bound --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_bound_is_that_of_adaptive_quadrature(case: str) -> None:
    prior, log_density = target(case)
    mean, sd = CASES[case][4:]

    def terms(x: float) -> float:
        return float(norm.pdf(x, mean, sd) * (log_density(x) - norm.logpdf(x, mean, sd)))

    exact = integral(terms, case)
    bound = LINE.elbo(gaussian(mean, sd), LINE.Data(), prior)
    assert bound == pytest.approx(exact, rel=1e-10, abs=1e-10)
    assert bound <= prior.log_evidence + 1e-12


@pytest.mark.parametrize("case", ["across both", "unequal"])
def test_the_gradient_is_the_mean_of_those_at_given_noise(case: str) -> None:
    """Each of which `lz.verify` proves in both libraries."""
    prior, _ = target(case)
    mean, sd = CASES[case][4:]
    params, data = gaussian(mean, sd), LINE.Data()

    def slopes(x: float, leaf: int) -> float:
        noise = {"x": np.array([(x - mean) / sd])}
        _, gradient = closed_form.value_and_gradient(params, data, prior, noise, LINE.spec)
        return float(norm.pdf(x, mean, sd) * gradient.phi[leaf].item())

    stats = closed_form.e_step(params, data, prior, LINE.spec)
    found = closed_form.elbo_gradient(stats, params, prior, LINE.spec).phi
    for leaf in (0, 1):
        assert found[leaf].item() == pytest.approx(integral(lambda x, leaf=leaf: slopes(x, leaf), case), abs=1e-10)


def test_elbo_and_divergence_make_the_evidence() -> None:
    prior, log_density = target("unequal")
    mean, sd = CASES["unequal"][4:]

    def terms(x: float) -> float:
        log_p = log_density(x) - float(prior.log_evidence)
        return float(norm.pdf(x, mean, sd) * (norm.logpdf(x, mean, sd) - log_p))

    divergence = integral(terms, "unequal")
    assert LINE.elbo(gaussian(mean, sd), LINE.Data(), prior) + divergence == pytest.approx(1.7, abs=1e-10)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 6]))
def test_labels_rotations_and_shifts_change_nothing(seed: int, size: int) -> None:
    rng, zoo = np.random.default_rng(seed), lz.get("two_modes", num_dims=size)
    width = np.exp(rng.normal(size=2) / 2)
    loc = 2.0 * rng.normal(size=(2, size))
    prior = zoo.prior(weights=rng.dirichlet([2, 2]), loc=loc, scale=width if size < 3 else width[:1].repeat(2))
    factor = np.tril(rng.normal(size=(size, size)), -1) + np.diag(np.exp(0.5 * rng.normal(size=size)))
    mean = rng.normal(size=size)

    def bound(prior: Any, mean: np.ndarray, factor: np.ndarray) -> float:
        return zoo.elbo(Params(phi=Phi(mean, raw_cholesky(factor @ factor.T))), zoo.Data(), prior)

    there = bound(prior, mean, factor)
    swapped = prior._replace(weights=prior.weights[::-1], loc=prior.loc[::-1], scale=prior.scale[::-1])
    assert bound(swapped, mean, factor) == pytest.approx(there, rel=1e-10, abs=1e-10)
    turn = np.eye(1) if size == 1 else ortho_group.rvs(size, random_state=rng)
    moved = prior._replace(loc=prior.loc @ turn.T + 5.0, log_evidence=np.array(3.0))
    assert bound(moved, turn @ mean + 5.0, turn @ factor) == pytest.approx(there + 3.0, rel=1e-10, abs=1e-10)
    assert there <= 1e-12


def test_more_dimensions_add_the_divergences_along_them() -> None:
    """Where the modes differ along one axis, and the coordinates of q are independent."""
    zoo, rng = lz.get("two_modes", num_dims=7), np.random.default_rng(0)
    mean, sd = rng.normal(size=7), np.exp(rng.normal(size=7) / 2)
    line = LINE.elbo(gaussian(mean[0], sd[0]), LINE.Data(), LINE.prior())
    rest = kl_isotropic_normal(mean[1:, None], sd[1:] ** 2, np.zeros(1), 1.0).sum()
    assert zoo.elbo(gaussian(mean, sd), zoo.Data(), zoo.prior()) == pytest.approx(line - rest, rel=1e-12)


@pytest.mark.parametrize(("size", "error"), [(2, 1e-10), (3, 1e-3), (10, 5e-3)])
def test_concentric_modes_have_a_radial_integral(size: int, error: float) -> None:
    """In two dimensions the rule is exact; in more it is a Sobol sequence, as accurate as the closed form says."""
    zoo = lz.get("two_modes", num_dims=size)
    weights, scale, width = np.array([0.4, 0.6]), np.array([0.5, 3.0]), 2.0
    prior = zoo.prior(loc=np.ones((2, size)), scale=scale, weights=weights)

    def terms(r: float) -> float:
        def log_normal(s: Any) -> Any:
            return -0.5 * (r * width / s) ** 2 - size * np.log(s)

        return float(chi.pdf(r, size) * (np.logaddexp(*(np.log(weights) + log_normal(scale))) - log_normal(width)))

    exact = integrate.quad(terms, 0.0, size**0.5 + 10.0, points=[size**0.5], epsabs=1e-13)[0]
    found = zoo.elbo(gaussian(np.ones(size), np.full(size, width)), zoo.Data(), prior)
    assert found == pytest.approx(exact, abs=error)


# --- the optima -----------------------------------------------------------------------------------------------------


def exclusive(apart: float, mean: float, sd: float) -> float:
    """Return KL(q || p) by quadrature, unit modes at -apart and apart."""

    def terms(x: float) -> float:
        log_p = np.logaddexp(norm.logpdf(x, -apart), norm.logpdf(x, apart)) - np.log(2.0)
        return float(norm.pdf(x, mean, sd) * (norm.logpdf(x, mean, sd) - log_p))

    return float(integrate.quad(terms, mean - 12 * sd, mean + 12 * sd, points=[-apart, 0, apart], limit=200)[0])


@pytest.mark.parametrize(
    ("apart", "start", "mean", "sd", "divergence"),
    [
        (3.0, (-2.0, 0.5), -2.984, 1.023, 0.689),
        (3.0, (6.0, 2.0), 2.984, 1.023, 0.689),
        (3.0, (0.5, 1.0), 0.0, 2.744, 0.841),
        (2.0, (3.0, 0.5), 0.0, 2.047, 0.227),
        (2.0, (-1.0, 5.0), 0.0, 2.047, 0.227),
    ],
)
def test_the_optima_of_the_exclusive_divergence(
    apart: float, start: tuple[float, float], mean: float, sd: float, divergence: float
) -> None:
    prior = LINE.prior(loc=[[-apart], [apart]])
    fit = lz.fit(LINE, prior=prior, init=gaussian(*start), tol=1e-14, progress=False)
    found = fit.params.phi.loc.item(), np.exp(fit.params.phi.raw_scale.item())
    assert found == pytest.approx((mean, sd), abs=6e-4)
    lowest = exclusive(apart, *found)
    assert -fit.elbo == pytest.approx(lowest, abs=1e-10)
    assert lowest == pytest.approx(divergence, abs=5e-4)
    for step in ((1e-2, 0.0), (-1e-2, 0.0), (0.0, 1e-2), (0.0, -1e-2), (1e-2, 1e-2), (-1e-2, 1e-2)):
        assert exclusive(apart, *np.add(found, step)) > lowest + 1e-6
    assert (np.diff(fit.elbo_trace) >= 0.0).all()


def test_the_inclusive_optimum_has_the_moments() -> None:
    phi = lz.fit(LINE, method="moments", progress=False).params.phi
    assert (phi.loc.item(), np.exp(2.0 * phi.raw_scale.item())) == pytest.approx((0.0, 1.0 + 9.0), abs=1e-12)

    zoo, rng = lz.get("two_modes", num_dims=3), np.random.default_rng(1)
    prior = zoo.prior(weights=[0.3, 0.7], loc=rng.normal(size=(2, 3)), scale=[0.5, 2.0])
    found = closed_form.Gaussian.of(closed_form.moments(None, zoo.Data(), prior, zoo.spec))
    # Where KL(p || q) is lowest the score of q has mean zero under p: e, by the mean of q, and e e' - I, by its factor.
    draws = np.concatenate(
        [m + s * e for m, s in zip(prior.loc, prior.scale, strict=True) for e in (_cubic(3), -_cubic(3))]
    )
    weight = np.repeat(prior.weights / (2 * len(_cubic(3))), 2 * len(_cubic(3)))
    e = np.linalg.solve(found.factor, (draws - found.loc).T).T
    np.testing.assert_allclose(weight @ e, 0.0, atol=1e-14)
    np.testing.assert_allclose((weight * e.T) @ e, np.eye(3), atol=1e-14)


def _cubic(size: int) -> np.ndarray:
    """Return points with the second moments of a standard normal."""
    return np.sqrt(size) * np.eye(size)


# --- between them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "alpha"), [("on a mode", 0.9), ("across both", 0.5), ("unequal", 0.2), ("one in the other", 0.5)]
)
def test_the_renyi_bound_is_that_of_adaptive_quadrature(case: str, alpha: float) -> None:
    prior, log_density = target(case)
    mean, sd = CASES[case][4:]

    def log_term(x: float) -> float:
        return alpha * log_density(x) + (1.0 - alpha) * float(norm.logpdf(x, mean, sd))

    total = integral(lambda x: np.exp(log_term(x)), case, reach=40.0)
    bound, gradient = closed_form.renyi_bound(alpha, gaussian(mean, sd), LINE.Data(), prior, LINE.spec)
    assert bound == pytest.approx(np.log(total) / alpha, rel=1e-10, abs=1e-10)
    assert LINE.elbo(gaussian(mean, sd), LINE.Data(), prior) <= bound <= prior.log_evidence

    def score(x: float) -> float:  # of q by its mean, under the tilted target
        return float(np.exp(log_term(x)) * (x - mean) / sd**2)

    by_mean = (1.0 - alpha) / alpha * integral(score, case, reach=40.0) / total
    assert gradient.phi.loc.item() == pytest.approx(by_mean, rel=1e-9, abs=1e-9)


def test_the_renyi_bound_in_two_dimensions_has_the_gradient_of_its_differences() -> None:
    zoo, rng = lz.get("two_modes", num_dims=2), np.random.default_rng(2)
    prior, data = zoo.prior(), zoo.Data()
    params = Params(phi=Phi(rng.normal(size=2), 0.5 * rng.normal(size=(2, 2))))
    _, gradient = closed_form.renyi_bound(0.5, params, data, prior, zoo.spec)
    for name in Phi._fields:
        for index in np.ndindex(getattr(params.phi, name).shape):

            def at(step: float, name: str = name, index: tuple[int, ...] = index) -> float:
                moved = getattr(params.phi, name).copy()
                moved[index] += step
                phi = params.phi._replace(**{name: moved})
                return closed_form.renyi_bound(0.5, Params(phi=phi), data, prior, zoo.spec)[0]

            # Richardson: the error of the difference is of the fourth order.
            rise = (8.0 * (at(1e-3) - at(-1e-3)) - (at(2e-3) - at(-2e-3))) / 12e-3
            assert getattr(gradient.phi, name)[index] == pytest.approx(rise, abs=1e-9)


def test_alpha_leads_from_the_exclusive_optimum_to_the_inclusive_one() -> None:
    """The distance to either end shrinks in proportion to what is left of alpha."""

    def width(method: str, **options: float) -> float:
        start = gaussian(0.3, 2.0)
        found = lz.fit(LINE, method=method, init=start, tol=1e-14, progress=False, **options)
        return float(np.exp(found.params.phi.raw_scale.item()))

    lowest, highest = width("ascent"), np.sqrt(10.0)
    near, nearer = (width("alpha", alpha=a) - lowest for a in (1e-2, 1e-3))
    assert near / nearer == pytest.approx(10.0, rel=0.02)
    assert nearer < 1.1e-3
    near, nearer = (highest - width("alpha", alpha=1.0 - a) for a in (1e-2, 1e-3))
    assert near / nearer == pytest.approx(10.0, rel=0.02)
    assert nearer < 2e-4
    between = [width("alpha", alpha=a) for a in (0.25, 0.5, 0.75)]
    assert lowest < between[0] < between[1] < between[2] < highest


def test_an_optimum_on_one_mode_ends_where_alpha_rises() -> None:
    on_mode = [
        lz.fit(LINE, method="alpha", alpha=alpha, init=gaussian(3.0, 1.0), progress=False).params.phi.loc.item()
        for alpha in (0.2, 0.8)
    ]
    assert on_mode[0] > 2.9
    assert on_mode[1] == pytest.approx(0.0, abs=1e-2)


def test_dimensions_in_which_q_is_the_target_add_nothing() -> None:
    """Four are too many for the exact rule: this is the Renyi bound over a Sobol sequence."""
    zoo, alpha = lz.get("two_modes", num_dims=4), 0.7
    line = closed_form.renyi_bound(alpha, gaussian(0.5, 2.5), LINE.Data(), LINE.prior(), LINE.spec)
    params = gaussian([0.5, 0.0, 0.0, 0.0], [2.5, 1.0, 1.0, 1.0])
    found = closed_form.renyi_bound(alpha, params, zoo.Data(), zoo.prior(), zoo.spec)
    assert found[0] == pytest.approx(line[0], abs=1e-6)
    assert found[1].phi.loc == pytest.approx([line[1].phi.loc.item(), 0.0, 0.0, 0.0], abs=1e-5)
    raw_scale = np.diag([line[1].phi.raw_scale.item(), 0.0, 0.0, 0.0])
    np.testing.assert_allclose(found[1].phi.raw_scale, raw_scale, atol=1e-4)
