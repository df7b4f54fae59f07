"""Where the rows lie along the directions of the most variance, and what part of the variance each explains."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.closed_form.probabilistic_pca import visit
from latentzoo.inference.pictures import ACCENT, INK, name_of, new_figure, worth_of
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import Params, draw_rows
from latentzoo.models.probabilistic_pca import Directions, directions
from latentzoo.models.readers.table import names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 5000  # more of them hide one another
MOST_ELLIPSES = 300
MOST_ARROWS = 6
MOST_BARS = 16


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return the picture of rows and variance; of a fit that was loaded without its data, the variance alone."""
    found = directions(fit.params.theta)
    title = f"probabilistic PCA by {name_of(fit)}, {worth_of(fit)}"
    if fit.data is None:
        figure = new_figure(6.0, 4.5)
        bars = figure.subplots()
    else:
        figure = new_figure(11.0, 5.2)
        rows, bars = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.5, 1.0]})
        title += _draw_rows(rows, fit, found)
        rows.spines[["top", "right"]].set_visible(False)
    _draw_variance(bars, found, float(np.exp(fit.params.theta.noise_log_scale)))
    figure.suptitle(title, fontsize="medium")
    return {"latent": figure}


# --- the rows -------------------------------------------------------------------------------------------------------


def _draw_rows(axes: "Axes", fit: Fit, found: Directions) -> str:
    """Draw the posterior of each row along the first two directions, or the first; return a line on what is drawn."""
    total, data = len(fit.data.x), draw_rows(fit.data, MOST_ROWS, np.random.default_rng(0))
    mean, covariance = posterior(fit, data, found)
    if mean.shape[1] == 1:
        _draw_line(axes, mean[:, 0], np.sqrt(covariance[:, 0, 0]))
    else:
        _draw_plane(axes, mean, covariance, ~np.isnan(np.asarray(data.x)).any(1))
        _draw_features(axes, fit, found, mean)
        axes.set_ylabel(_label(found, 1))
        axes.legend(frameon=False, fontsize="small", loc="best")
    axes.set_xlabel(_label(found, 0))
    return "" if total <= MOST_ROWS else f"\n{MOST_ROWS:,} of the {total:,} rows are drawn, at random"


def posterior(fit: Fit, data: Any, found: Directions) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the covariance of each row's latent coordinates along the first two directions."""
    turn = found.rotation[:, :2]
    means, covariances = [], []
    for _, rows in visit(Params(fit.params.theta), data):
        means.append(rows.mean @ turn)
        covariances.append((turn.T @ rows.covariance @ turn)[rows.group])
    return np.concatenate(means), np.concatenate(covariances)


def _label(found: Directions, index: int) -> str:
    return f"latent coordinate {index}: {found.shares[index]:.1%} of the variance"


def _draw_plane(axes: "Axes", mean: np.ndarray, covariance: np.ndarray, whole: np.ndarray) -> None:
    """Draw rows as points, those with missing cells hollow, each in an ellipse of one sd where they are few."""
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba

    size = 24.0 * min(1.0, (300.0 / len(mean)) ** 0.5)
    if len(mean) <= MOST_ELLIPSES:
        values, vectors = np.linalg.eigh(covariance)
        wide, high = 2.0 * np.sqrt(values.T)
        angle = np.degrees(np.arctan2(vectors[:, 1, 0], vectors[:, 0, 0]))
        style: dict[str, Any] = {"facecolors": to_rgba(INK, 0.05), "edgecolors": to_rgba(INK, 0.2), "linewidths": 0.5}
        style |= {"offsets": mean, "offset_transform": axes.transData}
        axes.add_collection(EllipseCollection(wide, high, angle, units="xy", **style))
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        axes.update_datalim(np.concatenate([mean - sd, mean + sd]))
        key: dict[str, Any] = {"markerfacecolor": to_rgba(INK, 0.05), "markeredgecolor": to_rgba(INK, 0.2)}
        axes.plot([], [], "o", markersize=9, label="one sd of its posterior", **key)
    if whole.any():
        axes.scatter(mean[whole, 0], mean[whole, 1], s=size, c=INK, alpha=0.75, linewidths=0, zorder=3, label="a row")
    if not whole.all():
        hollow: dict[str, Any] = {"facecolors": "white", "edgecolors": INK, "linewidths": 0.8, "alpha": 0.9}
        axes.scatter(mean[~whole, 0], mean[~whole, 1], s=size, zorder=2, label="a row with missing cells", **hollow)
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.2)


