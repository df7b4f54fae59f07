"""Precisions of Gaussians and their conjugate family: matrices, diagonals, and one number for all coordinates.

A precision Lambda acts on D coordinates. Its conjugate distribution has a shape a and a rate B,

    (1)  p(Lambda) = |B|^a / Gamma_n(a) |Lambda|^(a - (n + 1) / 2) exp(-tr(B Lambda))

a Wishart with 2 a degrees of freedom (n = D), or a Gamma for each number (n = 1). With E from (1):

    (2)  E Lambda       = a B^-1
    (3)  E log |Lambda| = psi_n(a) - log |B|,   psi_n(a) = sum_{i < n} psi(a - i / 2)

Everything that differs between the three forms is in the classes; what follows from it is written once. Arrays have
any leading axes; a sum of squares is of the same form as a precision, so that x' Lambda x = inner(Lambda, outer(x)).
"""

from typing import Any, Protocol

import numpy as np

from latentzoo.inference.arrays import cholesky, namespace, raw_cholesky, special
from latentzoo.inference.kernels.moments import Quadratic

Array = Any


class Form(Protocol):
    """What is known of one form; `size` is D, the number of coordinates.

    quadratic: the features of a row that outer(x) is made of, as the kernel of mixtures knows them.
    """

    quadratic: Quadratic

    def each(self, values: Array) -> Array:
        """Return precisions with an axis of components in front, be it of one that all share."""

    def pooled(self, values: Array) -> Array:
        """Return what the components say of their precision: each of its own, or their sum."""

    def sandwich(self, outer: Array, inner: Array) -> Array:
        """Return outer inner outer."""

    def outer(self, x: Array) -> Array:
        """Return what x' Lambda x is linear in: x x', x^2 or |x|^2."""

    def inner(self, one: Array, other: Array) -> Array:
        """Return tr(one other)."""

    def apply(self, precision: Array, x: Array) -> Array:
        """Return Lambda x."""

    def inverse(self, one: Array) -> Array:
        """Return the inverse, in the same form."""

    def log_det(self, one: Array) -> Array:
        """Return log |one|, of as many coordinates as the form has numbers."""

    def copies(self, size: int) -> float:
        """Return how often |Lambda| occurs in the density of a Gaussian: D times where one number serves all."""

    def order(self, size: int) -> tuple[int, int]:
        """Return n of (1), and of how many independent distributions the precision is made."""

    def square(self, raw: Array) -> Array:
        """Return R R' for a raw factor R, whose diagonal is kept as its logarithm."""

    def raw(self, square: Array) -> Array:
        """Return the raw factor of R R'."""

    def pull_back(self, gradient: Array, raw: Array) -> Array:
        """Return the gradient by the raw factor, from the symmetric one by R R'."""

    def floored(self, variance: Array, least: Array) -> tuple[Array, Array]:
        """Return the covariance nearest in likelihood that is at least diag(least), and its smallest ratio to it."""

    def pack(self, precision: Array) -> Array:
        """Return the coefficients of the `quadratic` features in x' Lambda x, a column for each precision."""

    def unpack(self, sums: Array, size: int) -> Array:
        """Return sums of the `quadratic` features, a column for each component, as sums of outer(x)."""

    def log_student(self, shape: Array, rate: Array, strength: Array, offset: Array) -> Array:
        """Return the log density of x = loc + offset when loc and Lambda are integrated out."""


