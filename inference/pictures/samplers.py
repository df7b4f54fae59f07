"""The picture of the samplers: where noise goes, what draws look like, and how a temperature rounds categories."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference import samplers
from latentzoo.inference.pictures import ACCENT, COLOURS, INK, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUM_DRAWS = 20_000
NUM_CORNERS = 1_500  # relaxed draws in each triangle: more of them hide one another
PROBS = np.array([0.5, 0.3, 0.2])
TEMPERATURES = (5.0, 1.0, 0.5, 0.1)
HEIGHT = np.sqrt(0.75)  # of a triangle with sides of length 1


class Shown(NamedTuple):
    """A sampler of one number, its density (by SciPy, or by the derivative of the curve), and the window."""

    title: str
    sampler: Callable[[np.ndarray], np.ndarray]
    density: Callable[[np.ndarray], np.ndarray]
    window: tuple[float, float]


def figure(seed: int = 0) -> "Figure":
    """Return the figure: a column for each sampler of one number, and below them the relaxed categories."""
    rng = np.random.default_rng(seed)
    whole = new_figure(13.0, 9.4)
    above, below = whole.subfigures(2, 1, squeeze=False, height_ratios=(1.75, 1.0))[:, 0]
    found = shown()
    panels = above.subplots(2, len(found))
    for (curve, histogram), each in zip(panels.T, found, strict=True):
        _curve(curve, each)
        _histogram(histogram, each, rng.random(NUM_DRAWS))
    panels[0, 0].set_ylabel("draw")
    panels[1, 0].set_ylabel("density")
    above.suptitle(f"noise to draw, and the histogram of {NUM_DRAWS:,} draws with its density", fontsize="medium")
    noise = rng.random((NUM_CORNERS, len(PROBS)))  # the same in every triangle: each draw moves to its corner
    for axes, temperature in zip(below.subplots(1, len(TEMPERATURES)), TEMPERATURES, strict=True):
        _triangle(axes, noise, temperature)
    probs = ", ".join(f"{each:g}" for each in PROBS)
    title = f"Gumbel-softmax of the probabilities {probs}: one colour for each category, that of Gumbel-max"
    below.suptitle(f"{title}; the same noise at every temperature", fontsize="medium")
    return whole


def shown() -> list[Shown]:
    """Return the samplers of one number at the parameters that are drawn."""
    from scipy import stats

    return [
        Shown(
            "Exponential, rate 1.5",
            lambda u: samplers.exponential(u, 1.5),
            stats.expon(scale=1.0 / 1.5).pdf,
            (0.0, 4.0),
        ),
        Shown("Gumbel", samplers.gumbel, stats.gumbel_r.pdf, (-2.5, 7.0)),
        Shown(
            "Kumaraswamy, a = 2, b = 5",
            lambda u: samplers.kumaraswamy(u, 2.0, 5.0),
            lambda x: 2.0 * x * stats.beta(1.0, 5.0).pdf(x**2),
            (0.0, 1.0),
        ),
        Shown(
            "Normal, -0.5 < z < 2",
            lambda u: samplers.truncated_normal(u, 0.0, 1.0, -0.5, 2.0),
            stats.truncnorm(-0.5, 2.0).pdf,
            (-0.5, 2.0),
        ),
        Shown(
            "Normal, z > 6",
            lambda u: samplers.truncated_normal(u, 0.0, 1.0, 6.0, np.inf),
            stats.truncnorm(6.0, np.inf).pdf,
            (6.0, 7.0),
        ),
    ]


def _curve(axes: "Axes", each: Shown) -> None:
    """Draw the draw against the noise, with arrows for even steps of noise."""
    u = np.linspace(0.0, 1.0, 2001)
    axes.plot(u, each.sampler(u), color=INK, linewidth=1.8)
    steps = np.linspace(0.1, 0.9, 9)
    draws = each.sampler(steps)
    style: dict[str, Any] = {"color": ACCENT, "linewidth": 0.7, "alpha": 0.7}
    axes.vlines(steps, each.window[0], draws, **style)
    axes.hlines(draws, 0.0, steps, **style)
    axes.set(xlim=(0.0, 1.0), ylim=each.window, xlabel="noise, uniform", title=each.title)
    axes.title.set_fontsize("medium")
    axes.spines[["top", "right"]].set_visible(False)


def _histogram(axes: "Axes", each: Shown, noise: np.ndarray) -> None:
    bins = np.linspace(*each.window, 61)
    draws = each.sampler(noise)
    heights = np.histogram(draws, bins)[0] / (len(draws) * np.diff(bins))
    axes.stairs(heights, bins, fill=True, color=COLOURS[3], alpha=0.8)
    x = np.linspace(*each.window, 2001)[1:-1]
    axes.plot(x, each.density(x), color=INK, linewidth=1.5)
    axes.set(xlim=each.window, xlabel="draw")
    axes.set_ylim(bottom=0.0)
    axes.spines[["top", "right"]].set_visible(False)


def _triangle(axes: "Axes", noise: np.ndarray, temperature: float) -> None:
    """Draw relaxed categories as points of a triangle, a corner for each category."""
    logits = np.log(PROBS)
    draws, categories = samplers.gumbel_softmax(noise, logits, temperature), samplers.gumbel_max(noise, logits)
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, HEIGHT]])
    x, y = (draws @ corners).T
    axes.fill(*corners.T, facecolor="none", edgecolor=INK, linewidth=0.8)
    for category, colour in enumerate((COLOURS[1], COLOURS[0], COLOURS[5])):
        drawn = categories == category
        axes.plot(x[drawn], y[drawn], "o", color=colour, markersize=3.0, alpha=0.35, markeredgewidth=0.0)
    offsets = ((-0.04, -0.05), (1.04, -0.05), (0.5, HEIGHT + 0.06))
    for prob, (left, bottom) in zip(PROBS, offsets, strict=True):
        axes.text(left, bottom, f"{prob:g}", ha="center", va="center", color=INK)
    axes.set(xlim=(-0.12, 1.12), ylim=(-0.12, HEIGHT + 0.14), title=f"temperature {temperature:g}")
    axes.title.set_fontsize("medium")
    axes.set_aspect("equal")
    axes.axis("off")
