"""Super-epicentres: earthquakes gather around a few centres, each with a place and a typical strength.

    weights        ~ Dirichlet(concentration)                    pi        (or known)
    loc[k]         ~ Normal(loc_mean, loc_variance I)            mu_k
    rate[k]        ~ Gamma(strength_shape, strength_rate)        lambda_k
    noise_variance ~ InverseGamma(noise_shape, noise_rate)       tau       (or known; shared, or one for each k)
    component[n]   ~ Categorical(weights)                        z_n
    location[n]    ~ Normal(loc[component[n]], noise_variance I) x_n       longitude, latitude
    strength[n]    ~ Poisson(rate[component[n]])                 s_n       a count, such as reporting stations

The conjugate mixture of Bishop (2006), chapter 10.2, with isotropic Gaussians whose precision is independent of their
centres, and a Poisson count beside each location.
"""

from dataclasses import dataclass
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.models.language.contract import Reading, count, optional, positive, simplex
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import ENUMERATE, Handle
from latentzoo.models.readers.catalogue import read_catalogue, write_catalogue

MAX_PLATE_NESTING = 1
ROWS = ("events",)
MOST_COMPONENTS = 100_000


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    num_components: the number of super-epicentres, K.
    weights: "fixed": known mixture weights; "dirichlet": latent.
    noise: "known": a known variance around the centres; "shared": one latent variance; "per_component": one for each k.
    """

    num_components: int = 3
    weights: Literal["fixed", "dirichlet"] = "fixed"
    noise: Literal["known", "shared", "per_component"] = "known"

    def __post_init__(self) -> None:
        if not 1 <= self.num_components <= MOST_COMPONENTS:
            raise UserError(f"num_components is {self.num_components}: it must be from 1 to {MOST_COMPONENTS:,}")


class Data(NamedTuple):
    """A catalogue.

    location: longitude and latitude in degrees, or x and y in km: any plane coordinates.
    strength: a count for each event.
    """

    location: Float[Any, "events 2"] = None
    strength: Annotated[Float[Any, "events"], count] = None


class Prior(NamedTuple):
    """Hyperparameters; a variance or a rate has the units of the coordinates squared.

    weights: pi, known mixture weights (weights="fixed").
    loc_mean, loc_variance: nu and rho, where centres lie.
    noise_variance: tau, the known variance of events around their centre (noise="known").
    strength_shape, strength_rate: alpha and beta of the Gamma prior on the rates.
    weights_concentration: of the Dirichlet prior (weights="dirichlet").
    noise_shape, noise_rate: of the inverse-Gamma prior (noise="shared" or "per_component").
    """

    weights: Annotated[Float[Any, "num_components"], simplex, optional] = None
    loc_mean: Float[Any, "2"] = None
    loc_variance: Annotated[Float[Any, ""], positive] = None
    noise_variance: Annotated[Float[Any, ""], positive, optional] = None
    strength_shape: Annotated[Float[Any, ""], positive] = None
    strength_rate: Annotated[Float[Any, ""], positive] = None
    weights_concentration: Annotated[Float[Any, "num_components"], positive, optional] = None
    noise_shape: Annotated[Float[Any, ""], positive, optional] = None
    noise_rate: Annotated[Float[Any, ""], positive, optional] = None


class Theta(NamedTuple):
    """No point parameters: the model is fully Bayesian."""


def model(ppl: Handle, data: Data, prior: Prior, theta: None, spec: Spec) -> Data:
    """Tell how a catalogue comes about."""
    dist, xp = ppl.dist, ppl.xp
    weights, noise_variance = prior.weights, prior.noise_variance

    if spec.weights == "dirichlet":
        weights = ppl.sample("weights", dist.Dirichlet(prior.weights_concentration))
    if spec.noise == "shared":
        noise_variance = ppl.sample("noise_variance", dist.InverseGamma(prior.noise_shape, prior.noise_rate))

    with ppl.plate("components", spec.num_components):
        centre = dist.Normal(prior.loc_mean, xp.sqrt(prior.loc_variance))
        loc = ppl.sample("loc", centre.expand((2,)).to_event(1))
        rate = ppl.sample("rate", dist.Gamma(prior.strength_shape, prior.strength_rate))
        if spec.noise == "per_component":
            noise_variance = ppl.sample("noise_variance", dist.InverseGamma(prior.noise_shape, prior.noise_rate))

    with ppl.rows("events", data):
        component = ppl.sample("component", dist.Categorical(weights), infer=ENUMERATE)
        if spec.noise == "per_component":
            noise_variance = ppl.at(noise_variance, component)
        around = dist.Normal(ppl.at(loc, component, event_dim=1), xp.sqrt(noise_variance)[..., None])
        location = ppl.sample("location", around.to_event(1), obs=data.location)
        strength = ppl.sample("strength", dist.Poisson(ppl.at(rate, component)), obs=data.strength)
    return Data(location, strength)


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"loc": ("coordinate",), "location": ("coordinate",), "weights": ("components",)}


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return a weakly informative prior: of the scale of the data when they are given, else of degrees on a map.

    Centres spread as the events do; the variance around a centre is such that K centres tile that spread.
    """
    location = np.zeros((1, 2)) if data is None or data.location is None else np.asarray(data.location)
    strength = np.full(1, 20.0) if data is None or data.strength is None else np.asarray(data.strength)
    spread = 100.0 if data is None or data.location is None else float(location.var(0).mean())
    spread = spread or 1.0  # a single event, or duplicates of one, has no scale of its own
    noise_variance = spread / (4.0 * spec.num_components)
    fixed, known = spec.weights == "fixed", spec.noise == "known"
    ones = np.ones(spec.num_components)
    return Prior(
        weights=ones / spec.num_components if fixed else None,
        loc_mean=location.mean(0),
        loc_variance=np.array(spread),
        noise_variance=np.array(noise_variance) if known else None,
        strength_shape=np.array(2.0),
        strength_rate=np.array(2.0 / max(float(strength.mean()), 1.0)),
        weights_concentration=None if fixed else ones,
        noise_shape=None if known else np.array(3.0),  # a mean of noise_variance, with a finite variance
        noise_rate=None if known else np.array(2.0 * noise_variance),
    )


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return the plate whose labels mean nothing: the components, unless the prior tells them apart."""
    told = prior.weights if spec.weights == "fixed" else prior.weights_concentration
    return "components" if np.ptp(told) == 0.0 else None


def read(
    path: str | PathLike[str],
    spec: Spec,
    *,
    longitude: str | None = None,
    latitude: str | None = None,
    count: str | None = None,
    on_bad: Literal["error", "skip"] = "error",
    centre_longitude: float | None = None,
    projection: Literal["degrees", "km"] = "degrees",
) -> Reading:
    """Read a catalogue in CSV; return it with one line on what was read and what was left out.

    longitude, latitude, count: the names of the columns; those of USGS ComCat are recognised.
    on_bad: "error" refuses a file with rows that cannot be used, "skip" leaves them out and says so.
    centre_longitude: map longitudes to within 180 degrees of it, so that clusters across the antimeridian stay whole.
    projection: "degrees" as they are, or "km" on a plane about the centre of the catalogue.
    """
    catalogue = read_catalogue(
        path,
        longitude=longitude,
        latitude=latitude,
        count=count,
        on_bad=on_bad,
        centre_longitude=centre_longitude,
        projection=projection,
    )
    report = catalogue.report
    return Reading(Data(catalogue.location, catalogue.strength), str(report), report.num_rows - report.num_kept)


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write a catalogue in the CSV that `read` reads without options."""
    write_catalogue(path, data.location, data.strength)
