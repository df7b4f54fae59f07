"""An autoencoder with two latents as one looks at it: what each of them changes, beside what every autoencoder has."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from scipy.stats import norm

from latentzoo.inference.closed_form.two_latent_vae import decoded, posterior
from latentzoo.inference.codes import mean
from latentzoo.inference.pictures.deep import (
    Coder,
    Shown,
    autoencoder,
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

HELD, VARIED = 5, 11  # codes that are held, and quantiles of the prior that the other latent takes


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return samples, reconstructions, interpolations, the codes of both latents, and what each of them changes."""
    params, spec = fit.params, fit.entry.spec
    size = spec.num_first + spec.num_latents
    coder = Coder(
        encode=lambda data: posterior(params, data, spec).loc,
        decode=lambda yz: mean(spec.likelihood, decoded(params, yz, spec)),
        sample=lambda num, rng: rng.normal(size=(num, size)),
    )
    rows, plain = shown(fit, test, coder), autoencoder(fit, replace(spec, num_latents=size))
    pictures = general(fit, coder, rows, plain)
    if rows is not None:
        pictures |= interpolations(fit, coder, rows, plain)
        first, second = np.split(rows.codes, [spec.num_first], 1)
        pictures["latent_first"] = latent(fit, first, rows.label, f"{rows.what}, the first latent")
        pictures["latent_second"] = latent(fit, second, rows.label, f"{rows.what}, the second latent")
    return pictures | {"factors": _factors(fit, coder, rows)}


def _factors(fit: Fit, coder: Coder, rows: Shown | None) -> "Figure":
    """Draw what changes when one latent varies, the other and the rest of this one held at the codes of rows."""
    codes = coder.sample(HELD, np.random.default_rng(0)) if rows is None else rows.codes[:HELD]
    spread = codes.var(0) if rows is None else rows.codes.var(0)
    num_first = fit.entry.spec.num_first
    places = int(spread[:num_first].argmax()), num_first + int(spread[num_first:].argmax())
    names = ("the first latent", "the second latent")
    panels = [
        Panel(f"{name} varies in its coordinate {place - start}, all else is held", coder.decode(_varied(codes, place)))
        for name, place, start in zip(names, places, (0, num_first), strict=True)
    ]
    return Panels.of(fit, rows).draw(panels, VARIED, title_of(fit, "what each latent changes, from -1.7 to 1.7"))


def _varied(codes: Float[np.ndarray, "held coordinates"], place: int) -> Float[np.ndarray, "rows coordinates"]:
    """Return each code at the quantiles of the prior in one coordinate."""
    varied = np.repeat(codes, VARIED, axis=0)
    varied[:, place] = np.tile(norm.ppf((np.arange(VARIED) + 0.5) / VARIED), len(codes))
    return varied
