"""The picture of a sampler: the draws of each chain, of the coordinates on which the chains agree least."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference import importance
from latentzoo.inference.mcmc import Chains
from latentzoo.inference.pictures import INK, name_of, new_figure, worth_of
from latentzoo.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COORDINATES = 8
MOST_DRAWS = 1000  # of each chain: a line of more of them is a blot
MOST_KEYS = 10  # chains that are named one by one
# Colours that the colour-blind tell apart (Okabe and Ito); black is for divergences.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HEIGHT, MARGIN = 1.1, 1.4  # inches: of a coordinate, and of the title and the key


class Coordinate(NamedTuple):
    """One number of a site: its draws (chain, draw), R-hat (NaN of one chain, or of a constant) and bulk ESS."""

    name: str
    draws: np.ndarray
    r_hat: float
    ess: float


def draw(fit: Fit, chains: Chains) -> "Figure":
    """Return the figure: for each coordinate its density in each chain to the left, its draws to the right."""
    found, total = worst(chains)
    diverging = np.asarray(chains.stats["diverging"], bool)
    figure = new_figure(11.0, HEIGHT * len(found) + MARGIN)
    panels = figure.subplots(len(found), 2, squeeze=False, width_ratios=(1.0, 2.6))
    for (left, right), coordinate in zip(panels, found, strict=True):
        _draw_densities(left, coordinate, diverging)
        _draw_chains(right, coordinate, diverging)
        right.tick_params(labelbottom=right is panels[-1, 1])
    panels[-1, 1].set_xlabel("draw" + _thinned(diverging.shape[1]))
    _draw_key(figure, diverging)
    figure.suptitle(_title(fit, chains) + _part(found, total), fontsize="medium")
    return figure


# --- what is drawn ----------------------------------------------------------------------------------------------------


def worst(chains: Chains) -> tuple[list[Coordinate], int]:
    """Return the coordinates with the largest R-hat, the largest first, and how many there are in all."""
    az, several = importance.arviz(), chains.stats["diverging"].shape[0] > 1
    columns = dict(_columns(chains.draws))
    with np.errstate(divide="ignore", invalid="ignore"):  # a number that never moves has no R-hat
        r_hat = {name: float(az.rhat(column)) if several else np.nan for name, column in columns.items()}
    chosen = sorted(columns, key=lambda name: np.nan_to_num(-r_hat[name], nan=np.inf))[:MOST_COORDINATES]
    return [Coordinate(name, columns[name], r_hat[name], float(az.ess(columns[name]))) for name in chosen], len(columns)


def _columns(draws: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the draws of each number, (chain, draw), by its site and index."""
    for site, values in draws.items():
        for index in np.ndindex(values.shape[2:]):
            yield site + (f"[{', '.join(map(str, index))}]" if index else ""), values[(..., *index)]


def _stride(num_draws: int) -> int:
    return -(-num_draws // MOST_DRAWS)


def _thinned(num_draws: int) -> str:
    stride = _stride(num_draws)
    return "" if stride == 1 else f" (one in {stride} is drawn)"


def _part(found: list[Coordinate], total: int) -> str:
    if len(found) == total:
        return ""
    if np.isnan(found[0].r_hat):
        return f"\nthe first {len(found)} of {total} coordinates"
    return f"\nthe {len(found)} of {total} coordinates with the largest R-hat"


def _title(fit: Fit, chains: Chains) -> str:
    """Return the method and its size, and on a second line how far its draws can be trusted."""
    found = fit.diagnostics()
    agreed = f"largest R-hat {found['r_hat']:.4f}" if len(chains.stats["diverging"]) > 1 else "no R-hat of one chain"
    divergences = int(found["num_divergences"])
    marked = f"{divergences:,} divergent draw{'' if divergences == 1 else 's'}"
    state = "converged" if fit.converged else "not converged" + (chains.reason and f": {chains.reason}")
    return (
        f"{fit.entry.name}, {name_of(fit)}: {worth_of(fit)}, {state}\n"
        f"{agreed}, smallest bulk ESS {found['ess_bulk']:,.0f}, {marked}"
    )


# --- drawing ----------------------------------------------------------------------------------------------------------


def _draw_densities(axes: "Axes", coordinate: Coordinate, diverging: np.ndarray) -> None:
    """Draw the density of the draws of each chain; a chain that does not move is a line."""
    low, high = np.nanmin(coordinate.draws), np.nanmax(coordinate.draws)
    for index, draws in enumerate(coordinate.draws):
        kept = draws[:: _stride(len(draws))]
        if np.ptp(kept) > 1e-9 * max(abs(low), abs(high)):
            grid = np.linspace(low, high, 200)
            axes.plot(grid, _density(kept, grid), color=_colour(index), linewidth=1.4)
        else:
            axes.axvline(kept[0], color=_colour(index), linewidth=1.4)
    axes.set(yticks=[], ylim=(0.0, None))
    _rug(axes, coordinate.draws[diverging])
    axes.set_title(coordinate.name, fontsize="medium", loc="left", weight="bold")
    axes.locator_params(axis="x", nbins=5)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _density(draws: np.ndarray, grid: np.ndarray) -> np.ndarray:
    from scipy.stats import gaussian_kde

    return gaussian_kde(draws)(grid)


def _draw_chains(axes: "Axes", coordinate: Coordinate, diverging: np.ndarray) -> None:
    """Draw each chain as a line against the number of the draw."""
    num_draws = coordinate.draws.shape[1]
    numbers = np.arange(num_draws)[:: _stride(num_draws)]
    for index, draws in enumerate(coordinate.draws):
        axes.plot(numbers, draws[numbers], color=_colour(index), linewidth=0.7, alpha=0.75)
    _rug(axes, np.nonzero(diverging)[1])
    r_hat = "" if np.isnan(coordinate.r_hat) else f"R-hat {coordinate.r_hat:.4f}, "
    axes.set_title(f"{r_hat}bulk ESS {coordinate.ess:,.0f}", fontsize="small", loc="right")
    axes.set_xlim(0, max(num_draws - 1, 1))
    axes.locator_params(axis="y", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)


def _rug(axes: "Axes", at: np.ndarray) -> None:
    """Mark the divergent draws at the foot of the axes, below all else."""
    if not len(at):
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.2 * (high - low), high)
    foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "linestyle": "none", "marker": "|"}
    axes.plot(at, np.full(len(at), 0.07), color=INK, markersize=8, markeredgewidth=1.0, zorder=4, **foot)


def _colour(chain: int) -> str:
    return COLOURS[chain % len(COLOURS)]


def _draw_key(figure: "Figure", diverging: np.ndarray) -> None:
    """Say below the panels what each colour and mark means."""
    from matplotlib.lines import Line2D

    num_chains = len(diverging)
    keys = [Line2D([], [], color=_colour(index), label=f"chain {index}") for index in range(min(num_chains, MOST_KEYS))]
    if num_chains > MOST_KEYS:
        keys[-1].set_label(f"chain {MOST_KEYS - 1}, and so on")
    if diverging.any():
        mark: dict[str, Any] = {"linestyle": "none", "marker": "|", "markersize": 8}
        keys.append(Line2D([], [], color=INK, label="a divergent draw", **mark))
    figure.legend(handles=keys, loc="outside lower center", ncols=6, frameon=False, fontsize="small")
