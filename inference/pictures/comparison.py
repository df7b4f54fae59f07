"""The picture of a comparison: where each fit has the posterior of each coordinate, and what each fit cost."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.comparison import Comparison, ComparisonRow, SiteRow, number, with_error
from latentzoo.inference.pictures import INK, new_figure
from latentzoo.inference.relabel import ROUNDING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COORDINATES = 24  # of more, those on which the fits differ most
MOST_HEIGHT = 9.0  # inches of coordinates
# Colours that the colour-blind tell apart (Okabe and Ito, and Tol's wine), and shapes, for those who see none.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
SHAPES = ("o", "s", "D", "^", "v", "P", "X")
FURTHEST = 10.0  # in sds of the reference: what lies further is drawn at the edge
BAR, MARGIN, KEY = 0.56, 1.3, 1.7  # inches: of a fit's bars, of titles and axes, of the key

Look = tuple[str, str]
Place = tuple[str, tuple[int, ...]]


class Interval(NamedTuple):
    """A mean and two standard deviations, in posterior sds of the base, about its mean."""

    centre: float
    reach: float


def draw(of: Comparison) -> "Figure":
    """Return the figure: posteriors to the left, beside the reference's or else the first fit's; seconds to the right.

    Of many coordinates, those are drawn on which the fits lie furthest apart.
    """
    base = _base(of)
    posteriors, total = _posteriors(of, base)
    coordinates = len(next(iter(posteriors.values()), {}))
    each = _height_of_one(len(posteriors))
    bars = BAR * len(of.rows) + MARGIN
    figure = new_figure(12.0, max(each * coordinates + MARGIN, bars + KEY))
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1.25, 1.0), height_ratios=(bars, figure.get_figheight() - bars), wspace=0.06
    )
    left, right, key = (figure.add_subplot(place) for place in (grid[:, 0], grid[0, 1], grid[1, 1]))
    looks = _looks(of, base)
    _draw_posteriors(left, posteriors, looks, base, total)
    _draw_seconds(right, of.rows, looks)
    centres = [abs(each.centre) for places in posteriors.values() for each in places.values()]
    _draw_key(key, of, base, looks, beyond=max(centres, default=0.0) >= FURTHEST)
    figure.suptitle(of.model, fontsize="medium")
    return figure


def _base(of: Comparison) -> str:
    """Return the fit that the others are drawn beside: the reference, else the first, of those with a posterior."""
    spread = {row.name for row in of.sites if row.sd > ROUNDING * abs(row.mean)}
    wanted = [of.reference, *(row.name for row in of.rows)]
    return next((name for name in wanted if name in spread), of.rows[0].name)


def _height_of_one(num_fits: int) -> float:
    """Return the inches that one coordinate needs for so many intervals."""
    return max(0.27, 0.07 * num_fits + 0.08)


def _looks(of: Comparison, base: str) -> dict[str, Look]:
    """Return the colour and the shape of each fit; the base has the ink's."""
    looks: dict[str, Look] = {base: (INK, "|")}
    for index, row in enumerate(row for row in of.rows if row.name != base):
        # Shapes go round later than colours do, so that no two of 49 fits look alike.
        turn = index // len(COLOURS)
        looks[row.name] = COLOURS[index % len(COLOURS)], SHAPES[(index + turn) % len(SHAPES)]
    return looks


# --- to the left ------------------------------------------------------------------------------------------------------


def _posteriors(of: Comparison, base: str) -> tuple[dict[str, dict[Place, Interval]], int]:
    """Return the intervals of each fit by coordinate, the base's among them, and how many coordinates there are."""
    known = {(row.site, row.index): row for row in of.sites if row.name == base and row.sd > ROUNDING * abs(row.mean)}
    found: dict[str, dict[Place, Interval]] = {row.name: {} for row in of.rows}
    for row in of.sites:
        place = (row.site, row.index)
        if place in known and np.isfinite([row.mean, row.sd]).all():
            found[row.name][place] = _interval(row, known[place])
    furthest = {
        place: max(abs(places[place].centre) for places in found.values() if place in places) for place in known
    }
    room = min(MOST_COORDINATES, int(MOST_HEIGHT / _height_of_one(len(of.rows))))
    chosen = set(sorted(known, key=furthest.__getitem__, reverse=True)[:room])
    kept = {name: {place: each for place, each in places.items() if place in chosen} for name, places in found.items()}
    # The base goes first: its places are all there are, in the order of the sites.
    return {base: kept[base], **kept}, len(known)


def _interval(row: SiteRow, base: SiteRow) -> Interval:
    return Interval((row.mean - base.mean) / base.sd, 2.0 * row.sd / base.sd)


def _draw_posteriors(
    axes: "Axes", posteriors: Mapping[str, Mapping[Place, Interval]], looks: Mapping[str, Look], base: str, total: int
) -> None:
    places = list(posteriors[base])
    axes.set_title("Posteriors: mean ± 2 sd" + _part(len(places), total), fontsize="medium")
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not places:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "no latent variable to compare", transform=axes.transAxes, ha="center", color=INK)
        return
    limit = _limit(posteriors)
    axes.axvspan(-2.0, 2.0, color=INK, alpha=0.08, linewidth=0)
    axes.axvline(0.0, color=INK, linewidth=1.0)
    others = [name for name in looks if name != base]
    spread = min(0.34, 0.13 * (len(others) - 1))
    for name, shift in zip(others, np.linspace(-spread, spread, len(others)), strict=True):
        rows = [place for place in places if place in posteriors[name]]
        _draw_intervals(axes, [posteriors[name][place] for place in rows], rows, places, shift, looks[name], limit)
    axes.set_yticks(range(len(places)), [_words(place) for place in places])
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(-limit, limit), ylim=(len(places) - 0.5, -0.5))
    axes.set_xlabel(f"posterior sds of {base}, from its mean")
    axes.locator_params(axis="x", nbins=9, integer=True)
    axes.hlines(np.arange(len(places) - 1) + 0.5, -limit, limit, color=INK, alpha=0.1, linewidth=0.6)


