"""Reparameterised samplers with explicit noise: `draw = sampler(noise, parameters)`, for NumPy, JAX and torch arrays.

Noise is uniform in [0, 1]. It decides the library, the precision and the shape: parameters are taken to its dtype and
broadcast to its shape, and draws have that shape, (*batch,), or (*batch, k) for k categories. Gradients are those by
the parameters; noise is a constant. It is clamped to where every draw is finite: with parameters from 1e-6 to 1e6 draws
and gradients are finite at noise 0 and 1, too, though a draw may be rounded to an end of its support.

Every sampler raises `UserError` when noise is not of floats, or a parameter does not broadcast to its shape.
"""

import math
from typing import Any

from jaxtyping import Float, Int

from latentzoo.inference.arrays import namespace, special
from latentzoo.models.language.errors import UserError

Array = Any


def clamp(noise: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return noise clamped to [tiny, 1 - 2^-24] in float32, [tiny, 1 - 2^-53] in float64; every sampler does it itself.

    tiny is the smallest normal number of the dtype, so that the logarithms of u and of 1 - u are finite.
    """
    xp = namespace(noise)
    if "float" not in str(getattr(noise, "dtype", None)):
        raise UserError(f"noise is {type(noise).__name__}: it must be an array of floats, uniform in [0, 1]")
    info = xp.finfo(noise.dtype)
    return special(noise).stop_gradient(xp.clip(noise, float(info.tiny), 1.0 - float(info.eps) / 2.0))


# --- continuous -------------------------------------------------------------------------------------------------------


def exponential(noise: Float[Array, "*batch"], rate: Array) -> Float[Array, "*batch"]:
    """Return draws of Exponential(rate), by the inverse of its distribution function: -log(1 - u) / rate."""
    xp, u, rate = _prepare(noise, rate=rate)
    return -xp.log1p(-u) / rate


def kumaraswamy(noise: Float[Array, "*batch"], a: Array, b: Array) -> Float[Array, "*batch"]:
    """Return draws of Kumaraswamy(a, b) on [0, 1]: (1 - (1 - u)^(1/b))^(1/a); its a-th power is Beta(1, b).

    Jones (2009), "Kumaraswamy's distribution: a beta-type distribution with some tractability advantages".
    """
    xp, u, a, b = _prepare(noise, a=a, b=b)
    return xp.exp(_log1mexp(-xp.log1p(-u) / b) / a)


def truncated_normal(
    noise: Float[Array, "*batch"], loc: Array, scale: Array, low: Array, high: Array
) -> Float[Array, "*batch"]:
    """Return draws of Normal(loc, scale) given low < draw < high; either end may be infinite.

    The inverse of the distribution function, accurate however far [low, high] is from loc: tails are measured by the
    distance from the end nearer to loc, and by the logarithm of their mass. First derivatives are those of the implicit
    function, with rounding errors that grow with the distance of [low, high] from loc, in scales; further ones are not
    defined.
    """
    xp, u, *live = _prepare(noise, loc=loc, scale=scale, low=low, high=high)
    loc, scale, low, high = (special(u).stop_gradient(each) for each in live)
    # Mirrored, so that the end nearer to loc is the right one: alpha <= -|beta|.
    right = high - loc <= loc - low
    sign = xp.where(right, xp.ones_like(scale), -xp.ones_like(scale))
    near, far = xp.where(right, high, low), xp.where(right, low, high)
    u, v = xp.where(right, u, 1.0 - u), xp.where(right, 1.0 - u, u)
    beta, minus_alpha, width = sign * (near - loc) / scale, sign * (loc - far) / scale, (high - low) / scale

    # Masses are in units of Phi(-start): all of the right tail where loc is outside, else half of a normal.
    inside, start = beta > 0.0, xp.clip(-beta, 0.0, None)
    alpha_mass = _tail(xp, start, xp.where(inside, minus_alpha, width))
    beta_mass = _tail(xp, 0.0 * start, xp.clip(beta, 0.0, None))
    mass = 2.0 - beta_mass - alpha_mass
    below = alpha_mass + u * mass
    upper = below > 1.0  # only where loc is inside
    gap = _tail_quantile(xp, start, -xp.log(xp.where(upper, beta_mass + v * mass, below)))
    z = xp.where(upper, gap, -(start + gap))
    draw = xp.where(inside, loc + sign * scale * z, near - sign * scale * gap)
    draw = xp.where(draw < low, low, xp.where(draw > high, high, draw))

    # d z / d beta = u phi(beta) / phi(z) and d z / d alpha = v phi(alpha) / phi(z), by how far z is from the ends.
    by_near = u * xp.exp(-0.5 * xp.where(inside, beta - z, gap) * (beta + z))
    by_far = v * xp.exp(-0.5 * xp.where(inside, z + minus_alpha, width - gap) * (minus_alpha - z))
    by_low, by_high = xp.where(right, by_far, by_near), xp.where(right, by_near, by_far)
    ends = by_low * _finite(xp, low - loc) + by_high * _finite(xp, high - loc)
    slopes = 1.0 - by_low - by_high, (draw - loc - ends) / scale, by_low, by_high
    return draw + sum(slope * _zero(each) for slope, each in zip(slopes, live, strict=True))


# --- categories -------------------------------------------------------------------------------------------------------


def gumbel(noise: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Return draws of the standard Gumbel distribution: -log(-log u)."""
    xp, u = _prepare(noise)
    return -xp.log(-xp.log(u))


def gumbel_max(noise: Float[Array, "*batch k"], logits: Array) -> Int[Array, "*batch"]:
    """Return draws of Categorical(logits): the category where logits + Gumbel noise is largest. No gradient."""
    return _perturbed(noise, logits).argmax(-1)


def gumbel_softmax(noise: Float[Array, "*batch k"], logits: Array, temperature: Array) -> Float[Array, "*batch k"]:
    """Return draws of the Concrete distribution: softmax((logits + Gumbel noise) / temperature), on the simplex.

    temperature: a scalar, or of a shape that broadcasts to noise's, as (*batch, 1) does. Gradients are those of the
    relaxed objective, and biased for the discrete one. Maddison, Mnih & Teh (2017); Jang, Gu & Poole (2017).
    """
    xp, u, temperature = _prepare(noise, temperature=temperature)
    fn, scores = special(u), _perturbed(noise, logits)
    # Compiled, XLA fuses the division into the softmax, where its maximum would then be off by rounding: NaN at 1e12.
    scores = scores - fn.stop_gradient(xp.amax(scores, -1))[..., None]
    return fn.softmax(scores / temperature, axis=-1)


def straight_through(noise: Float[Array, "*batch k"], logits: Array, temperature: Array) -> Float[Array, "*batch k"]:
    """Return one-hot draws of Categorical(logits), exactly, with the gradient of `gumbel_softmax` at the same noise."""
    soft = gumbel_softmax(noise, logits, temperature)
    # In this order no entry is off 0 or 1 by rounding, as hard + soft - stop_gradient(soft) would be.
    return special(soft).one_hot(gumbel_max(noise, logits), soft.shape[-1], soft) + _zero(soft)


# --- Gammas of small shape, in logarithms ---------------------------------------------------------------------------


def boosted_log_gamma(
    noise: Float[Array, "*batch"], log_gamma_plus_one: Array, concentration: Array
) -> Float[Array, "*batch"]:
    """Return log draws of Gamma(concentration, 1) from log draws of Gamma(concentration + 1, 1).

    log G(a) = log G(a + 1) + log(u) / a (Marsaglia & Tsang, 2000, section 6): finite where G(a) itself is rounded to 0,
    as most draws are at shapes below 1e-3.
    """
    xp, u, log_gamma, concentration = _prepare(
        noise, log_gamma_plus_one=log_gamma_plus_one, concentration=concentration
    )
    return log_gamma + xp.log(u) / concentration


def dirichlet_from_log_gammas(log_gammas: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Return the logarithm of a Dirichlet draw, from log draws of Gamma(concentration[i], 1); k = 2 is a Beta's."""
    return special(log_gammas).log_softmax(log_gammas, axis=-1)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _prepare(noise: Array, **parameters: Any) -> tuple[Any, ...]:
    """Return the namespace, the clamped noise, and the parameters as arrays of its library and dtype."""
    noise = clamp(noise)
    arrays = {name: special(noise).asarray(value, noise) for name, value in parameters.items()}
    for name, array in arrays.items():
        # Noise that is spread over a longer parameter would give draws that depend on each other.
        if not _fits(array.shape, noise.shape):
            shapes = tuple(array.shape), tuple(noise.shape)
            raise UserError(f"{name} has shape {shapes[0]}: it must broadcast to that of noise, {shapes[1]}")
    return namespace(noise), noise, *arrays.values()


def _fits(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(size in (1, size_of_whole) for size, size_of_whole in pairs)


def _perturbed(noise: Array, logits: Array) -> Array:
    _, _, logits = _prepare(noise, logits=logits)
    return logits + gumbel(noise)


def _zero(x: Array) -> Array:
    """Return 0 with the gradient of x; also where x is infinite, with a gradient of 0."""
    finite = _finite(namespace(x), x)
    return finite - special(x).stop_gradient(finite)


def _finite(xp: Any, x: Array) -> Array:
    return xp.where(xp.isfinite(x), x, 0.0)


def _log1mexp(x: Array) -> Array:
    """Return log(1 - exp(-x)) for x >= 0, taking x for the smallest normal number where it is less (Maechler, 2012)."""
    xp = namespace(x)
    near, log2 = x < math.log(2.0), math.log(2.0)
    # Each branch sees only arguments where it and its gradient are finite.
    least = float(xp.finfo(x.dtype).tiny)
    small = xp.where(near, xp.where(x > least, x, least), log2)
    return xp.where(near, xp.log(-xp.expm1(-small)), xp.log1p(-xp.exp(-xp.where(near, log2, x))))


# --- tails of the normal ----------------------------------------------------------------------------------------------

NUM_NEWTON = 5  # steps: measured to reach rounding error from every start in [0, 1e12] and log mass in [-700, 0]
SPLIT, NUM_LEVELS = 4.0, 18  # of the continued fraction, which reaches rounding error beyond SPLIT


def _tail(xp: Any, start: Array, gap: Array) -> Array:
    """Return Phi(-start - gap) / Phi(-start), for start and gap not negative."""
    return xp.exp(-0.5 * gap * (2.0 * start + gap)) * _scaled_tail(start + gap) / _scaled_tail(start)


def _tail_quantile(xp: Any, start: Array, minus_log: Array) -> Array:
    """Return the gap where -log `_tail` is `minus_log`.

    -log of the tail is convex in the gap, and the first guess, which leaves out `_scaled_tail`, is beyond the root:
    Newton's method comes down to it and never passes it.
    """
    tiny = float(xp.finfo(start.dtype).tiny)
    gap = 2.0 * minus_log / (start + xp.sqrt(start**2 + 2.0 * minus_log) + tiny)
    for _ in range(NUM_NEWTON):
        scaled = _scaled_tail(start + gap)
        excess = 0.5 * gap * (2.0 * start + gap) + xp.log(_scaled_tail(start) / scaled) - minus_log
        gap = xp.clip(gap - excess * math.sqrt(math.pi / 2.0) * scaled, 0.0, None)
    return gap


def _scaled_tail(x: Array) -> Array:
    """Return 2 exp(x^2 / 2) Phi(-x), which is erfcx(x / sqrt 2), for x >= 0.

    By erfc, and far out by its continued fraction (Abramowitz & Stegun, 7.1.14). JAX 0.10.2 has an erfcx that is 0 at
    26.6 in float64 and at 9.3 in float32.
    """
    xp, t = namespace(x), x / math.sqrt(2.0)
    near, far = xp.clip(t, 0.0, SPLIT), xp.clip(t, SPLIT, None)
    fraction = far
    for level in range(NUM_LEVELS, 0, -1):
        fraction = far + 0.5 * level / fraction
    return xp.where(t < SPLIT, xp.exp(near**2) * special(x).erfc(near), 1.0 / (math.sqrt(math.pi) * fraction))
