"""An autoencoder with a mixture for its prior as one looks at it: what each component makes, and whose rows it has."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

from latentzoo.inference.closed_form.mixture_vae import assigned, decoded, encoded
from latentzoo.inference.clusters import confusion as counted
from latentzoo.inference.codes import mean
from latentzoo.inference.pictures.deep import (
    Coder,
    Ellipses,
    Shown,
    autoencoder,
    by_class,
    confusion,
    general,
    interpolations,
    latent,
    shown,
    title_of,
)
from latentzoo.inference.pictures.panels import Panel, Panels
from latentzoo.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_COMPONENTS, DRAWS = 20, 12  # that are drawn, the heaviest first, and rows of each


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return samples, reconstructions, interpolations, the codes, and of each component what it makes, and has."""
    params, spec = fit.params, fit.entry.spec
    theta, weights = params.theta, softmax(params.theta.weights_logits)
    scale = np.exp(theta.log_scale)

    def sample(num: int, rng: np.random.Generator) -> np.ndarray:
        component = rng.choice(len(weights), num, p=weights)
        return theta.loc[component] + scale[component] * rng.normal(size=(num, spec.num_latents))

    coder = Coder(
        encode=lambda data: encoded(params, data, spec)[0].loc,
        decode=lambda w: mean(spec.likelihood, decoded(params, w, spec)),
        sample=sample,
    )
    rows, plain = shown(fit, test, coder), autoencoder(fit, spec)
    pictures = general(fit, coder, rows, plain) | {"components": _components(fit, coder, rows, weights)}
    if rows is None:
        return pictures
    component = assigned(params, fit.entry.Data(x=rows.x), spec)
    labelled = bool((rows.label >= 0).any())
    group, name = (rows.label, "class") if labelled else (component, "component")
    pictures |= interpolations(fit, coder, rows, plain)
    pictures["latent"] = latent(fit, rows.codes, group, rows.what, name, Ellipses(theta.loc, scale))
    if labelled:
        counts = counted(component, rows.label)
        order = by_class(np.flatnonzero(counts.sum(1)), counts)
        names = [f"{k} ({100.0 * weights[k]:.2g} %)" for k in order]
        pictures["confusion"] = confusion(fit, counts[order], names, f"components of {rows.what}", "component")
    return pictures


def _components(fit: Fit, coder: Coder, rows: Shown | None, weights: np.ndarray) -> "Figure":
    """Draw of each component the mean of the features at its centre, then rows as it makes them."""
    theta, rng = fit.params.theta, np.random.default_rng(0)
    heaviest = np.argsort(-weights, kind="stable")[:MOST_COMPONENTS]
    eps = rng.normal(size=(len(heaviest), DRAWS, theta.loc.shape[1]))
    eps = np.concatenate([np.zeros_like(eps[:, :1]), eps], axis=1)
    w = theta.loc[heaviest, None] + np.exp(theta.log_scale)[heaviest, None] * eps
    names = tuple(f"{k}: {100.0 * weights[k]:.2g} %" for k in heaviest)
    x = coder.decode(w.reshape(-1, w.shape[-1]))
    panel = Panel("at the centre of each component, then at codes drawn from it", x, names)
    left = f", the heaviest {len(heaviest)}" if len(heaviest) < len(weights) else ""
    title = title_of(fit, f"{len(weights)} components{left}")
    return Panels.of(fit, rows).draw([panel], 1 + DRAWS, title)
