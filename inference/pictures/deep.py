"""What the pictures of deep models share: samples, rows that are made again, ways between rows, and their codes.

Rows of square images are drawn as images, others as the rows of a map, a column for each feature. All features are
means given a code, without the noise of the likelihood.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from latentzoo.inference.autoencoder import Autoencoder
from latentzoo.inference.pictures import ACCENT, INK, look, name_of, new_figure, worth_of
from latentzoo.inference.pictures.panels import Panel, Panels, side_of
from latentzoo.inference.result import Fit
from latentzoo.models.language.contract import take_rows
from latentzoo.models.language.deep import DeepSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Codes = Float[np.ndarray, "rows latents"]
Features = Float[np.ndarray, "rows features"]

MOST_ROWS = 5000  # whose codes are drawn: more of them hide one another
COLUMNS, LINES = 16, 4  # of samples
NUM_PAIRS, NUM_STEPS = 4, 11  # of ways between rows
MANIFOLD, MOST_MAPS = 15, 9  # points along an axis of the plane of two latents, and features that have a map of it
MOST_CLASSES = 27  # that differ in colour or shape
BATCHES = 10  # of points: within one, each class lies upon those before it
CIRCLE = np.stack([f(np.linspace(0.0, 2.0 * np.pi, 90)) for f in (np.cos, np.sin)])


class Coder(NamedTuple):
    """The way of a fitted model from rows to codes and back.

    encode: the most probable code of each row. decode: the means of the features at codes. sample: codes as the prior
    has them.
    """

    encode: Callable[[Any], Codes]
    decode: Callable[[Codes], Features]
    sample: Callable[[int, np.random.Generator], Codes]


class Shown(NamedTuple):
    """The rows that are drawn: of the test data where there are some, else of those that were fitted.

    what: "test rows" or "fitted rows", and how many of them. codes: of the rows. label: of each row, -1 where there is
    none.
    """

    x: Features
    codes: Codes
    label: Int[np.ndarray, "rows"]
    what: str


def shown(fit: Fit, test: Any, coder: Coder) -> Shown | None:
    """Return the rows to be drawn, drawn at random where they are many; None where there are none."""
    data = fit.data if test is None else test
    if data is None:
        return None
    total, what = len(data.x), "fitted rows" if test is None else "test rows"
    order = np.random.default_rng(0).permutation(total)[:MOST_ROWS]
    data = take_rows(data, order)
    label = getattr(data, "label", None)
    label = np.full(len(order), -1) if label is None else np.asarray(label)
    number = f"{total:,} {what}" if total <= MOST_ROWS else f"{MOST_ROWS:,} of {total:,} {what}, at random"
    return Shown(np.asarray(data.x), coder.encode(data), label, number)


def autoencoder(fit: Fit, spec: DeepSpec) -> Autoencoder | None:
    """Return an autoencoder of these sizes, fitted to what the model was; None where the data are not at hand.

    It has layers that are dense: convolutions would take minutes.
    """
    from latentzoo.inference.autoencoder import fit_autoencoder

    dense = DeepSpec(spec.num_latents, spec.hidden, spec.likelihood)
    return None if fit.data is None else fit_autoencoder(fit.data.x, dense, seed=fit.seed)


def title_of(fit: Fit, what: str) -> str:
    """Return a title: what is drawn, of which fit."""
    return f"{fit.entry.name} by {name_of(fit)}, {worth_of(fit)}\n{what}"


def general(fit: Fit, coder: Coder, rows: Shown | None, plain: Autoencoder | None) -> dict[str, "Figure"]:
    """Return the pictures that every deep model has: samples, and of rows how they are made again."""
    pictures = {"samples": samples(fit, coder, rows, plain)}
    if rows is not None:
        pictures["reconstructions"] = reconstructions(fit, coder, rows, plain)
    return pictures


def samples(fit: Fit, coder: Coder, rows: Shown | None, plain: Autoencoder | None) -> "Figure":
    """Draw rows as the model makes them, real ones, and those of the autoencoder."""
    num = LINES * COLUMNS
    panels = [Panel("of the model: the means of codes from the prior", coder.decode(coder.sample(num, _rng())))]
    if rows is not None:
        panels.append(Panel(f"real rows, of {rows.what}", rows.x[:num]))
    if plain is not None:
        panels.append(Panel("of an autoencoder: codes from a Gaussian on its codes", plain.sample(num)))
    return Panels.of(fit, rows).draw(panels, COLUMNS, title_of(fit, "samples"))


def reconstructions(fit: Fit, coder: Coder, rows: Shown, plain: Autoencoder | None) -> "Figure":
    """Draw rows over what the model, and the autoencoder, make of their codes."""
    x, codes = rows.x[:COLUMNS], rows.codes[:COLUMNS]
    panels = [Panel(rows.what, x), Panel("from the model's codes", coder.decode(codes))]
    if plain is not None:
        panels.append(Panel("from the codes of an autoencoder", plain.reconstruct(x)))
    return Panels.of(fit, rows).draw(panels, COLUMNS, title_of(fit, "reconstructions"))


def interpolations(
    fit: Fit, coder: Coder, rows: Shown, plain: Autoencoder | None, kind: Int[np.ndarray, "rows"] | None = None
) -> dict[str, "Figure"]:
    """Draw what lies between the codes of pairs of rows, which stand at the ends; of rows of the same kind."""
    pairs = _pairs(np.zeros(len(rows.x), dtype=int) if kind is None else kind)
    if not pairs:
        return {}
    codes = {"the model's": (rows.codes, coder.decode)}
    if plain is not None:
        codes["an autoencoder's"] = (plain.encode(rows.x), plain.decode)
    part = np.linspace(0.0, 1.0, NUM_STEPS)[:, None]
    panels = []
    for whose, (z, decode) in codes.items():
        ways = [[rows.x[a, None], decode((1.0 - part) * z[a] + part * z[b]), rows.x[b, None]] for a, b in pairs]
        panels.append(Panel(f"{whose}, between two rows", np.concatenate([x for way in ways for x in way])))
    title = title_of(fit, f"interpolations between pairs of {rows.what}")
    return {"interpolations": Panels.of(fit, rows).draw(panels, NUM_STEPS + 2, title)}


def _pairs(kind: Int[np.ndarray, "rows"]) -> list[tuple[int, int]]:
    """Return pairs of rows of the same kind, of each kind in turn."""
    ordered = [list(np.flatnonzero(kind == each)) for each in np.unique(kind)]
    pairs = [(mine[i], mine[i + 1], i) for mine in ordered for i in range(0, min(len(mine), 2 * NUM_PAIRS) - 1, 2)]
    return [(int(a), int(b)) for a, b, _ in sorted(pairs, key=lambda pair: pair[2])[:NUM_PAIRS]]


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


# --- the codes --------------------------------------------------------------------------------------------------------


class Ellipses(NamedTuple):
    """Gaussians with a diagonal covariance in the space of the codes."""

    loc: Float[np.ndarray, "components latents"]
    scale: Float[np.ndarray, "components latents"]


def latent(
    fit: Fit,
    codes: Codes,
    group: Int[np.ndarray, "rows"],
    what: str,
    group_name: str = "class",
    ellipses: Ellipses | None = None,
) -> "Figure":
    """Draw the codes of rows, coloured by group, -1 for none: along one coordinate, in the plane, or in that of PCA."""
    figure = new_figure(9.0, 6.4)
    axes = figure.subplots()
    if codes.shape[1] == 1:
        _draw_line(axes, codes[:, 0], group, group_name, ellipses)
    else:
        centre, turn, names = _plane(codes)
        _draw_points(axes, (codes - centre) @ turn, group, group_name)
        if ellipses is not None:
            _draw_ellipses(axes, (ellipses.loc - centre) @ turn, ellipses.scale, turn)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.suptitle(title_of(fit, f"codes of {what}"), fontsize="medium")
    return figure


def _plane(codes: Codes) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the origin and the two directions that codes are drawn along, and what to call them."""
    size = codes.shape[1]
    if size == 2:
        return np.zeros(2), np.eye(2), ["latent coordinate 0", "latent coordinate 1"]
    centre = codes.mean(0)
    variance, directions = np.linalg.eigh((codes - centre).T @ (codes - centre))
    share = variance[::-1] / max(variance.sum(), np.finfo(float).tiny)
    names = [f"direction {index} of {size}: {share[index]:.0%} of the variance of codes" for index in range(2)]
    return centre, directions[:, :-3:-1], names


