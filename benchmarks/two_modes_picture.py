"""The picture of the suite: all fits over the target, the optima by alpha, and which start leads where."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from latentzoo.inference.pictures import new_figure
from latentzoo.inference.pictures.two_modes import draw_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from latentzoo.benchmarks.two_modes import Sweep

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # that are written at the axis
LEFT, ACROSS, RIGHT, BETWEEN, INCLUSIVE = "#0072B2", "#E69F00", "#D55E00", "#009E73", "#333333"


def draw(prior: Any, sweeps: Mapping[float, "Sweep"], branches: Sequence[np.ndarray], rates: "Sweep") -> "Figure":
    """Return the figure. The first of the sweeps is of the target that is drawn."""
    figure = new_figure(12.5, 7.4)
    grid = figure.add_gridspec(2, 3, height_ratios=(1.0, 1.0))
    apart = next(iter(sweeps))
    _fits(figure.add_subplot(grid[0, :2]), prior, sweeps[apart], branches)
    _branches(figure.add_subplot(grid[0, 2]), branches)
    for column, (each, sweep) in enumerate(sweeps.items()):
        axes = figure.add_subplot(grid[1, column])
        _map(axes, sweep, each, "sd of the first q")
        axes.set_title(f"exclusive, L-BFGS: modes at ±{each:g}", fontsize="medium")
        axes.set_yticks(WIDTHS, [f"{width:g}" for width in WIDTHS])
        axes.plot([-each, each], [1.0, 1.0], "o", color="white", markeredgecolor=INCLUSIVE, markersize=6)
    axes = figure.add_subplot(grid[1, 2])
    _map(axes, rates, apart, "learning rate")
    axes.set_title(f"exclusive, SVI from sd 1: modes at ±{apart:g}", fontsize="medium")
    axes.set_yticks(rates.others, [f"{rate:g}" for rate in rates.others])
    figure.suptitle("One Gaussian on two modes: what is found depends on the divergence and on the start")
    return figure


def _fits(axes: "Axes", prior: Any, sweep: "Sweep", branches: Sequence[np.ndarray]) -> None:
    """Draw every optimum over the target."""
    x = np.linspace(-9.0, 9.0, 601)
    draw_target(axes, prior, x)
    for mean, sd, kl, _ in sweep.optima():
        colour = colour_of(mean, float(np.abs(prior.loc).max()))
        name = "across both" if colour == ACROSS else "on one mode"
        axes.plot(x, norm.pdf(x, mean, sd), color=colour, linewidth=2.2, label=f"exclusive, {name}: KL(q‖p) = {kl:.3f}")
    across = branches[-1]
    for alpha in (0.5,):
        _, mean, sd = across[np.abs(across[:, 0] - alpha).argmin()]
        axes.plot(x, norm.pdf(x, mean, sd), color=BETWEEN, linewidth=1.6, label=f"alpha = {alpha:g}")
    mean, variance = prior.weights @ prior.loc[:, 0], prior.weights @ (prior.scale**2 + prior.loc[:, 0] ** 2)
    sd = np.sqrt(variance - mean**2)
    axes.plot(x, norm.pdf(x, mean, sd), "--", color=INCLUSIVE, linewidth=1.6, label=f"inclusive: sd = {sd:.3f}")
    axes.set(ylim=(0.0, 0.56), title="all fits over the target")
    axes.title.set_fontsize("medium")
    axes.legend(frameon=False, fontsize="small", ncols=2, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)


def _branches(axes: "Axes", branches: Sequence[np.ndarray]) -> None:
    """Draw the standard deviation of each optimum against alpha."""
    for found, colour, name in zip(branches, (RIGHT, ACROSS), ("from one mode", "from across both"), strict=True):
        alpha, _, sd = found.T
        axes.plot(alpha, sd, ".-", color=colour, linewidth=1.6, markersize=5.0, label=name)
    axes.set(xlabel="alpha: exclusive (0) to inclusive (1)", ylabel="sd of q", xlim=(0.0, 1.0), ylim=(0.0, None))
    axes.set_title("where $D_α(p‖q)$ has its optimum, followed", fontsize="medium")
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _map(axes: "Axes", sweep: "Sweep", apart: float, what: str) -> None:
    """Colour each start by where its run ended."""
    from matplotlib.colors import to_rgb

    colours = np.array([[to_rgb(colour_of(mean, apart)) for mean in row] for row in sweep.mean])
    axes.pcolormesh(_edges(sweep.starts), np.exp(_edges(np.log(sweep.others))), colours, alpha=0.85)
    axes.set(yscale="log", xlabel="mean of the first q", ylabel=what)
    axes.minorticks_off()


def _edges(centres: np.ndarray) -> np.ndarray:
    """Return the edges of the cells around these centres."""
    inner = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2.0 * centres[0] - inner[0]], inner, [2.0 * centres[-1] - inner[-1]]])


def colour_of(mean: float, apart: float) -> str:
    """Return the colour of an end: on the left mode, on the right one, or across both."""
    return LEFT if mean < -apart / 2.0 else RIGHT if mean > apart / 2.0 else ACROSS
