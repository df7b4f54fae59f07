"""The rows of a fitted Gaussian mixture by their most probable component, and the ellipses of the components."""

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.closed_form.gaussian_mixture import expected
from latentzoo.inference.pictures import INK, certainty, look, name_of, new_figure, worth_of
from latentzoo.inference.precision import FORMS
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import draw_rows
from latentzoo.models.readers.table import names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 5000  # more of them hide one another
MOST_FEATURES = 4  # whose pairs are drawn
RADII = (1.0, 2.0)  # of the ellipses, in standard deviations
CIRCLE = np.stack([f(np.linspace(0.0, 2.0 * np.pi, 90)) for f in (np.cos, np.sin)])


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return the picture of the components; a fit by a guide of one's own or a sampler has none."""
    if fit.chains is not None or fit.guide is not None:
        return {}
    data = None if fit.data is None else draw_rows(fit.data, MOST_ROWS, np.random.default_rng(0))
    weights, loc, covariance = components(fit)
    size = loc.shape[1]
    figure = _figure(size)
    if size == 1:
        _draw_line(figure.subplots(), fit, data, weights, loc, covariance)
    else:
        pairs = list(combinations(range(min(size, MOST_FEATURES)), 2))
        columns = min(len(pairs), 3)
        grid = np.atleast_1d(figure.subplots(-(-len(pairs) // columns), columns, squeeze=False)).ravel()
        for axes, (first, second) in zip(grid, pairs, strict=True):
            _draw_pair(axes, fit, data, loc, covariance, first, second)
    shown = "" if size <= MOST_FEATURES else f", the first {MOST_FEATURES} of {size} features"
    title = f"{len(weights)} components by {name_of(fit)}, {worth_of(fit)}{shown}"
    figure.suptitle(title + _sampled(fit), fontsize="medium")
    _legend(figure, weights, size)
    return {"components": figure}


def components(fit: Fit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights, the centres and the covariance matrices, (K, D, D): those of the expected precisions."""
    spec = fit.entry.spec
    form, point = FORMS[spec.covariance_type], expected(fit.params, spec)
    (num, size), variance = point.loc.shape, form.inverse(point.precision)
    if spec.is_matrix:
        covariance = np.broadcast_to(variance, (num, size, size))
    else:
        each = variance[:, None] if spec.covariance_type == "spherical" else variance
        covariance = np.broadcast_to(each, (num, size))[:, None, :] * np.eye(size)
    weights = np.exp(point.log_weights)
    return weights / weights.sum(), point.loc, covariance


def _figure(size: int) -> "Figure":
    pairs = max(1, min(size, MOST_FEATURES) * (min(size, MOST_FEATURES) - 1) // 2)
    columns = min(pairs, 3)
    return new_figure({1: 8.5, 2: 10.0, 3: 12.0}[columns], 0.6 + 4.4 * -(-pairs // columns))


def _sampled(fit: Fit) -> str:
    if fit.data is None or len(fit.data.x) <= MOST_ROWS:
        return ""
    return f"\n{MOST_ROWS:,} of the {len(fit.data.x):,} rows are drawn, at random"


def _draw_pair(
    axes: "Axes", fit: Fit, data: Any, loc: np.ndarray, covariance: np.ndarray, first: int, second: int
) -> None:
    """Draw two features: the rows, and of each component the ellipses and the number at its centre."""
    from matplotlib.patheffects import withStroke

    plane = [first, second]
    if data is not None:
        _draw_rows(axes, fit, data, first, second)
        # What an ellipse covers where there are no rows shall not make the rows small.
        low, high = data.x[:, plane].min(0), data.x[:, plane].max(0)
        margin = 0.15 * (high - low)
        axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    for index, (centre, matrix) in enumerate(zip(loc, covariance, strict=True)):
        outline = np.linalg.cholesky(matrix[np.ix_(plane, plane)]) @ CIRCLE
        for radius in RADII:
            x, y = centre[plane, None] + radius * outline
            axes.plot(x, y, color=look(index)[0], linewidth=1.8 if radius == RADII[-1] else 1.0)
        halo = [withStroke(linewidth=3.0, foreground="white")]
        place: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "weight": "bold",
            "color": INK,
            "clip_on": True,
            "zorder": 6,
        }
        axes.text(centre[first], centre[second], str(index), path_effects=halo, **place)
    names = names_of(fit.like, loc.shape[1])
    axes.set(xlabel=names[first], ylabel=names[second])
    axes.grid(alpha=0.2)


def _draw_rows(axes: "Axes", fit: Fit, data: Any, first: int, second: int) -> None:
    resp = fit.predict(data)["responsibilities"]
    chosen, sure = resp.argmax(1), certainty(resp)
    area = 26.0 * min(1.0, (500.0 / len(resp)) ** 0.5)
    for index in np.unique(chosen):
        mine = chosen == index
        colour, shape = look(index)
        style: dict[str, Any] = {"c": colour, "marker": shape, "linewidths": 0, "zorder": 2}
        axes.scatter(data.x[mine, first], data.x[mine, second], s=area, alpha=0.15 + 0.6 * sure[mine], **style)


def _draw_line(axes: "Axes", fit: Fit, data: Any, weights: np.ndarray, loc: np.ndarray, covariance: np.ndarray) -> None:
    """Draw one feature: the histogram of the rows, the density of each component and their sum."""
    from scipy.stats import norm

    scale = np.sqrt(covariance[:, 0, 0])
    low, high = (loc[:, 0] - 4.0 * scale).min(), (loc[:, 0] + 4.0 * scale).max()
    if data is not None:
        axes.hist(data.x[:, 0], bins="auto", density=True, color="#cccccc")
        low, high = data.x.min() - 0.1 * np.ptp(data.x), data.x.max() + 0.1 * np.ptp(data.x)
    x = np.linspace(low, high, 600)
    parts = weights * norm(loc[:, 0], scale).pdf(x[:, None])
    for index, part in enumerate(parts.T):
        axes.plot(x, part, color=look(index)[0], linewidth=1.8)
    axes.plot(x, parts.sum(1), color=INK, linewidth=1.2, linestyle="--")
    axes.set(xlabel=names_of(fit.like, 1)[0], ylabel="density", xlim=(low, high))


def _legend(figure: "Figure", weights: np.ndarray, size: int) -> None:
    """Say beside the picture what each number and mark means."""
    from matplotlib.lines import Line2D

    def key(label: str, marker: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, linestyle="none", marker=marker, markersize=6, **style)

    keys = [key(f"{k}   {100.0 * w:.3g} %", look(k)[1], color=look(k)[0]) for k, w in enumerate(weights)]
    if size > 1:
        keys.append(Line2D([], [], label="1 and 2 standard deviations", color=INK))
        keys.append(key("faint: it may belong to another", "o", color=INK, alpha=0.25, markeredgewidth=0))
    else:
        keys.append(Line2D([], [], label="all together", color=INK, linestyle="--"))
    style: dict[str, Any] = {"frameon": False, "fontsize": "small", "title_fontsize": "small", "alignment": "left"}
    figure.legend(handles=keys, loc="outside right upper", title="weight", **style)