def _groups(group: Int[np.ndarray, "rows"], name: str) -> list[tuple[np.ndarray, str, str, str]]:
    """Return the rows of each group with its colour, shape and name; those of none first."""
    found = [(group < 0, "#999999", "o", f"no {name}")] if (group < 0).any() else []
    return found + [(group == each, *look(int(each)), f"{name} {each}") for each in np.unique(group[group >= 0])]


def _draw_points(axes: "Axes", points: np.ndarray, group: Int[np.ndarray, "rows"], name: str) -> None:
    """Draw points in a random order, so that no group covers another, and the name of a group at its median."""
    from matplotlib.patheffects import withStroke

    size = float(np.clip(9000.0 / len(points), 5.0, 30.0))
    style: dict[str, Any] = {"s": size, "alpha": float(np.clip(60.0 / len(points) ** 0.5, 0.35, 0.85)), "linewidths": 0}
    groups = _groups(group, name)
    if len(groups) == 1 and (group < 0).all():
        axes.scatter(points[:, 0], points[:, 1], c=INK, **style)
        return
    for rows in np.array_split(_rng().permutation(len(points)), BATCHES):
        for mine, colour, shape, _ in groups:
            part = points[rows[mine[rows]]]
            axes.scatter(part[:, 0], part[:, 1], c=colour, marker=shape, **style)
    for mine, colour, shape, label in groups[: MOST_CLASSES + 1]:
        axes.plot([], [], shape, color=colour, markersize=6, markeredgewidth=0, label=label)
        if name == "class" and (group[mine] >= 0).all():
            halo = [withStroke(linewidth=3.0, foreground="white")]
            words: dict[str, Any] = {"ha": "center", "va": "center", "weight": "bold", "color": colour, "zorder": 6}
            x, y = np.median(points[mine], axis=0)
            axes.text(x, y, label.split()[-1], path_effects=halo, fontsize="large", **words)


