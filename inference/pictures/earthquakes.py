"""The map of a fitted catalogue: its events by their most probable super-epicentre, and where those are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from latentzoo.inference.pictures import INK, certainty, look, name_of, new_figure, worth_of
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import draw_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_EVENTS = 5000  # more of them hide one another
NUM_DRAWS = 2000  # of a guide without a closed form: they give the ends of intervals to 0.06 sd
NINETY_FIVE = float(np.sqrt(-2.0 * np.log(0.05)))  # the radius that holds 95 % of a standard normal in the plane


class Centre(NamedTuple):
    """What is drawn of one super-epicentre: lengths in the units of the coordinates, share as a part of one.

    place, radius: the mean of the centre, and the disc about it that holds the centre with 95 %.
    noise: the sd of events around the centre.
    rate, rate_low, rate_high: the mean, and the central interval of 95 %.
    """

    place: np.ndarray
    radius: float
    noise: float
    rate: float
    rate_low: float
    rate_high: float
    share: float | None


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return the map; of a fit that was loaded without its data, the centres alone."""
    found = centres(fit)
    places = np.array([centre.place for centre in found]) if fit.data is None else np.asarray(fit.data.location)
    degrees = look_like_degrees(places)
    stretch = 1.0 / max(np.cos(np.deg2rad(places[:, 1].mean())), 0.1) if degrees else 1.0
    window = _window(places, found)
    height = float(np.clip(6.0 * stretch * window[1].ptp / window[0].ptp, 3.0, 7.5))
    figure = new_figure(11.0, max(height, 0.2 * len(found) + 1.6) + 0.9)
    axes = figure.subplots()
    axes.set(xlim=window[0], ylim=window[1])
    axes.set_aspect(stretch, adjustable="box", anchor="N")
    axes.set(
        xlabel="longitude (degrees)" if degrees else "x (km)", ylabel="latitude (degrees)" if degrees else "y (km)"
    )
    axes.grid(alpha=0.2)
    note = "" if fit.data is None else _draw_events(axes, fit)
    for index, (centre, side) in enumerate(zip(found, _sides(found), strict=True)):
        _draw_centre(axes, index, centre, side)
    axes.set_title(f"{len(found)} super-epicentres by {name_of(fit)}, {worth_of(fit)}{note}", fontsize="medium")
    _legend(axes, fit, found)
    return {"map": figure}


# --- what is drawn --------------------------------------------------------------------------------------------------


def centres(fit: Fit) -> list[Centre]:
    """Return the super-epicentres as the posterior has them: exactly of the model's own guide, else by draws."""
    own = fit.chains is None and fit.guide is None
    columns = [*(_in_closed_form(fit) if own else _by_draws(fit))]
    shares = [None] * len(columns[0]) if fit.data is None else _shares(fit, own)
    return [Centre(*row) for row in zip(*columns, shares, strict=True)]


def _in_closed_form(fit: Fit) -> Iterable[np.ndarray]:
    """Return the columns of `Centre`, all but the share."""
    from scipy.stats import gamma

    phi = fit.params.phi
    shape, scale = np.exp(phi.rate_log_shape), np.exp(-phi.rate_log_rate)
    low, high = gamma.ppf(np.array([[0.025], [0.975]]), shape, scale=scale)
    # 1 / E[precision] exists for every shape, which the mean of an inverse Gamma does not.
    variance = (
        fit.prior.noise_variance if phi.noise_log_shape is None else np.exp(phi.noise_log_rate - phi.noise_log_shape)
    )
    noise = np.broadcast_to(np.sqrt(variance), shape.shape)
    return phi.loc_mean, NINETY_FIVE * np.exp(phi.loc_log_scale), noise, shape * scale, low, high


def _by_draws(fit: Fit) -> Iterable[np.ndarray]:
    """Return the columns of `Centre`, all but the share."""
    draws = fit.posterior(NUM_DRAWS if fit.chains is None else fit.chains.stats["diverging"].size)
    loc, rate = draws["loc"], draws["rate"]
    place = loc.mean(0)
    radius = np.quantile(np.hypot(*np.moveaxis(loc - place, -1, 0)), 0.95, axis=0)
    precision = 1.0 / draws.get("noise_variance", np.full(1, fit.prior.noise_variance))
    noise = np.broadcast_to(precision.mean(0) ** -0.5, radius.shape)
    return place, radius, noise, rate.mean(0), *np.quantile(rate, [0.025, 0.975], axis=0)


def _shares(fit: Fit, own: bool) -> np.ndarray:
    """Return the part of the events that each centre has."""
    if own:
        counts = fit.entry.closed_form.e_step(fit.params, fit.data, fit.prior, fit.entry.spec).count
        return counts / counts.sum()
    return fit.predict()["responsibilities"].mean(0)


def look_like_degrees(places: np.ndarray) -> bool:
    """Return whether coordinates look like longitudes and latitudes rather than km about the centre of a catalogue."""
    if (np.abs(places) > [360.0, 90.0]).any():
        return False
    return bool((np.abs(places.mean(0)) > 0.05 * places.std(0)).any())


class _Range(NamedTuple):
    low: float
    high: float

    @property
    def ptp(self) -> float:
        return self.high - self.low