def _part(shown: int, total: int) -> str:
    return "" if shown == total else f"\nthe {shown} of {total} coordinates on which the fits differ most"


def _words(place: Place) -> str:
    site, index = place
    return f"{site}[{', '.join(map(str, index))}]" if index else site


def _limit(posteriors: Mapping[str, Mapping[Place, Interval]]) -> float:
    """Return how far the axis goes: to the ends of all intervals, but no further than `FURTHEST`."""
    ends = [abs(each.centre) + each.reach for places in posteriors.values() for each in places.values()]
    return min(1.08 * max(ends), FURTHEST)


def _draw_intervals(
    axes: "Axes",
    intervals: list[Interval],
    rows: list[Place],
    places: list[Place],
    shift: float,
    look: Look,
    limit: float,
) -> None:
    """Draw the intervals of one fit; a mean beyond the axis is an arrow at its edge."""
    if not rows:
        return
    colour, shape = look
    centre, reach = np.array(intervals).T
    y = np.array([places.index(place) for place in rows]) + shift
    inside = np.abs(centre) < limit
    axes.hlines(
        y, np.clip(centre - reach, -limit, limit), np.clip(centre + reach, -limit, limit), colour, linewidth=1.6
    )
    axes.plot(centre[inside], y[inside], shape, color=colour, markersize=4.5, linestyle="none")
    for side, arrow in ((-1.0, "<"), (1.0, ">")):
        beyond = ~inside & (np.sign(centre) == side)
        edge = np.full(beyond.sum(), side * 0.985 * limit)
        axes.plot(edge, y[beyond], arrow, color=colour, markersize=6, fillstyle="none", linestyle="none")


# --- to the right -----------------------------------------------------------------------------------------------------


def _draw_seconds(axes: "Axes", rows: tuple[ComparisonRow, ...], looks: Mapping[str, Look]) -> None:
    """Draw two bars a fit: what it ran, and lighter what it compiled."""
    axes.set_title("Time", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_yticks(range(len(rows)), [_name_and_bound(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    seconds = [each for row in rows for each in (row.seconds, row.compile_seconds) if each]
    if not seconds:
        axes.set(xticks=[])
        axes.text(0.5, 0.5, "no time was taken", transform=axes.transAxes, ha="center", color=INK)
        return
    low, high = 10.0 ** np.floor(np.log10(min(seconds) / 2.0)), max(seconds)
    # Words stand behind the bars: a third of the axis, whatever it spans, is theirs.
    axes.set(xscale="log", xlabel="seconds", xlim=(low, low * (high / low) ** 1.55))
    powers = np.arange(round(np.log10(low)), np.ceil(np.log10(high)) + 1.0)
    powers = powers[:: -(-len(powers) // 7)]
    axes.set_xticks(10.0**powers, [f"{10.0**power:,g}" for power in powers])
    axes.minorticks_off()
    for y, row in enumerate(rows):
        colour, _ = looks[row.name]
        spans = ((row.seconds, 1.0, ""), (row.compile_seconds, 0.35, " compiling"))
        bars = [(value, alpha, words) for value, alpha, words in spans if value]
        for (value, alpha, words), shift in zip(bars, (-0.17, 0.17) if len(bars) == 2 else (0.0,), strict=False):
            axes.barh(y + shift, value, left=0.0, height=0.3, color=colour, alpha=alpha, linewidth=0)
            axes.annotate(
                _duration(value) + words,
                (value, y + shift),
                xytext=(4.0, 0.0),
                textcoords="offset points",
                va="center",
                fontsize="small",
                color=INK,
            )


def _name_and_bound(row: ComparisonRow) -> str:
    bound = "no ELBO" if row.elbo is None else f"ELBO {with_error(row.elbo, row.elbo_error)}"
    return f"{row.name}\n{bound}"


def _duration(seconds: float) -> str:
    if seconds < 1.0:
        return f"{number(1e3 * seconds, 2 if seconds < 0.0995 else 3)} ms"
    return f"{seconds:.3g} s" if seconds < 120.0 else f"{number(seconds / 60.0)} min"


def _draw_key(axes: "Axes", of: Comparison, base: str, looks: Mapping[str, Look], beyond: bool) -> None:
    """Say what each colour and mark means."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    axes.set_axis_off()
    kind = "the reference" if of.reference else "the first fit"
    keys: list[Any] = [Patch(facecolor=INK, alpha=0.2, label=f"{base}, {kind}: mean ± 2 sd")]
    for name, (colour, shape) in looks.items():
        if name != base:
            keys.append(Line2D([], [], color=colour, marker=shape, markersize=4.5, linewidth=1.6, label=name))
    if beyond:
        arrow: dict[str, Any] = {"marker": ">", "fillstyle": "none", "linestyle": "none"}
        keys.append(Line2D([], [], color=INK, label="a mean beyond the axis", **arrow))
    style: dict[str, Any] = {"frameon": False, "fontsize": "small", "loc": "upper left", "borderaxespad": 0.0}
    axes.legend(handles=keys, ncols=1 if len(keys) <= 5 else 2, **style)