def _draw_ellipses(axes: "Axes", loc: np.ndarray, scale: np.ndarray, turn: np.ndarray) -> None:
    """Draw one standard deviation of each Gaussian in the plane, and its number at the centre."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground="white")]
    for index, (centre, sd) in enumerate(zip(loc, scale, strict=True)):
        across = turn.T * sd
        outline = centre[:, None] + np.linalg.cholesky(across @ across.T + 1e-12 * np.eye(2)) @ CIRCLE
        axes.plot(
            *outline, color=INK, linewidth=1.4, label="one sd of a component [k]" if index == 0 else None, zorder=4
        )
        top = outline[:, outline[1].argmax()]
        words: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "fontsize": "small", "zorder": 5}
        axes.text(top[0], top[1], f"[{index}]", path_effects=halo, **words)


def _draw_line(
    axes: "Axes", codes: np.ndarray, group: Int[np.ndarray, "rows"], name: str, ellipses: Ellipses | None
) -> None:
    """Draw the histograms of one coordinate, of the groups one upon the other."""
    groups = _groups(group, name)
    edges = np.histogram_bin_edges(codes, bins=min(60, max(10, len(codes) // 20))).tolist()
    colours = [colour for _, colour, _, _ in groups]
    labels = [label for *_, label in groups] if len(groups) > 1 or (group >= 0).any() else None
    axes.hist([codes[mine] for mine, *_ in groups], edges, stacked=True, color=colours, label=labels)
    for index, (centre, sd) in enumerate(zip(*ellipses, strict=True) if ellipses is not None else ()):
        label = "one sd of a component" if index == 0 else None
        axes.axvspan(centre[0] - sd[0], centre[0] + sd[0], color=ACCENT, alpha=0.12, linewidth=0, label=label)
    axes.set(xlabel="latent coordinate 0", ylabel="rows")


# --- the plane of two latents -----------------------------------------------------------------------------------------


def manifold(fit: Fit, coder: Coder, rows: Shown | None) -> dict[str, "Figure"]:
    """Draw what is decoded all over the plane of two latents, at the quantiles of the prior; nothing of others."""
    from scipy.stats import norm

    line = norm.ppf((np.arange(MANIFOLD) + 0.5) / MANIFOLD)
    grid = np.stack(np.meshgrid(line, line[::-1]), -1).reshape(-1, 2)  # the second coordinate grows upwards
    x = coder.decode(grid)
    if side_of(x.shape[1]):
        panel = Panel("first coordinate to the right, second upwards, from -1.8 to 1.8", x)
        title = title_of(fit, "the means over the plane of both latents")
        return {"manifold": Panels.of(fit, rows).draw([panel], MANIFOLD, title)}
    num = min(x.shape[1], MOST_MAPS)
    columns = min(num, 3)
    figure = new_figure(3.6 * columns, 0.6 + 3.1 * math.ceil(num / columns))
    boxes = figure.subplots(math.ceil(num / columns), columns, squeeze=False).ravel()
    for axes in boxes[num:]:
        axes.set_axis_off()
    for axes, values, name in zip(boxes, x.T[:num], Panels.names(fit), strict=False):
        drawn = axes.contourf(line, line[::-1], values.reshape(MANIFOLD, MANIFOLD), cmap="viridis")
        figure.colorbar(drawn, ax=axes)
        axes.set_title(name, fontsize="small")
        axes.set(xlabel="latent coordinate 0", ylabel="latent coordinate 1")
    figure.suptitle(title_of(fit, "the mean of each feature over both latents"), fontsize="medium")
    return {"manifold": figure}


# --- groups against classes -------------------------------------------------------------------------------------------


def by_class(groups: Int[np.ndarray, "some"], counts: Int[np.ndarray, "groups classes"]) -> Int[np.ndarray, "some"]:
    """Return some groups in the order of their commonest classes, those of most such rows first."""
    return groups[np.lexsort((-counts[groups].max(1), counts[groups].argmax(1)))]


def confusion(
    fit: Fit, counts: Int[np.ndarray, "groups classes"], names: list[str], what: str, groups: str
) -> "Figure":
    """Draw how many rows of each class each group has, in the order that they are given in."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    num_groups, num_classes = counts.shape
    figure = new_figure(max(6.0, 2.2 + 0.55 * num_classes), max(3.5, 1.5 + 0.4 * num_groups))
    axes = figure.subplots()
    drawn = axes.imshow(share, cmap="Purples", vmin=0.0, vmax=1.0, aspect="auto")
    if num_groups <= 30 and num_classes <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if share[row, column] > 0.6 else INK
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize="small", color=colour)
    axes.set(xlabel="class", ylabel=groups, xticks=range(num_classes))
    axes.set_yticks(range(num_groups), names)
    figure.colorbar(drawn, ax=axes, label=f"part of the rows of the {groups}")
    figure.suptitle(title_of(fit, what), fontsize="medium")
    return figure
