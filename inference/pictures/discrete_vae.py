"""An autoencoder with discrete codes as one looks at it: what its codes stand for, and whose rows each has."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from latentzoo.inference.closed_form.discrete_vae import Codes, encoded
from latentzoo.inference.clusters import confusion as counted
from latentzoo.inference.pictures.deep import Coder, Shown, autoencoder, by_class, confusion, general, shown, title_of
from latentzoo.inference.pictures.panels import Panel, Panels
from latentzoo.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CODES, COLUMNS, MOST_LINES = 100, 10, 30  # joint codes that are drawn, in a line of a grid, and against classes


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return samples, reconstructions, what codes stand for, and whose rows they have."""
    params, spec, probs = fit.params, fit.entry.spec, np.asarray(fit.prior.probs)
    means = Codes.of(params, spec).mean(spec)
    sizes = (spec.num_states,) * spec.num_latents

    def sample(num: int, rng: np.random.Generator) -> np.ndarray:
        return _joint(np.stack([rng.choice(spec.num_states, num, p=each) for each in probs], 1), sizes)

    # A code is one number here: that of the joint code, the last variable changing fastest.
    coder = Coder(
        encode=lambda data: _joint(encoded(params, data, spec), sizes),
        decode=lambda code: means[code[:, 0]],
        sample=sample,
    )
    rows = shown(fit, test, coder)
    pictures = general(fit, coder, rows, autoencoder(fit, spec))
    used = np.bincount(np.zeros(0, dtype=int) if rows is None else rows.codes[:, 0], minlength=len(means))
    pictures["codes"] = _codes(fit, means, used, rows)
    if rows is not None and (rows.label >= 0).any():
        counts = counted(rows.codes[:, 0], rows.label)
        most = np.argsort(-counts.sum(1), kind="stable")[:MOST_LINES]
        order = by_class(most[counts[most].any(1)], counts)
        names = [_name(code, sizes) for code in order]
        what = f"the {len(order)} codes that are used most, of {rows.what}"
        pictures["confusion"] = confusion(fit, counts[order], names, what, "joint code")
    return pictures


def _codes(fit: Fit, means: np.ndarray, used: Int[np.ndarray, "codes"], rows: Shown | None) -> "Figure":
    """Draw the mean of the features at all joint codes, or at those that are used most."""
    spec, total = fit.entry.spec, len(means)
    sizes = (spec.num_states,) * spec.num_latents
    if total <= MOST_CODES:
        drawn, columns = np.arange(total), spec.num_states
        what = f"all {total} joint codes, the state of the last variable changing to the right"
    else:
        drawn, columns = np.argsort(-used, kind="stable")[:MOST_CODES], COLUMNS
        what = f"{MOST_CODES} of {total:,} joint codes, those of most rows first"
    names = tuple(_name(code, sizes) for code in drawn[::columns])
    if rows is not None:
        what += f"; {np.count_nonzero(used):,} are used by {rows.what}"
    panel = Panel(what, means[drawn], names)
    return Panels.of(fit, rows).draw([panel], columns, title_of(fit, "what codes stand for"))


def _joint(states: Int[np.ndarray, "rows num_latents"], sizes: tuple[int, ...]) -> Int[np.ndarray, "rows 1"]:
    """Return the numbers of joint codes."""
    return np.ravel_multi_index(tuple(states.T), sizes)[:, None]


def _name(code: int, sizes: tuple[int, ...]) -> str:
    """Return the states of a joint code."""
    return " ".join(str(state) for state in np.unravel_index(code, sizes))