class Matrices:
    """A symmetric positive definite matrix for D coordinates."""

    quadratic: Quadratic = "products"

    def each(self, values: Array) -> Array:
        """Return the values: each component has its own."""
        return values

    def pooled(self, values: Array) -> Array:
        """Return the values: each component has its own."""
        return values

    def sandwich(self, outer: Array, inner: Array) -> Array:
        """Return outer inner outer."""
        return outer @ inner @ outer

    def outer(self, x: Array) -> Array:
        """Return x x'."""
        return x[..., :, None] * x[..., None, :]

    def inner(self, one: Array, other: Array) -> Array:
        """Return tr(one other)."""
        return (one * other).sum((-2, -1))

    def apply(self, precision: Array, x: Array) -> Array:
        """Return Lambda x."""
        return (precision @ x[..., None])[..., 0]

    def inverse(self, one: Array) -> Array:
        """Return the inverse, symmetric to the bit."""
        inverse = namespace(one).linalg.inv(one)
        return (inverse + inverse.swapaxes(-1, -2)) / 2.0

    def log_det(self, one: Array) -> Array:
        """Return the log determinant."""
        return namespace(one).linalg.slogdet(one)[1]

    def copies(self, size: int) -> float:
        """Return 1."""
        return 1.0

    def order(self, size: int) -> tuple[int, int]:
        """Return (D, 1): one Wishart."""
        return size, 1

    def square(self, raw: Array) -> Array:
        """Return R R', R lower triangular."""
        factor = cholesky(raw)
        return factor @ factor.swapaxes(-1, -2)

    def raw(self, square: Array) -> Array:
        """Return the Cholesky factor, with the logarithm of its diagonal."""
        return raw_cholesky(square)

    def pull_back(self, gradient: Array, raw: Array) -> Array:
        """Return tril(2 G R), its diagonal times that of R."""
        xp, factor = namespace(raw), cholesky(raw)
        by_factor = 2.0 * gradient @ factor
        diagonal = xp.diagonal(by_factor * factor, axis1=-2, axis2=-1)
        return xp.tril(by_factor, -1) + diagonal[..., None] * xp.eye(raw.shape[-1])

    def floored(self, variance: Array, least: Array) -> tuple[Array, Array]:
        """Raise the eigenvalues, in units of `least`, to 1."""
        xp = namespace(variance)
        unit = xp.sqrt(self.outer(least))
        values, vectors = xp.linalg.eigh(variance / unit)
        raised = (vectors * xp.maximum(values, 1.0)[..., None, :]) @ vectors.swapaxes(-1, -2)
        smallest = values[..., 0]
        return xp.where((smallest < 1.0)[..., None, None], raised * unit, variance), smallest

    def pack(self, precision: Array) -> Array:
        """Return the lower triangle, entries off the diagonal twice."""
        rows, columns = np.tril_indices(precision.shape[-1])
        return (precision[..., rows, columns] * np.where(rows == columns, 1.0, 2.0)).swapaxes(0, -1)

    def unpack(self, sums: Array, size: int) -> Array:
        """Return the matrices with these lower triangles."""
        index = np.zeros((size, size), dtype=int)
        rows, columns = np.tril_indices(size)
        index[rows, columns] = index[columns, rows] = np.arange(len(rows))
        return sums.T[:, index]

    def log_student(self, shape: Array, rate: Array, strength: Array, offset: Array) -> Array:
        """Return the log density of a multivariate Student (Bishop, 2006, 10.81)."""
        size = offset.shape[-1]
        squared = self.inner(self.inverse(rate), self.outer(offset))
        return _log_student(shape + (1.0 - size) / 2.0, size, strength, squared) - 0.5 * self.log_det(rate)


class Tied(Matrices):
    """One matrix that all components share."""

    def each(self, values: Array) -> Array:
        """Return the values with an axis in front."""
        return values[None]

    def pooled(self, values: Array) -> Array:
        """Return the sum over components."""
        return values.sum(0)


class Elementwise:
    """Numbers that do not mix: what is done to each of them."""

    def each(self, values: Array) -> Array:
        """Return the values: each component has its own."""
        return values

    def pooled(self, values: Array) -> Array:
        """Return the values: each component has its own."""
        return values

    def sandwich(self, outer: Array, inner: Array) -> Array:
        """Return outer inner outer."""
        return outer * inner * outer

    def inverse(self, one: Array) -> Array:
        """Return 1 / one."""
        return 1.0 / one

    def square(self, raw: Array) -> Array:
        """Return exp(2 raw)."""
        return namespace(raw).exp(2.0 * raw)

    def raw(self, square: Array) -> Array:
        """Return half the logarithm."""
        return 0.5 * namespace(square).log(square)

    def pull_back(self, gradient: Array, raw: Array) -> Array:
        """Return the gradient by the logarithm of the root."""
        return 2.0 * gradient * self.square(raw)


