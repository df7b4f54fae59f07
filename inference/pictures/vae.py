"""A variational autoencoder as one looks at it: what it makes, what becomes of rows, and where they lie."""

from typing import TYPE_CHECKING, Any

from latentzoo.inference.closed_form.vae import decoded, posterior
from latentzoo.inference.codes import mean
from latentzoo.inference.pictures.deep import (
    Coder,
    autoencoder,
    general,
    interpolations,
    latent,
    manifold,
    shown,
)
from latentzoo.inference.result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(fit: Fit, test: Any = None) -> dict[str, "Figure"]:
    """Return samples, reconstructions, interpolations, the codes and, of two latents, what lies over their plane."""
    params, spec = fit.params, fit.entry.spec
    coder = Coder(
        encode=lambda data: posterior(params, data, spec).loc,
        decode=lambda z: mean(spec.likelihood, decoded(params, z, spec)),
        sample=lambda num, rng: rng.normal(size=(num, spec.num_latents)),
    )
    rows, plain = shown(fit, test, coder), autoencoder(fit, spec)
    pictures = general(fit, coder, rows, plain)
    if rows is not None:
        pictures |= interpolations(fit, coder, rows, plain)
        pictures["latent"] = latent(fit, rows.codes, rows.label, rows.what)
    return pictures | (manifold(fit, coder, rows) if spec.num_latents == 2 else {})