def _window(places: np.ndarray, found: list[Centre]) -> tuple[_Range, _Range]:
    """Return what the map shows: the events, and the circles about them as far as those are not far wider."""
    low, high = places.min(0), places.max(0)
    most = 0.4 * float((high - low).max()) or 1.0
    for centre in found:
        if centre.share is None or centre.share > 1e-3:
            low = np.minimum(low, np.maximum(centre.place - 2.0 * centre.noise, places.min(0) - most))
            high = np.maximum(high, np.minimum(centre.place + 2.0 * centre.noise, places.max(0) + most))
    margin = 0.03 * float((high - low).max()) or 1.0
    return _Range(low[0] - margin, high[0] + margin), _Range(low[1] - margin, high[1] + margin)


def _sides(found: list[Centre]) -> np.ndarray:
    """Return for each centre the direction away from its nearest neighbour: there its number has room."""
    places = np.array([centre.place for centre in found])
    away = places[:, None] - places
    distance = np.hypot(*away.T).T + np.diag(np.full(len(found), np.inf))
    away = away[np.arange(len(found)), distance.argmin(1)]
    length = np.hypot(*away.T)
    return np.where(length[:, None] > 0.0, away / np.maximum(length, 1e-300)[:, None], [0.7, 0.7])


# --- drawing --------------------------------------------------------------------------------------------------------


def _draw_events(axes: "Axes", fit: Fit) -> str:
    """Draw the events, or a sample of so many of them; return a line that says so."""
    total, data = len(fit.data.location), draw_rows(fit.data, MOST_EVENTS, np.random.default_rng(0))
    resp = fit.predict(data)["responsibilities"]
    chosen, sure = resp.argmax(1), certainty(resp)
    area = _areas(data.strength, _full_size(fit)) * min(1.0, (1000.0 / len(resp)) ** 0.5)
    for index in np.unique(chosen):
        mine = chosen == index
        colour, shape = look(index)
        axes.scatter(
            data.location[mine, 0],
            data.location[mine, 1],
            s=area[mine],
            c=colour,
            marker=shape,
            alpha=0.1 + 0.65 * sure[mine],
            linewidths=0,
            zorder=2,
        )
    return "" if total <= MOST_EVENTS else f"\n{MOST_EVENTS:,} of the {total:,} events are drawn, at random"


def _full_size(fit: Fit) -> float:
    """Return the count that is drawn at full size; a few giants must not make the rest vanish."""
    return max(float(np.quantile(fit.data.strength, 0.98)), 1.0)


def _areas(counts: np.ndarray, full: float) -> np.ndarray:
    return 6.0 + 54.0 * np.minimum(np.asarray(counts) / full, 1.0)


def _draw_centre(axes: "Axes", index: int, centre: Centre, side: np.ndarray) -> None:
    """Draw the circle of 2 sd of the events, the 95 % region of the centre, its cross and its number."""
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    place, (colour, _) = (float(centre.place[0]), float(centre.place[1])), look(index)
    halo: dict[str, Any] = {"color": INK, "path_effects": [withStroke(linewidth=3.0, foreground="white")]}
    axes.add_patch(Circle(place, 2.0 * centre.noise, fill=False, color=colour, linewidth=1.8, zorder=3))
    axes.add_patch(Circle(place, centre.radius, color=INK, alpha=0.35, linewidth=0, zorder=4))
    axes.plot(*place, "+", markersize=9, markeredgewidth=1.6, zorder=5, **halo)
    beside: dict[str, Any] = {"xytext": tuple(11.0 * side), "textcoords": "offset points", "annotation_clip": True}
    axes.annotate(str(index), place, weight="bold", ha="center", va="center", zorder=6, **beside, **halo)


def _legend(axes: "Axes", fit: Fit, found: list[Centre]) -> None:
    """Say beside the map what each number, mark and size means."""
    from matplotlib.lines import Line2D

    def key(label: str, marker: str, size: float, **style: Any) -> Line2D:
        return Line2D([], [], label=label, linestyle="none", marker=marker, markersize=size, **{"color": INK, **style})

    keys = [key(_words(index, c), look(index)[1], 6, color=look(index)[0]) for index, c in enumerate(found)]
    keys.append(key("a centre, and the disc that holds it with 95 %", "+", 9, markeredgewidth=1.6))
    keys.append(key("2 sd around a centre: 86 % of its events", "o", 11, fillstyle="none"))
    if fit.data is not None:
        keys.append(key("faint: it may belong to another centre", "o", 6, alpha=0.25, markeredgewidth=0))
        full = _full_size(fit)
        counts = sorted({max(1, round(part * full)) for part in (0.1, 0.5, 1.0)})
        for count in counts:
            diameter, more = float(np.sqrt(_areas(np.array(count), full))), " or more" if count == counts[-1] else ""
            keys.append(key(f"a count of {count}{more}", "o", diameter, markeredgewidth=0))
    title = "rate: mean (95 % interval)" + ("" if fit.data is None else ", share of the events")
    style: dict[str, Any] = {"frameon": False, "fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1.02), title=title, **style)


def _words(index: int, centre: Centre) -> str:
    rate = f"{index}   {centre.rate:.3g} ({centre.rate_low:.3g} to {centre.rate_high:.3g})"
    return rate if centre.share is None else f"{rate}, {100.0 * centre.share:.2g} %"
