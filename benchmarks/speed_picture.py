"""The picture of the speeds: how many times as fast as each peer, and what is asked."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentzoo.benchmarks.paired import LEAST, MOST, TIMES
from latentzoo.benchmarks.report import number
from latentzoo.benchmarks.results import Row
from latentzoo.benchmarks.speed_report import Outcome, outcomes
from latentzoo.inference.pictures import ACCENT, COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 62  # characters of a line of a label


def draw(rows: Sequence[Row]) -> "Figure":
    """Return the figure: a bar for each comparison on a logarithmic scale, its range, a mark of what is asked."""
    found = [one for one in outcomes(rows) if one.peer[TIMES].value]
    figure = new_figure(10.5, 1.2 + 0.55 * len(found))
    axes = figure.subplots()
    places = np.arange(len(found))[::-1]
    ratios = np.array([one.peer[TIMES].value for one in found])
    axes.barh(places, ratios - 1.0, left=1.0, height=0.62, color=[_colour(one) for one in found])
    for place, one in zip(places, found, strict=True):
        _range(axes, place, one)
        asked = one.peer[TIMES].reference
        if asked is not None:
            axes.plot([asked, asked], [place - 0.42, place + 0.42], color=ACCENT, linewidth=2.4)
        farthest = max(one.peer[TIMES].value or 1.0, _value(one, MOST), asked or 1.0)
        text = number(float(f"{one.peer[TIMES].value:.3g}"))
        axes.annotate(text, (farthest, place), (6, 0), textcoords="offset points", va="center", color=INK)
    axes.plot([], [], color=ACCENT, linewidth=2.4, label="what is asked")
    axes.plot([], [], color=INK, linewidth=1.4, label="range of the pairs")
    axes.axvline(1.0, color=INK, linewidth=1.0)
    labels = [textwrap.fill(one.name.replace("gaussian_mixture, ", ""), WIDTH) for one in found]
    axes.set_yticks(places, labels, fontsize="x-small")
    axes.set(xscale="log", xlabel="times as fast", ylim=(-0.6, len(found) - 0.4))
    axes.set_xlim(min(0.8, 0.9 * ratios.min(initial=1.0)), 3.0 * ratios.max(initial=1.0))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower right", ncols=2, frameon=False, fontsize="small")
    figure.suptitle("How many times as fast as other libraries: medians of pairs of fresh processes", fontsize="medium")
    return figure


def _colour(one: Outcome) -> str:
    """Return the colour of an entry."""
    names = ("gaussian_mixture", "earthquakes", "aggregate_markov")
    return COLOURS[(6, 0, 3)[names.index(one.entry)]] if one.entry in names else COLOURS[5]


def _value(one: Outcome, quantity: str) -> float:
    row = one.peer.get(quantity)
    return 1.0 if row is None or row.value is None else row.value


def _range(axes: "Axes", place: float, one: Outcome) -> None:
    if LEAST in one.peer and MOST in one.peer:
        axes.plot([_value(one, LEAST), _value(one, MOST)], [place, place], color=INK, linewidth=1.4)
