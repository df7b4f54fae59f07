"""The pictures of a fit: the ascent of its bound or the draws of its sampler, and those that a model has of its own.

A file of this folder that bears the name of a model holds that model's own pictures: a function `draw(fit, test=None)`
that returns them by name, with the rows of the test data where it draws rows and there are some. It is found by its
name; a model without one has the general pictures only. Files of general pictures are named in `GENERAL`.
"""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.comparison import with_error
from latentzoo.inference.pictures.dot import Graph
from latentzoo.inference.pictures.dot import save as save_graph
from latentzoo.inference.result import Fit
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Files of no model, whatever models are called.
GENERAL = ("comparison", "deep", "dot", "network", "panels", "samplers", "trace")
DPI = 150
INK, ACCENT = "#333333", "#882255"
# Nine colours that the colour-blind tell apart (Paul Tol's "muted") and three shapes: 27 components before one repeats.
COLOURS = ("#CC6677", "#332288", "#117733", "#88CCEE", "#AA4499", "#999933", "#44AA99", "#882255", "#DDCC77")
SHAPES = ("o", "^", "s")


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure | Graph"]:
    """Return the pictures of a fit by name: `elbo`, or `trace` of a sampler, and the model's own.

    A fit of a single step, as "exact" is, has no way to its bound, and so no picture of it.

    test: data that were not fitted, whose rows the pictures of deep models show.
    """
    if fit.chains is None:
        pictures: dict[str, Figure | Graph] = {"elbo": elbo(fit)} if len(fit.elbo_trace) > 1 else {}
    else:
        pictures = {"trace": importlib.import_module(f"{__name__}.trace").draw(fit, fit.chains)}
    own = f"{__name__}.{fit.entry.name}"
    if fit.entry.name not in GENERAL and find_spec(own):
        pictures |= importlib.import_module(own).draw(fit, test)
    return pictures


