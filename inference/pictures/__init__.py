"""The pictures of a fit: the ascent of its bound, and those that a model has of its own.

A file of this folder that bears the name of a model holds that model's own pictures: a function `draw(fit)` that
returns them by name. It is found by its name; a model without one has the general pictures only.
"""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.result import Fit
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, ACCENT = "#333333", "#882255"


def draw(fit: Fit) -> dict[str, "Figure"]:
    """Return the pictures of a fit by name: `elbo`, and the model's own."""
    pictures = {"elbo": elbo(fit)}
    own = f"{__name__}.{fit.entry.name}"
    if find_spec(own):
        pictures |= importlib.import_module(own).draw(fit)
    return pictures


def save(fit: Fit, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the pictures of a fit as PNG files into a folder, which is made if need be; return their paths.

    Raises
    ------
    UserError: the folder cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from error
    paths = []
    for name, figure in draw(fit).items():
        paths.append(folder / f"{name}.png")
        with atomic(paths[-1]) as file:
            figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight")
        figure.clear()
    return paths


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure that pyplot does not know of: there is nothing to close, and no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def elbo(fit: Fit) -> "Figure":
    """Draw how far the bound was from the best that was reached, against steps and against seconds.

    The distance is on a logarithmic scale: the bound itself is a flat line after a few steps, whatever it still does.
    """
    figure = new_figure(9.0, 3.8)
    by_steps, by_seconds = figure.subplots(1, 2, sharey=True)
    gap = _shown(np.nanmax(fit.elbo_trace, initial=-np.inf) - fit.elbo_trace)
    _curve(by_steps, np.arange(1, fit.num_steps + 1), gap)
    total = float(fit.seconds_trace[-1])
    unit, factor = ("seconds", 1.0) if total >= 1.0 else ("milliseconds", 1e3)
    _curve(by_seconds, factor * fit.seconds_trace, gap)
    by_steps.set(xlabel="step", ylabel="nats below the best bound")
    by_seconds.set(xlabel=unit)
    words = _restarts(by_steps, fit)
    for axes in (by_steps, by_seconds):
        axes.set_yscale("log" if np.isfinite(gap).any() else "linear")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    state = "converged" if fit.converged else f"not converged: {fit.reason}"
    title = f"{fit.entry.name}, {fit.method}: ELBO {fit.elbo:,.6g} nats after {fit.num_steps} steps, {state}"
    figure.suptitle(f"{title}\n{words}" if words else title, fontsize="medium")
    return figure


def _shown(gap: np.ndarray) -> np.ndarray:
    """Return the distances that a logarithmic scale can show; the others, such as the best step's own, as NaN."""
    return np.where(np.isfinite(gap) & (gap > 0.0), gap, np.nan)


def _curve(axes: "Axes", x: np.ndarray, gap: np.ndarray) -> None:
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(x) <= 60 else {}
    axes.plot(x, gap, color=INK, linewidth=1.5, **dots)
    axes.set_xlim(min(0.0, x[0]), x[-1] * 1.03)
    if not np.isfinite(gap).any():
        axes.text(0.5, 0.5, "no step was below the best", transform=axes.transAxes, ha="center", color=INK)


def _restarts(axes: "Axes", fit: Fit) -> str:
    """Mark where the other restarts ended; return a line on how many ended at the best bound."""
    if len(fit.restarts) < 2:
        return ""
    ends = np.array([restart.elbo for restart in fit.restarts])
    short = fit.elbo - ends
    lower = ~(short <= 1e-6 * max(1.0, abs(fit.elbo)))  # true for NaN
    steps = np.array([restart.num_steps for restart in fit.restarts])
    if lower.any():
        label = "where a restart ended lower"
        axes.plot(steps[lower], _shown(short[lower]), "D", color=ACCENT, markersize=6, fillstyle="none", label=label)
        axes.set_xlim(right=1.03 * max(steps.max(), fit.num_steps))
        axes.legend(frameon=False, fontsize="small")
    return f"{(~lower).sum()} of {len(ends)} restarts ended at this bound"
