"""The classes of a fitted text: the share of each, and the words that it holds most probable."""

from typing import TYPE_CHECKING, Any

from latentzoo.inference.language import TopWords, top_words
from latentzoo.inference.pictures import ACCENT, COLOURS, INK, name_of, new_figure, worth_of
from latentzoo.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 24  # more of them make no readable page: those with the smallest shares are left out
NUM_WORDS = 10
LONGEST = 12  # letters of a word; what is longer is cut
# Widths of the page, in inches: the numbers of the classes, the bars of their shares, each word.
NUMBER, BAR, COLUMN = 0.4, 2.0, 1.0


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return the table of the classes; a fit by a guide of one's own has none."""
    if fit.chains is not None or fit.guide is not None:
        return {}
    found = top_words(fit.params, fit.like, NUM_WORDS)
    shown = found[:MOST_CLASSES]
    bar = BAR if shown[0].share is not None else 0.0
    width, height = NUMBER + bar + NUM_WORDS * COLUMN, 0.42 * (len(shown) + 1)
    figure = new_figure(width, height + 0.5)
    axes = figure.subplots()
    axes.set(xlim=(0.0, width), ylim=(len(shown) - 0.4, -1.1))
    axes.axis("off")
    most = max(each.share or 0.0 for each in shown), max(max(each.probs, default=0.0) for each in shown)
    _head(axes, bar, most[1])
    for row, each in enumerate(shown):
        _row(axes, row, each, bar, most)
    left_out = f"\nthe {len(found) - len(shown)} smallest classes are left out" if found[MOST_CLASSES:] else ""
    axes.set_title(f"{len(found)} classes by {name_of(fit)}, {worth_of(fit)}{left_out}", fontsize="medium")
    return {"classes": figure}


def _head(axes: "Axes", bar: float, longest: float) -> None:
    style: dict[str, Any] = {"fontsize": "small", "color": INK, "va": "center", "style": "italic"}
    if bar:
        axes.text(NUMBER, -0.75, "share of the tokens", ha="left", **style)
    words = f"most probable words, each over the line of its probability in the class; the longest is {longest:.0%}"
    axes.text(NUMBER + bar, -0.75, words, ha="left", **style)


def _row(axes: "Axes", row: int, each: TopWords, bar: float, most: tuple[float, float]) -> None:
    """Draw one class: its number, the bar of its share, and its words over the lines of their probabilities.

    most: the share and the probability that are drawn at full length.
    """
    if row % 2 == 0:
        axes.axhspan(row - 0.5, row + 0.5, color=INK, alpha=0.05, linewidth=0, zorder=0)
    axes.text(NUMBER - 0.15, row, str(each.number), ha="right", va="center", weight="bold", color=INK)
    if each.share is not None:
        length = (bar - 0.75) * each.share / (most[0] or 1.0)
        axes.barh(row, length, 0.6, left=NUMBER, color=COLOURS[6], linewidth=0)
        percent = f"{100.0 * each.share:.1f} %"
        axes.text(NUMBER + length + 0.07, row, percent, ha="left", va="center", fontsize="small", color=INK)
    for column, (word, prob) in enumerate(zip(each.words, each.probs, strict=True)):
        left = NUMBER + bar + column * COLUMN
        short = word if len(word) <= LONGEST else f"{word[: LONGEST - 2]}…"
        axes.text(left, row - 0.08, _plain(short), ha="left", va="center", fontsize="medium", color=INK)
        axes.barh(row + 0.33, (COLUMN - 0.12) * prob / most[1], 0.12, left=left, color=ACCENT, linewidth=0)


def _plain(word: str) -> str:
    """Return a word whose dollar signs are no mathematics."""
    return word.replace("$", r"\$")
