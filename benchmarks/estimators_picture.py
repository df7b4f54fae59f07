"""The pictures of the gradient estimators."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.benchmarks.estimators_report import BIAS, VARIANCE
from latentzoo.benchmarks.race_picture import COLOURS, SHAPES
from latentzoo.benchmarks.results import Row
from latentzoo.inference.pictures import INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from latentzoo.benchmarks.estimators_evidence import Gaps

LEAST = 1e-3  # the smallest variance that is drawn
ByScale = tuple[np.ndarray, Mapping[str, np.ndarray]]  # values of s, and the variances of each estimator there


def normal(measured: ByScale, controlled: Mapping[float, float], theory: ByScale) -> "Figure":
    """Draw the variance by m against s: marks as they were measured, curves by theory behind them."""
    figure = new_figure(8.0, 5.2)
    axes = figure.subplots()
    (scales, marks), (fine, curves) = measured, theory
    for (name, values), colour, shape in zip(marks.items(), cycle(COLOURS), cycle(SHAPES), strict=False):
        axes.plot(fine, curves[name], color=colour, linewidth=1.2, alpha=0.7)
        axes.plot(scales, np.where(values >= LEAST, values, np.nan), shape, color=colour, markersize=6.0, label=name)
    style: dict[str, Any] = {"color": INK, "markersize": 7.0}
    axes.plot([*controlled], [*controlled.values()], "*", label="controlled, c estimated", **style)
    cross = 1.0 / np.sqrt(2.0)
    axes.axvline(cross, color=INK, linewidth=0.8, linestyle=":")
    axes.annotate("s = 1/√2", (cross, 1.0), (4, -12), xycoords=("data", "axes fraction"), textcoords="offset points")
    axes.set(yscale="log", ylim=(LEAST, None), xlabel="s", ylabel="variance by m, times the number of particles")
    _dress(axes)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(
        "p = Normal(0, 1), q = Normal(1, s²): variance of the gradient by m\ncurves: theory; marks: measured",
        fontsize="medium",
    )
    return figure


def temperatures(rows: Sequence[Row], temperatures: Sequence[float], length: float) -> "Figure":
    """Draw the squared bias and the variance of relaxed gradients against the temperature, for each library.

    length: of the exact gradient, the unit of the biases in the rows.
    """
    figure = new_figure(10.0, 4.8)
    panels: tuple[Axes, Axes] = tuple(figure.subplots(1, 2))
    found = {(row.variant, row.library, row.quantity): np.nan if row.value is None else row.value for row in rows}
    libraries = list(dict.fromkeys(row.library for row in rows))
    for (name, colour), shape in zip((("relaxed", COLOURS[0]), ("straight-through", COLOURS[1])), SHAPES, strict=False):
        for library, line in zip(libraries, ("-", "--"), strict=False):
            style: dict[str, Any] = {"color": colour, "marker": shape, "linestyle": line, "markersize": 5.0}
            keys = [(f"{name}, temperature {each:g}, K = 1", library) for each in temperatures]
            biases = [(found[*key, BIAS] * length) ** 2 for key in keys]
            shown = [each if each > 0.0 else np.nan for each in biases]
            panels[0].plot(temperatures, shown, label=f"{name}, {library}", **style)
            panels[1].plot(temperatures, [found[*key, VARIANCE] for key in keys], **style)
    scores = [name for name in dict.fromkeys(row.variant for row in rows) if name.startswith("score")]
    for name, colour in zip(scores, COLOURS[2:], strict=False):
        panels[1].axhline(found[name, libraries[0], VARIANCE], color=colour, linewidth=1.2, label=name)
    for axes, label in zip(panels, ("squared bias", "variance"), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="temperature", ylabel=label)
        axes.set_xticks(temperatures, [f"{each:g}" for each in temperatures])
        axes.minorticks_off()
        _dress(axes)
        axes.legend(frameon=False, fontsize="small")
    figure.suptitle(
        "one-hot categories: gradients of a relaxation, and score functions, which have no bias\n"
        "no mark: a squared bias within the noise of its estimate",
        fontsize="medium",
    )
    return figure


def signal(counts: Sequence[int], found: Mapping[tuple[str, str], Sequence[float]]) -> "Figure":
    """Draw the signal-to-noise ratio against the number of particles. found: by estimator and library."""
    figure = new_figure(7.4, 4.8)
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _ in found))
    for (name, library), ratios in found.items():
        index = names.index(name)
        line = "-" if library == "numpyro" else "--"
        style: dict[str, Any] = {"color": COLOURS[index], "marker": SHAPES[index], "linestyle": line}
        axes.plot(counts, ratios, label=f"{name}, {library}", **style)
    particles = np.array([counts[0], counts[-1]], dtype=float)
    for index, (name, power) in enumerate(zip(names, (-0.5, 0.5), strict=False)):
        last = next(ratios for (other, _), ratios in found.items() if other == name)[-1]
        label = f"slope {power:+.1f}"
        axes.plot(particles, last * (particles / particles[-1]) ** power, ":", color=COLOURS[index], label=label)
    axes.set(xscale="log", yscale="log", xlabel="particles, K", ylabel="|mean| / standard deviation, by the guide")
    _dress(axes)
    axes.legend(frameon=False, fontsize="small")
    figure.suptitle("signal-to-noise ratio of the gradient of L_K, one latent coordinate", fontsize="medium")
    return figure


def evidence(counts: Sequence[int], gaps: "Mapping[str, Gaps]") -> "Figure":
    """Draw how far L_K is below log p(x) against K, with two standard errors, over its exact expectation."""
    figure = new_figure(7.4, 4.8)
    axes = figure.subplots()
    for (name, found), colour, shape in zip(gaps.items(), COLOURS, SHAPES, strict=False):
        axes.plot(counts, found.exact, color=colour, linewidth=1.2)
        errors = 2.0 * np.array(found.error)
        axes.errorbar(counts, found.mean, errors, fmt=shape, color=colour, capsize=3.0, label=name)
    axes.axhline(0.0, color=INK, linewidth=0.8)
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set(xscale="log", xlabel="particles, K", ylabel="L_K - log p(x), nats")
    _dress(axes)
    axes.legend(frameon=False, fontsize="small", loc="lower right")
    figure.suptitle("L_K by proposal: curves are exact expectations, bars two standard errors", fontsize="medium")
    return figure


def _dress(axes: "Axes") -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