def save(fit: Fit, folder: str | os.PathLike[str], test: Any = None) -> list[Path]:
    """Write the pictures of a fit as PNG files into a folder, which is made if need be; return their paths.

    Graphs are written in DOT where Graphviz's `dot` is missing.

    Raises
    ------
    UserError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    return [_save(picture, folder / name) for name, picture in draw(fit, test).items()]


def _save(picture: "Figure | Graph", path: Path) -> Path:
    """Write a picture under a path without a suffix; return the file."""
    if isinstance(picture, Graph):
        return save_graph(picture, path)[0]
    path = path.with_name(f"{path.name}.png")
    write(picture, path)
    picture.clear()
    return path


def write(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whole or not at all; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure that pyplot does not know of: there is nothing to close, and no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def look(index: int) -> tuple[str, str]:
    """Return the colour and the shape of a component."""
    return COLOURS[index % len(COLOURS)], SHAPES[index // len(COLOURS) % len(SHAPES)]


def certainty(resp: np.ndarray) -> np.ndarray:
    """Return how sure it is to which component each row belongs: 0 where all are as likely, 1 where one is certain."""
    size = resp.shape[1]
    return (resp.max(1) * size - 1.0) / (size - 1.0) if size > 1 else np.ones(len(resp))


def name_of(fit: Fit) -> str:
    """Return the method of a fit, with its library and its guide where there is a choice."""
    return fit.label if fit.guide is None else f"{fit.label} with {fit.guide.name}"


def worth_of(fit: Fit) -> str:
    """Return the bound that a fit reached, or how many draws its sampler made."""
    if fit.chains is None:
        return f"{fit.objective} {with_error(fit.elbo, fit.elbo_error)} nats"
    num_chains, num_draws = fit.chains.stats["diverging"].shape
    return f"{num_chains} chain{'' if num_chains == 1 else 's'} of {num_draws:,} draws"


# --- the bound --------------------------------------------------------------------------------------------------------


def elbo(fit: Fit) -> "Figure":
    """Draw how far the bound was from the best that was reached, against steps and against seconds.

    The distance is on a logarithmic scale: the bound itself is a flat line after a few steps, whatever it still does.
    The bounds of SVI are noisy, and some exceed any bound there is: they are measured from `fit.elbo`, that of the end,
    and those above it lie below zero, on a scale that is linear as far as the noise goes.
    """
    figure = new_figure(9.0, 3.8)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.05})
    noisy = _is_noisy(fit)
    best = fit.elbo if noisy else np.nanmax(fit.elbo_trace, initial=-np.inf)
    gap = _shown(best - fit.elbo_trace, least=-np.inf if noisy else 0.0)
    total = float(fit.seconds_trace[-1])
    unit, factor = ("seconds", 1.0) if total >= 1.0 else ("milliseconds", 1e3)
    for axes, x in ((by_steps, fit.trace.step), (by_seconds, factor * fit.seconds_trace)):
        _curve(axes, x, gap)
        if noisy:
            _draw_end(axes, fit, gap)
        else:
            axes.set_yscale("log" if np.isfinite(gap).any() else "linear")
            _draw_kept(axes, fit, x, gap)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    by_steps.set(xlabel="step", ylabel=f"nats below the {'final' if noisy else 'best'} bound")
    by_steps.locator_params(axis="x", integer=True)
    by_seconds.set(xlabel=unit)
    words = _restarts(by_steps, fit, noisy)
    if by_steps.get_legend_handles_labels()[1]:
        by_steps.legend(frameon=False, fontsize="small")
    state = "converged" if fit.converged else f"not converged: {fit.reason}"
    title = f"{fit.entry.name}, {name_of(fit)}: {worth_of(fit)} after {fit.num_steps} steps, {state}"
    figure.suptitle(f"{title}\n{words}" if words else title, fontsize="medium")
    return figure


def _is_noisy(fit: Fit) -> bool:
    """Return whether the trace has estimates of the bound: then no entry is the bound of the fit."""
    return _kept(fit) is None


def _kept(fit: Fit) -> int | None:
    """Return the last entry of the trace that is the bound of the fit: not the last of all where it stopped early."""
    same = np.flatnonzero(np.abs(fit.elbo_trace - fit.elbo) <= 1e-9 * abs(fit.elbo))
    return int(same[-1]) if same.size else None


def _draw_kept(axes: "Axes", fit: Fit, x: np.ndarray, gap: np.ndarray) -> None:
    """Mark the step whose parameters the fit has, where it went on after it."""
    kept = _kept(fit)
    if kept is not None and any(run.validation is not None for run in fit.restarts):
        style: dict[str, Any] = {"color": ACCENT, "markersize": 9, "fillstyle": "none", "markeredgewidth": 1.8}
        axes.plot(x[kept], gap[kept], "o", label="kept: the best for the validation data", **style)


def _draw_end(axes: "Axes", fit: Fit, gap: np.ndarray) -> None:
    """Draw the bound at the end, from which the noisy ones are measured, and say which is which."""
    late = np.abs(gap[np.isfinite(gap)])[-max(len(gap) // 4, 1) :]
    noise = max(float(np.median(late)), 1e-6) if late.size else 1.0
    axes.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(noise)))
    axes.lines[0].set_label("noisy: means over blocks of steps")
    exact = fit.elbo_error == 0.0
    axes.axhline(0.0, color=ACCENT, linewidth=1.2, label=f"the final bound{', exact' if exact else ''}")
    if not exact:
        axes.axhspan(-fit.elbo_error, fit.elbo_error, color=ACCENT, alpha=0.2, linewidth=0, label="± standard error")


def _shown(gap: np.ndarray, least: float = 0.0) -> np.ndarray:
    """Return the distances that a scale can show; the others as NaN: 0, the best step's own, on a logarithmic one."""
    return np.where(np.isfinite(gap) & (gap > least), gap, np.nan)


def _curve(axes: "Axes", x: np.ndarray, gap: np.ndarray) -> None:
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(x) <= 60 else {}
    axes.plot(x, gap, color=INK, linewidth=1.5, **dots)
    axes.set_xlim(min(0.0, x[0]), x[-1] * 1.03)
    if not np.isfinite(gap).any():
        axes.text(0.5, 0.5, "no step was below the best", transform=axes.transAxes, ha="center", color=INK)


def _restarts(axes: "Axes", fit: Fit, noisy: bool) -> str:
    """Mark where the other restarts ended; return a line on how many ended at the best bound."""
    if len(fit.restarts) < 2:
        return ""
    ends = np.array([restart.elbo for restart in fit.restarts])
    short, rounding = fit.elbo - ends, 1e-6 * max(1.0, abs(fit.elbo))
    lower = ~(short <= rounding)  # true for NaN
    steps = np.array([restart.num_steps for restart in fit.restarts])
    if lower.any():
        label = "where a restart ended lower"
        axes.plot(steps[lower], _shown(short[lower]), "D", color=ACCENT, markersize=6, fillstyle="none", label=label)
        axes.set_xlim(right=1.03 * max(steps.max(), fit.num_steps))
    # Where steps are noisy no two runs end at the very same bound.
    if noisy:
        return f"{(short <= 1.0).sum()} of {len(ends)} restarts ended within 1 nat of this bound"
    return f"{(~lower).sum()} of {len(ends)} restarts ended at this bound"
