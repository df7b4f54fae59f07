"""The picture of the scaling: seconds an iteration against what grows, a panel each, on logarithmic scales."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentzoo.benchmarks.fresh import SECONDS
from latentzoo.benchmarks.results import Row
from latentzoo.inference.pictures import COLOURS, INK, SHAPES, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"N": "rows N", "K": "components K", "D": "columns D", "nnz": "distinct bigrams"}
HUES = (1, 0, 2, 4)  # of COLOURS


def draw(rows: Sequence[Row]) -> "Figure":
    """Return the figure: the measured points, the fitted power laws, and a line of slope one for the eye."""
    panels = _panels(rows)
    figure = new_figure(10.0, 4.0 * -(-len(panels) // 2))
    spots = figure.subplots(-(-len(panels) // 2), 2).flat
    for axes, (symbol, curves) in zip(spots, panels.items(), strict=False):
        for (name, points), hue, shape in zip(curves.items(), HUES, (*SHAPES, "D"), strict=False):
            _curve(axes, name, np.array(points), COLOURS[hue], shape)
        _reference(axes, np.array(next(iter(curves.values()))))
        axes.set(xscale="log", yscale="log", xlabel=LABELS[symbol], ylabel=SECONDS)
        if symbol != "N":
            _tick(axes, sorted({value for points in curves.values() for value, _ in points}))
        axes.legend(frameon=False, fontsize="x-small", loc="upper left")
        axes.margins(y=0.3)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(figure.axes)[len(panels) :]:
        axes.remove()
    figure.suptitle("Seconds an iteration against what grows; in brackets the fitted exponent", fontsize="medium")
    return figure


def _panels(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the points of each curve, by what grows and by who runs."""
    panels: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.quantity == SECONDS and row.value:
            symbol, _, value = row.data.partition(" = ")
            entry, executor, _ = row.variant.split(", ")
            panels[symbol][f"{entry}, {executor}"].append((float(value), row.value))
    return panels


def _tick(axes: "Axes", values: Sequence[float]) -> None:
    """Mark the measured values themselves: they span too few powers of ten for those to do."""
    axes.set_xticks(values, [f"{value:,.0f}" for value in values])
    axes.minorticks_off()


def _curve(axes: "Axes", name: str, points: np.ndarray, colour: str, shape: str) -> None:
    x, y = points.T
    slope, level = np.polyfit(np.log(x), np.log(y), 1)
    axes.plot(x, np.exp(level) * x**slope, color=colour, linewidth=1.0, alpha=0.6)
    axes.plot(x, y, shape, color=colour, markersize=5.0, label=f"{name} ({slope:.2f})")


def _reference(axes: "Axes", points: np.ndarray) -> None:
    x, y = points.T
    axes.plot(x, y[0] * x / x[0], color=INK, linewidth=1.0, linestyle=":", label="slope one")