class Diagonals(Elementwise):
    """A number for each coordinate."""

    quadratic: Quadratic = "squares"

    def outer(self, x: Array) -> Array:
        """Return x^2."""
        return x**2

    def inner(self, one: Array, other: Array) -> Array:
        """Return the sum of products."""
        return (one * other).sum(-1)

    def apply(self, precision: Array, x: Array) -> Array:
        """Return lambda x."""
        return precision * x

    def log_det(self, one: Array) -> Array:
        """Return the sum of logarithms."""
        return namespace(one).log(one).sum(-1)

    def copies(self, size: int) -> float:
        """Return 1."""
        return 1.0

    def order(self, size: int) -> tuple[int, int]:
        """Return (1, D): a Gamma for each coordinate."""
        return 1, size

    def floored(self, variance: Array, least: Array) -> tuple[Array, Array]:
        """Raise each variance to `least`."""
        xp = namespace(variance)
        return xp.maximum(variance, least), (variance / least).min(-1)

    def pack(self, precision: Array) -> Array:
        """Return the precisions."""
        return precision.T

    def unpack(self, sums: Array, size: int) -> Array:
        """Return the sums."""
        return sums.T

    def log_student(self, shape: Array, rate: Array, strength: Array, offset: Array) -> Array:
        """Return the sum of the log densities of a Student for each coordinate."""
        each = _log_student(shape[..., None], 1, strength[..., None], offset**2 / rate)
        return (each - 0.5 * namespace(rate).log(rate)).sum(-1)


class Numbers(Elementwise):
    """One number that serves all coordinates."""

    quadratic: Quadratic = "length"

    def outer(self, x: Array) -> Array:
        """Return |x|^2."""
        return (x**2).sum(-1)

    def inner(self, one: Array, other: Array) -> Array:
        """Return the product."""
        return one * other

    def apply(self, precision: Array, x: Array) -> Array:
        """Return lambda x."""
        return precision[..., None] * x

    def log_det(self, one: Array) -> Array:
        """Return the logarithm."""
        return namespace(one).log(one)

    def copies(self, size: int) -> float:
        """Return D."""
        return float(size)

    def order(self, size: int) -> tuple[int, int]:
        """Return (1, 1): one Gamma."""
        return 1, 1

    def floored(self, variance: Array, least: Array) -> tuple[Array, Array]:
        """Raise the variance to the mean of `least`."""
        xp, least = namespace(variance), least.mean()
        return xp.maximum(variance, least), variance / least

    def pack(self, precision: Array) -> Array:
        """Return the precision, in one row."""
        return precision[None]

    def unpack(self, sums: Array, size: int) -> Array:
        """Return the sums."""
        return sums[0]

    def log_student(self, shape: Array, rate: Array, strength: Array, offset: Array) -> Array:
        """Return the log density of a Student whose scale is the same in every direction."""
        size = offset.shape[-1]
        squared = (offset**2).sum(-1) / rate
        return _log_student(shape, size, strength, squared) - 0.5 * size * namespace(rate).log(rate)


def _log_student(shape: Array, size: int, strength: Array, squared: Array) -> Array:
    """Return the log density of a Student, but for half the log determinant of its rate.

    It is the integral of Normal(x; loc, Lambda^-1) Normal(loc; m, (beta Lambda)^-1) over loc and Lambda from (1):

        (4)  log Gamma(a + D/2) - log Gamma(a) + D/2 log(c / (2 pi)) - (a + D/2) log(1 + c/2 |x - m|^2_(B^-1))

    with c = beta / (1 + beta), and a of the marginal of a matrix less (D - 1) / 2.
    """
    xp, fn = namespace(squared), special(squared)
    share = strength / (1.0 + strength)
    top = shape + size / 2.0
    constant = fn.gammaln(top) - fn.gammaln(shape) + size / 2.0 * xp.log(share / (2.0 * np.pi))
    return constant - top * xp.log1p(share / 2.0 * squared)


FORMS: dict[str, Form] = {"full": Matrices(), "tied": Tied(), "diag": Diagonals(), "spherical": Numbers()}
