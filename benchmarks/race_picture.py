"""The picture of a race: the way that is left against seconds and against gradient evaluations."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.benchmarks.race_gaps import TARGETS, Descent, Standing
from latentzoo.inference.pictures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the colour-blind tell apart (Okabe and Ito), and shapes, for those who see none.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("o", "s", "D", "^", "v", "P")
LEAST = 1e-6  # the smallest gap that is drawn
LABELS = {"seconds": "seconds, compilation apart", "gradients": "gradient evaluations, in passes over all rows"}


def draw(standings: Sequence[Standing], title: str) -> "Figure":
    """Return the figure: bold the median over seeds at the best learning rate, with its range; faint the others."""
    figure = new_figure(10.0, 5.4)
    panels = dict(zip(LABELS, figure.subplots(1, 2, sharey=True), strict=True))
    for by, axes in panels.items():
        for one, colour, shape in zip(standings, cycle(COLOURS), cycle(SHAPES), strict=False):
            _contestant(axes, one, by, colour, shape)
        _dress(axes, by)
    panels["seconds"].set_ylabel("remaining gap: (best - bound) / (best - start)")
    handles, labels = panels["seconds"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    title = f"{title}: how much of the way to the best bound is left"
    how = f"median and range over the seeds; faint: other learning rates; gaps below {LEAST:g} are drawn there"
    figure.suptitle(f"{title}\n{how}", fontsize="medium")
    return figure


def _contestant(axes: "Axes", one: Standing, by: str, colour: str, shape: str) -> None:
    for rate, runs in one.runs.items():
        spent, gaps = together(runs, by)
        if not len(spent):  # it never came to its first look at the bound
            continue
        middle = np.median(gaps, axis=0)
        if rate != one.rate:
            axes.plot(spent, middle, color=colour, alpha=0.25, linewidth=0.8)
            continue
        axes.fill_between(spent, gaps.min(0), gaps.max(0), color=colour, alpha=0.15, linewidth=0.0)
        marks: dict[str, Any] = {"marker": shape, "markersize": 5.0, "markevery": 0.07, "label": _label(one)}
        axes.plot(spent, middle, color=colour, linewidth=1.8, zorder=3, **marks)


def _label(one: Standing) -> str:
    rate = "" if one.rate is None else f", learning rate {one.rate:g}"
    return f"{one.name}{rate}" + (f" (+ {one.compiling:.1f} s to compile)" if one.compiling >= 0.05 else "")


def together(runs: Mapping[int, Descent], by: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the runs of several seeds on one axis: what was spent, and each run's gap by then, (runs, points).

    It begins where each of them has been recorded once beside its start, which has no place on a logarithmic axis;
    after its last point a run stays where it was. A gap too small to draw, or none, is the smallest that is drawn.
    """
    axis = np.unique(np.concatenate([run.spent(by) for run in runs.values()]))
    axis = axis[axis >= max(run.spent(by)[:2][-1] for run in runs.values())]
    axis = axis[axis > 0.0]
    gaps = [run.gap[np.searchsorted(run.spent(by), axis, side="right") - 1] for run in runs.values()]
    return axis, np.clip(np.stack(gaps), LEAST, None)


def _dress(axes: "Axes", by: str) -> None:
    axes.axhline(TARGETS[-1], color=INK, linewidth=1.0)
    axes.set(xscale="log", yscale="log", xlabel=LABELS[by], ylim=(0.7 * LEAST, 3.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
