"""The target with q over it: curves of one coordinate, contours of two; of more, the plane through both modes."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.stats import multivariate_normal, norm

from latentzoo.inference.arrays import cholesky
from latentzoo.inference.pictures import ACCENT, INK, name_of, new_figure, worth_of
from latentzoo.inference.result import Fit
from latentzoo.models.two_modes import Prior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_DRAWS = 4000  # of a sampler, or of a guide that is not the model's
HIGHEST = 5.0  # times the target: what is drawn of a q that is narrower
NUM_POINTS = 160  # along an axis of the plane
LEVELS = (0.02, 0.1, 0.3, 0.6, 0.9)  # of contours: parts of the highest density


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return the picture of the target and the fit."""
    figure = new_figure(8.0, 4.6)
    axes = figure.subplots()
    if fit.entry.spec.num_dims == 1:
        _draw_line(axes, fit)
    else:
        _draw_plane(axes, fit)
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"two modes, {name_of(fit)}: {worth_of(fit)}{_divergence(fit)}", fontsize="medium")
    return {"target": figure}


def _divergence(fit: Fit) -> str:
    return "" if np.isnan(fit.elbo) else f", KL(q || p) {max(float(fit.prior.log_evidence) - fit.elbo, 0.0):.4g}"


def _has_gaussian(fit: Fit) -> bool:
    """Return whether the fit has the model's own q, rather than draws."""
    return fit.chains is None and fit.guide is None


def density(prior: Prior, x: Float[np.ndarray, "*points"]) -> Float[np.ndarray, "*points"]:
    """Return the density of the target, normalised, in one dimension."""
    return sum(w * norm.pdf(x, m, s) for w, m, s in zip(prior.weights, prior.loc[:, 0], prior.scale, strict=True))


def draw_target(axes: "Axes", prior: Prior, x: Float[np.ndarray, "points"]) -> None:
    """Draw the density of the target in one dimension as an area."""
    axes.fill_between(x, density(prior, x), color=INK, alpha=0.15, linewidth=0.0, label="target p")
    axes.set(xlim=(x[0], x[-1]), xlabel="x", ylabel="density")


def _draw_line(axes: "Axes", fit: Fit) -> None:
    prior = fit.prior
    ends = [prior.loc[:, 0] - 4.5 * prior.scale, prior.loc[:, 0] + 4.5 * prior.scale]
    x = np.linspace(np.min(ends), np.max(ends), 801)
    draw_target(axes, prior, x)
    if _has_gaussian(fit):
        loc, sd = fit.params.phi.loc[0], np.exp(fit.params.phi.raw_scale[0, 0])
        q = norm.pdf(x, loc, sd)
        axes.plot(x, q, color=ACCENT, linewidth=2.0, label=f"q: mean {_rounded(loc)}, sd {sd:.3g}")
    else:
        style: dict[str, Any] = {"histtype": "step", "color": ACCENT, "linewidth": 1.5}
        axes.hist(fit.posterior(NUM_DRAWS)["x"][:, 0], bins="auto", density=True, label="draws", **style)
    axes.set_ylim(0.0, min(axes.get_ylim()[1], HIGHEST * density(prior, x).max()))


def _rounded(value: float) -> str:
    """Return a number to three decimals, a rounding error as zero."""
    return f"{value if abs(value) >= 5e-4 else 0.0:.3g}"


# --- two and more dimensions ----------------------------------------------------------------------------------------


def plane_of(prior: Prior) -> Float[np.ndarray, "num_dims 2"]:
    """Return the plane that is drawn: both axes where there are two, else one through both modes and one across it."""
    size = prior.loc.shape[1]
    if size == 2:
        return np.eye(2)
    between = np.stack([prior.loc[1] - prior.loc[0], np.eye(size)[1]], axis=1)
    found, _ = np.linalg.qr(between + 1e-12 * np.eye(size)[:, :2])
    return found * np.where(found[np.abs(found).argmax(0), [0, 1]] < 0.0, -1.0, 1.0)


def _draw_plane(axes: "Axes", fit: Fit) -> None:
    prior, plane = fit.prior, plane_of(fit.prior)
    modes = prior.loc @ plane
    low, high = (modes - 4.0 * prior.scale[:, None]).min(0), (modes + 4.0 * prior.scale[:, None]).max(0)
    grid = np.stack(np.meshgrid(*np.linspace(low, high, NUM_POINTS).T), axis=-1)
    p = sum(
        w * multivariate_normal(m, s**2 * np.eye(2)).pdf(grid)
        for w, m, s in zip(prior.weights, modes, prior.scale, strict=True)
    )
    levels = [0.0, *LEVELS, 1.0]
    axes.contourf(grid[..., 0], grid[..., 1], p / p.max(), levels=levels, cmap="Greys", alpha=0.55)
    axes.plot([], [], "s", color="#999999", markersize=9, label="target p")
    if _has_gaussian(fit):
        _draw_gaussian(axes, fit.params.phi.loc @ plane, plane.T @ cholesky(fit.params.phi.raw_scale))
    else:
        draws = fit.posterior(NUM_DRAWS)["x"] @ plane
        axes.plot(*draws.T, ".", color=ACCENT, markersize=2.0, alpha=0.4, label="draws")
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    names = ("x[0]", "x[1]") if len(plane) == 2 else ("along the line through the modes", "across it")
    axes.set(xlabel=names[0], ylabel=names[1], aspect="equal")


def _draw_gaussian(axes: "Axes", loc: np.ndarray, factor: np.ndarray) -> None:
    """Draw the ellipses of one and two standard deviations; factor factor' is the covariance in the plane."""
    turn = np.linspace(0.0, 2.0 * np.pi, 200)
    circle = np.linalg.cholesky(factor @ factor.T) @ np.stack([np.cos(turn), np.sin(turn)])
    for radius, style in ((1.0, "-"), (2.0, "--")):
        x, y = loc[:, None] + radius * circle
        axes.plot(x, y, style, color=ACCENT, linewidth=1.8, label=f"q, {radius:g} sd")
