"""Rows of features as they are looked at: square images in a grid, or the rows of a map."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.inference.pictures import COLOURS, new_figure
from latentzoo.inference.result import Fit
from latentzoo.models.readers.table import names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_SIDE = 5  # of an image: nine or sixteen columns of a table are none
MOST_PIXELS = 64  # along a side of an image: of larger ones, pixels are left out
MOST_NAMES = 24  # of features that are written


class Panel(NamedTuple):
    """Rows that stand together. names: of the lines of the grid, from the top."""

    title: str
    x: Float[np.ndarray, "rows features"]
    names: tuple[str, ...] = ()


def side_of(num_features: int) -> int:
    """Return the side of the square images that rows of so many features are taken for; 0 where they are none."""
    side = math.isqrt(num_features)
    return side if side >= LEAST_SIDE and side**2 == num_features else 0


class Panels(NamedTuple):
    """How the values of features are shown.

    names: of the features. low, high: the values of the lightest and the darkest grey of an image. centre, spread: what
    features are measured from, and in, where they are the columns of a map.
    """

    feature_names: tuple[str, ...]
    low: float
    high: float
    centre: Float[np.ndarray, "features"]
    spread: Float[np.ndarray, "features"]

    @classmethod
    def of(cls, fit: Fit, rows: Any) -> "Panels":
        """Return how to show the features of a fit, by the rows that are at hand."""
        size = fit.params.theta.decoder["out"].bias.shape[-1]
        x = np.zeros((1, size)) if rows is None else np.asarray(rows.x, dtype=np.float64)
        if fit.entry.spec.likelihood == "bernoulli":
            return cls(cls.names(fit), 0.0, 1.0, np.zeros(size), np.ones(size))
        low, high = (float(value) for value in np.percentile(x, [1.0, 99.0]))
        spread = x.std(0)
        return cls(cls.names(fit), low, high if high > low else low + 1.0, x.mean(0), np.where(spread > 0, spread, 1.0))

    @staticmethod
    def names(fit: Fit) -> tuple[str, ...]:
        """Return the names of the features."""
        return tuple(names_of(fit.like, fit.params.theta.decoder["out"].bias.shape[-1]))

    def draw(self, panels: list[Panel], columns: int, title: str) -> "Figure":
        """Draw panels of images below one another, so many in a line; or maps beside one another."""
        side = side_of(panels[0].x.shape[1])
        figure = self._images(panels, columns, side) if side else self._maps(panels, columns)
        figure.suptitle(title, fontsize="medium")
        return figure

    def _images(self, panels: list[Panel], columns: int, side: int) -> "Figure":
        lines = [math.ceil(len(panel.x) / columns) for panel in panels]
        inch = min(0.65, 10.0 / columns)
        figure = new_figure(max(6.5, inch * columns + 0.5), inch * sum(lines) + 0.4 * len(panels) + 0.6)
        grid = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": lines}).ravel()
        for axes, panel in zip(grid, panels, strict=True):
            canvas, pitch = mosaic(panel.x, side, columns)
            axes.imshow(canvas, cmap="Greys", vmin=self.low, vmax=self.high, interpolation="nearest")
            axes.set_title(panel.title, fontsize="small", loc="left")
            _name_lines(axes, panel, pitch)
            axes.set_xticks([])
            axes.spines[:].set_visible(False)
        return figure

    def _maps(self, panels: list[Panel], columns: int) -> "Figure":
        size = panels[0].x.shape[1]
        figure = new_figure(max(7.0, 3.8 * len(panels)), 5.6)
        grid = figure.subplots(1, len(panels), squeeze=False).ravel()
        measured = self.spread.min() != 1.0 or self.spread.max() != 1.0 or bool(self.centre.any())
        style: dict[str, Any] = {"cmap": "PuOr", "vmin": -3.0, "vmax": 3.0}
        style = style if measured else {"cmap": "Greys", "vmin": self.low, "vmax": self.high}
        for axes, panel in zip(grid, panels, strict=True):
            drawn = axes.imshow(self._lines(panel, columns), aspect="auto", interpolation="nearest", **style)
            axes.set_facecolor(COLOURS[3])  # of the empty lines
            axes.set_title(panel.title, fontsize="small")
            axes.set_xlabel("feature")
            if size <= MOST_NAMES:
                axes.set_xticks(range(size), self.feature_names, rotation=90)
            _name_lines(axes, panel, columns + 1)
        label = "standard deviations from the mean of the feature" if measured else "value of the feature"
        figure.colorbar(drawn, ax=grid[-1], label=label)
        return figure

    def _lines(self, panel: Panel, columns: int) -> Float[np.ndarray, "lines features"]:
        """Return the rows of a map, with an empty one after each line of the grid."""
        x = (panel.x - self.centre) / self.spread
        starts = range(columns, len(x), columns)
        return np.insert(x, list(starts), np.nan, axis=0)


def mosaic(x: Float[np.ndarray, "rows features"], side: int, columns: int) -> tuple[Float[np.ndarray, "h w"], int]:
    """Return images in a grid, nothing between them and where they end; and from one to the next, in pixels."""
    step = math.ceil(side / MOST_PIXELS)
    images = x.reshape(-1, side, side)[:, ::step, ::step]
    pitch, lines = images.shape[1] + 1, math.ceil(len(x) / columns)
    canvas = np.full((lines * pitch, columns * pitch), np.nan)
    for index, image in enumerate(images):
        line, column = divmod(index, columns)
        canvas[line * pitch :, column * pitch :][: pitch - 1, : pitch - 1] = image
    return canvas, pitch


def _name_lines(axes: "Axes", panel: Panel, pitch: int) -> None:
    """Write the names of the lines of the grid."""
    places = [index * pitch + (pitch - 2) / 2.0 for index in range(len(panel.names))]
    axes.set_yticks(places, panel.names, fontsize="small")
    axes.tick_params(axis="y", length=0)