def _draw_features(axes: "Axes", fit: Fit, found: Directions, mean: np.ndarray) -> None:
    """Draw the features that vary most as arrows: where each grows, by how much, up to a factor for all."""
    from matplotlib.patheffects import withStroke

    tips, names = fit.params.theta.weight @ found.rotation[:, :2], names_of(fit.like, len(found.directions))
    length = np.hypot(*tips.T)
    tips *= 0.75 * np.abs(mean).max() / length.max()
    drawn = np.argsort(-length)[: min(MOST_ARROWS, np.count_nonzero(length))]
    arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": ACCENT, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    words: dict[str, Any] = {"va": "center", "color": ACCENT, "fontsize": "small", "zorder": 5}
    words["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
    for index, (right, up) in zip(drawn, _sides(tips[drawn]), strict=True):
        axes.annotate("", tips[index], (0.0, 0.0), arrowprops=arrow, zorder=4)
        side = "center" if abs(right) < 0.5 else "left" if right > 0.0 else "right"
        axes.annotate(names[index], tips[index], (8.0 * right, 9.0 * up), textcoords="offset points", ha=side, **words)


def _sides(tips: np.ndarray) -> np.ndarray:
    """Return for each arrow the direction across it that leads away from the next one: there its name has room."""
    unit = tips / np.hypot(*tips.T)[:, None]
    likeness = unit @ unit.T - 3.0 * np.eye(len(unit))
    nearest = unit[likeness.argmax(1)]
    turn = nearest[:, 0] * unit[:, 1] - nearest[:, 1] * unit[:, 0]
    return np.where(turn >= 0.0, 1.0, -1.0)[:, None] * np.stack([-unit[:, 1], unit[:, 0]], axis=1)


def _draw_line(axes: "Axes", mean: np.ndarray, sd: np.ndarray) -> None:
    """Draw the histogram of one coordinate beside the standard normal density that the model has it from."""
    axes.hist(mean, bins="auto", density=True, color=INK, alpha=0.3, label="posterior means of the rows")
    line = np.linspace(min(-3.5, mean.min()), max(3.5, mean.max()), 300)
    density = np.exp(-0.5 * line**2) / np.sqrt(2.0 * np.pi)
    axes.plot(line, density, color=ACCENT, linewidth=1.2, label="Normal(0, 1), the prior")
    axes.set_ylabel("density")
    axes.set_title(f"the posterior of a row has sd {np.median(sd):.2g} (median)", fontsize="small")
    axes.legend(frameon=False, fontsize="small")


# --- the variance ---------------------------------------------------------------------------------------------------


def _draw_variance(axes: "Axes", found: Directions, noise: float) -> None:
    """Draw what part of the variance lies along each direction, those of noise alone pale."""
    num_latents, num_features = len(found.variance), len(found.directions)
    rest = (1.0 - found.shares.sum()) / (num_features - num_latents)
    parts = 100.0 * np.concatenate([found.shares, np.full(num_features - num_latents, rest)])[:MOST_BARS]
    places = np.arange(len(parts))
    explained = places < num_latents
    axes.bar(places[explained], parts[explained], color=INK, alpha=0.85, width=0.7, label="explained")
    label = f"noise, sd {noise:.3g}: {100.0 * rest:.2g} % each"
    axes.bar(places[~explained], parts[~explained], color=ACCENT, alpha=0.55, width=0.7, label=label)
    axes.axhline(100.0 * rest, color=ACCENT, linewidth=0.9, linestyle=":")
    above: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": "small"}
    for place, part in zip(places[explained], parts[explained], strict=True):
        axes.annotate(f"{part:.3g}", (place, part), (0.0, 3.0), **above)
    dropped = num_features - len(parts)
    more = f"; {dropped} more are not drawn" if dropped else ""
    axes.set(xlabel=f"direction{more}", ylabel="% of the variance", xticks=places)
    axes.set_title(f"{found.shares.sum():.1%} along {num_latents} of {num_features} directions", fontsize="small")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
