"""A semi-supervised autoencoder as one looks at it: a style in every class, and how rows are classified."""

from typing import TYPE_CHECKING, Any

import numpy as np

from latentzoo.inference.backward import forward
from latentzoo.inference.closed_form.semisupervised_vae import beside, chains, predict
from latentzoo.inference.clusters import confusion as counted
from latentzoo.inference.codes import mean
from latentzoo.inference.pictures.deep import (
    Coder,
    Shown,
    autoencoder,
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

STYLES, MOST_CLASSES = 8, 20  # that are drawn


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return samples, reconstructions, interpolations within a class, the codes, styles by class, and confusions."""
    params, spec = fit.params, fit.entry.spec
    size, classes, probs = spec.num_latents, np.eye(spec.num_classes), np.asarray(fit.prior.class_probs)
    decoder = chains(params.theta, spec).decoder

    def encode(data: Any) -> np.ndarray:
        found = predict(params, data, fit.prior, spec)
        return beside(found["latent"], classes[found["label"]])

    # A code is what the decoder takes: the latent coordinates, then the class as a vector.
    coder = Coder(
        encode=encode,
        decode=lambda code: mean(spec.likelihood, forward(decoder, params.theta.decoder, code)[0]),
        sample=lambda num, rng: beside(rng.normal(size=(num, size)), classes[rng.choice(len(probs), num, p=probs)]),
    )
    rows, plain = shown(fit, test, coder), autoencoder(fit, spec)
    pictures = general(fit, coder, rows, plain) | {"styles": _styles(fit, coder, rows)}
    if rows is None:
        return pictures
    chosen = rows.codes[:, size:].argmax(1)
    labelled = bool((rows.label >= 0).any())
    pictures |= interpolations(fit, coder, rows, plain, chosen)
    group, what = (rows.label, rows.what) if labelled else (chosen, f"{rows.what}, by the class that they are given")
    pictures["latent"] = latent(fit, rows.codes[:, :size], group, what)
    if labelled:
        counts = np.zeros((spec.num_classes, spec.num_classes), dtype=int)
        found = counted(chosen, rows.label)
        counts[: found.shape[0], : found.shape[1]] = found
        names = [str(k) for k in range(spec.num_classes)]
        pictures["confusion"] = confusion(fit, counts, names, f"classes given to {rows.what}", "class given")
    return pictures


def _styles(fit: Fit, coder: Coder, rows: Shown | None) -> "Figure":
    """Draw the same latent coordinates in every class: those of rows, which stand before them, or from the prior."""
    spec = fit.entry.spec
    num = min(spec.num_classes, MOST_CLASSES)
    codes = coder.sample(STYLES, np.random.default_rng(0)) if rows is None else rows.codes[:STYLES]
    latents = codes[:, None, : spec.num_latents]
    every = coder.decode(beside(latents, np.eye(spec.num_classes)[:num]).reshape(-1, codes.shape[1]))
    if rows is None:
        panel, columns = Panel("latent coordinates from the prior, in every class", every), num
    else:
        lines = np.concatenate([rows.x[:STYLES, None], every.reshape(len(codes), num, -1)], axis=1)
        words = "a row, then its latent coordinates in every class"
        panel, columns = Panel(words, lines.reshape(-1, lines.shape[-1])), num + 1
    left = "" if num == spec.num_classes else f", the first {num} of {spec.num_classes} classes"
    return Panels.of(fit, rows).draw([panel], columns, title_of(fit, f"styles by class{left}"))
