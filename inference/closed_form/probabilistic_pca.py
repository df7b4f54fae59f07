"""Maximum likelihood for probabilistic PCA: by eigenvectors, and by EM, which takes missing cells.

Symbols: W, mu, sigma^2 = weight, loc, exp(2 noise_log_scale), w_i the row of W of feature i, d = num_latents; o, the
features that row n observes, D_n of them; m_n, S_n the mean and covariance of q(latent[n]). Equation numbers are this
file's own; with M = sigma^2 P and the left out eigenvalues in (11) they are those of Tipping & Bishop (1999).

    (1)  P_n = I + W_o' W_o / sigma^2                   the precision of the posterior: S_n = P_n^-1 at its optimum
    (2)  m_n = S_n W_o' (x_no - mu_o) / sigma^2         at its optimum
    (3)  y_ni = x_ni - mu_i - w_i' m_n                  what is left of an observed cell
    (4)  e_ni = x_ni - mu_i - w_i' z_n,                 E e^2 = y_ni^2 + w_i' S_n w_i
    (5)  E e_ni (z_n, 1) = y_ni (m_n, 1) - (S_n w_i, 0)
    (6)  KL(q_n || p) = (|m_n|^2 + tr S_n - log |S_n| - d) / 2

    (7)  bound = - sum_ni [log 2 pi sigma^2 + E e_ni^2 / sigma^2] / 2 - sum_n KL(q_n || p)

At (1) and (2) the bound is the log likelihood: its quadratic form, (x - mu)' C^-1 (x - mu) with C = W W' + sigma^2 I,
is |y|^2 / sigma^2 + |m|^2, a sum without cancellation.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from jaxtyping import Bool, Float, Int

from latentzoo.guides.probabilistic_pca import Phi
from latentzoo.inference import accumulate
from latentzoo.inference.arrays import cholesky, namespace, raw_cholesky
from latentzoo.inference.tables import aligned
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.probabilistic_pca import (
    LEAST_NOISE,
    Data,
    Prior,
    Spec,
    Theta,
    directions,
    no_maximum,
    survey,
)
from latentzoo.models.readers.table import names_of

METHODS = ("exact", "em", "svi")
PROOF = "expectation"
NO_NOISE = 1e-20  # a noise variance below this part of that of W z is zero: float64 squares no smaller difference
CHUNK_NUMBERS = 2**18  # in the largest array of a chunk of rows, of 2 MiB

Array = Any


class Stats(NamedTuple):
    """Sums over rows: those of two sets of rows, at the same params, add up to those of their union.

    For each feature over the rows that observe it, with e as in (4) and z the latent coordinates. They are about the
    parameters, so that nothing cancels where the data are far from zero.
    bound: (7), every constant kept.
    scale: a bound on the sum of its absolute terms; rounding is a multiple of it.
    squared, pull, second: expectations of e^2, e (z, 1) and (z, 1) (z, 1)'.
    latent: the last of these over all rows.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    squared: Float[Array, "features"]
    pull: Float[Array, "features regressors"]
    second: Float[Array, "features regressors regressors"]
    latent: Float[Array, "regressors regressors"]


# --- q(latent) ------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Some rows and their q(latent). Rows that observe the same features share what depends on nothing else: a group.

    centred: x - mu, 0 where it is missing. mean: m_n. group: of each row.
    observed, covariance, log_det, size: of each group: 1 for a feature that it observes and 0 for the others, S,
    log |S|, and how many rows it has.
    """

    centred: Float[Array, "rows features"]
    mean: Float[Array, "rows latents"]
    group: Int[Array, "rows"]
    observed: Float[Array, "groups features"]
    covariance: Float[Array, "groups latents latents"]
    log_det: Float[Array, "groups"]
    size: Float[Array, "groups"]

    def residual(self, weight: Float[Array, "features latents"]) -> Float[Array, "rows features"]:
        """Return (3) y, 0 where a cell is missing."""
        residual = self.mean @ -weight.T
        residual += self.centred  # in place, in NumPy: new memory costs more than the sum
        whole = namespace(weight) is np and self.observed.all()
        return residual if whole else residual * self.observed[self.group]


def visit(params: Params, data: Data) -> Iterator[tuple[slice, Rows]]:
    """Yield the rows in chunks, each with its q(latent): free where phi says so, else at its optimum.

    Raises
    ------
    UserError: the data have other features than the parameters.
    """
    theta, phi, xp = params.theta, params.phi or Phi(), namespace(params.theta.weight)
    x = xp.asarray(data.x)
    num_rows, num_features = x.shape
    if num_features != theta.weight.shape[0]:
        raise UserError(f"data.x has {num_features} features: these parameters are of {theta.weight.shape[0]}")
    # JAX may trace the rows, which then have no chunks.
    length = max(CHUNK_NUMBERS // (num_features + (theta.weight.shape[1] + 1) ** 2), 1) if xp is np else num_rows
    for start in range(0, num_rows, length):
        here = slice(start, start + length)
        yield here, _with_q(theta, Phi(*(None if leaf is None else leaf[here] for leaf in phi)), x[here])


def _with_q(theta: Theta, phi: Phi, x: Array) -> Rows:
    """Return rows with their q(latent)."""
    xp, centred = namespace(theta.weight), x - theta.loc
    patterns, group, size = _groups(~xp.isnan(centred), apart=phi.latent_raw_scale is not None)
    if xp is not np or not patterns.all():
        centred = xp.where(xp.isnan(centred), 0.0, centred)
    observed, scaled = xp.where(patterns, 1.0, 0.0), xp.exp(-2.0 * theta.noise_log_scale) * theta.weight
    precision = _precision(observed, scaled, theta.weight)
    covariance, log_det = xp.linalg.inv(precision), -xp.linalg.slogdet(precision)[1]
    mean = phi.latent_mean
    if mean is None and len(covariance) == 1:
        mean = centred @ (scaled @ covariance[0])  # (2)
    elif mean is None:
        mean = xp.einsum("nij,nj->ni", covariance[group], centred @ scaled)  # (2)
    if phi.latent_raw_scale is not None:
        factor = cholesky(phi.latent_raw_scale)
        covariance = factor @ xp.swapaxes(factor, -1, -2)
        log_det = 2.0 * xp.diagonal(phi.latent_raw_scale, axis1=-2, axis2=-1).sum(-1)
    return Rows(centred, mean, group, observed, covariance, log_det, size)


def _groups(seen: Bool[Array, "rows features"], apart: bool) -> tuple[Array, Array, Array]:
    """Return the distinct rows, which of them each row is, and how many rows each is; apart: all as if distinct.

    Of arrays in JAX, too: how many are distinct must not depend on their values.
    """
    xp, num_rows = namespace(seen), seen.shape[0]
    if apart or xp is not np:
        return seen, xp.arange(num_rows), xp.ones(num_rows)
    if seen.all():
        return seen[:1], np.zeros(num_rows, dtype=np.intp), np.full(1, float(num_rows))
    packed = np.packbits(seen, axis=1)  # as bytes rows are sorted ten times as fast
    keys = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
    _, first, group, size = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return seen[first], group, size.astype(np.float64)


def _precision(observed: Array, scaled: Array, weight: Array) -> Float[Array, "groups latents latents"]:
    """Return (1), scaled: W / sigma^2."""
    return namespace(weight).eye(weight.shape[1]) + _weighted(observed, scaled[:, :, None] * weight[:, None, :])


def _weighted(weights: Float[Array, "a b"], matrices: Float[Array, "b i j"]) -> Float[Array, "a i j"]:
    """Return weighted sums of matrices, as one matrix product."""
    rows, columns = matrices.shape[1:]
    return (weights @ matrices.reshape(-1, rows * columns)).reshape(-1, rows, columns)


# --- the E step -----------------------------------------------------------------------------------------------------


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the expected statistics of the rows under q(latent), free or at its optimum."""
    return accumulate.add(_sums(params.theta, rows) for _, rows in visit(params, data))


def _sums(theta: Theta, rows: Rows) -> Stats:
    """Return the statistics of a chunk of rows."""
    xp, (_, num_latents) = namespace(theta.weight), theta.weight.shape
    residual, padding = rows.residual(theta.weight), np.eye(num_latents, num_latents + 1)
    regressors = xp.concatenate([rows.mean, xp.ones_like(rows.mean[:, :1])], axis=1)
    # Sums of S: for each feature, and over all rows.
    covariance = _weighted((rows.size[:, None] * rows.observed).T, rows.covariance)
    latent = regressors.T @ regressors + padding.T @ _weighted(rows.size[None], rows.covariance)[0] @ padding
    if len(rows.observed) == 1:
        second = rows.observed[0][:, None, None] * latent
    else:
        outer = regressors[:, :, None] * regressors[:, None, :]
        second = _weighted(rows.observed[rows.group].T, outer) + padding.T @ covariance @ padding
    shrinkage = xp.einsum("fij,fj->fi", covariance, theta.weight)
    squared = xp.einsum("nf,nf->f", residual, residual) + (shrinkage * theta.weight).sum(1)  # (4)
    pull = residual.T @ regressors - shrinkage @ padding  # (5)

    log_noise, precision = np.log(2.0 * np.pi) + 2.0 * theta.noise_log_scale, xp.exp(-2.0 * theta.noise_log_scale)
    count, quadratic = second[:, -1, -1].sum(), precision * squared.sum()
    distance = xp.trace(latent) - latent[-1, -1]
    kl = 0.5 * (distance - rows.log_det @ rows.size - num_latents * latent[-1, -1])  # (6)
    absolute = count * abs(log_noise) + quadratic + distance + (abs(rows.log_det) + num_latents) @ rows.size
    # The rounding of y is that of x - mu.
    after, before = (xp.sqrt(xp.einsum("nf,nf->n", cells, cells)) for cells in (residual, rows.centred))
    bound = -0.5 * (count * log_noise + quadratic) - kl  # (7)
    return Stats(bound, absolute + precision * (after @ before), squared, pull, second, latent)


# --- the bound, its gradient, and the M step ------------------------------------------------------------------------


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return the bound (7), in nats, every constant kept; with q at its optimum it is the log likelihood."""
    return stats.bound


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by theta, from the same statistics: the derivatives of (7).

    With q(latent) free it is the partial derivative; at its optimum that is the total one (envelope theorem).
    """
    precision = namespace(stats.pull).exp(-2.0 * params.theta.noise_log_scale)
    pull, count = precision * stats.pull, stats.second[:, -1, -1].sum()
    return Params(theta=Theta(pull[:, :-1], pull[:, -1], precision * stats.squared.sum() - count))


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the parameters that are best given q: each feature's weight and mean jointly, then the noise.

    (8)  (w_i, mu_i) moves by the solution of [sum E (z, 1) (z, 1)'] step = sum E e (z, 1), a regression on E z
    (9)  sigma^2 = sum_ni E e_ni^2 / sum_n D_n, with (4) at the new weight and mean

    Where q is at its optimum it follows theta, and more can be had from the same statistics: the model in which
    z ~ Normal(a, A) is no other, and its best a and A are those of the E step (Liu, Rubin & Wu, 1998):

    (10) a = mean of E z, A = mean of E (z - a) (z - a)';  W becomes W A^(1/2), mu becomes mu + W a

    That never lowers the likelihood either, and needs tens of steps where (8) and (9) alone need thousands. W is then
    turned as by `exact`.

    A feature that no row observes takes no step of its own. All stays where the noise variance would fall to zero, as
    it does where the likelihood has no maximum: `flaw` says so.
    """
    theta, xp = params.theta, namespace(stats.pull)
    count, identity = stats.second[:, -1:, -1:], xp.eye(stats.pull.shape[1])
    step = xp.linalg.solve(stats.second + identity * (count == 0.0), stats.pull[..., None])[..., 0]  # (8)
    weight, loc = theta.weight + step[:, :-1], theta.loc + step[:, -1]
    variance = (stats.squared.sum() - (step * stats.pull).sum()) / count.sum()  # (9)
    if params.phi is None or all(leaf is None for leaf in params.phi):
        a = stats.latent[:-1, -1] / stats.latent[-1, -1]
        spread = stats.latent[:-1, :-1] / stats.latent[-1, -1] - a[:, None] * a
        weight, loc = turned(weight @ xp.linalg.cholesky(spread)), loc + weight @ a  # (10)
    stays = variance <= NO_NOISE * (weight**2).sum()
    variance = xp.where(stays, 1.0, variance)
    moved = Theta(weight, loc, 0.5 * xp.log(variance))
    return Params(Theta(*(xp.where(stays, old, new) for old, new in zip(theta, moved, strict=True))), Phi())


def turned(weight: Float[Array, "features latents"]) -> Float[Array, "features latents"]:
    """Return the rotation of W whose columns are orthogonal, by falling length, the largest entry of each positive.

    The likelihood is the same, and P in (1) is nearly diagonal: small directions survive beside large ones.
    """
    left, singular, _ = namespace(weight).linalg.svd(weight, full_matrices=False)
    return left * singular * _signs(left)


def _signs(vectors: Float[Array, "k vectors"]) -> Float[Array, "vectors"]:
    """Return the sign of the largest entry of each column."""
    xp = namespace(vectors)
    return xp.sign(vectors[abs(vectors).argmax(0), xp.arange(vectors.shape[1])])


def flaw(params: Params, data: Data, prior: Prior, spec: Spec) -> str:
    """Return why these parameters are no maximum of the likelihood: their noise has fallen to zero."""
    theta = params.theta
    variance = np.exp(2.0 * theta.noise_log_scale)
    if variance > LEAST_NOISE * (theta.weight**2).sum():
        return ""
    return (
        f"the noise variance is {variance:.1g}, rounding beside the largest direction: {spec.num_latents} latents"
        " explain every cell and the likelihood has no maximum, or the columns differ too much in scale"
    )


def exact(given: Params | None, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the maximum of the likelihood, by the eigenvectors U of the covariance with the largest eigenvalues L.

    (11) W = U (L - sigma^2 I)^(1/2), sigma^2 the mean of the eigenvalues that are left out

    Raises
    ------
    UserError: a cell is missing, or the likelihood has no maximum.
    """
    x, size = np.asarray(data.x), spec.num_latents
    num_rows, num_features = x.shape
    wide = num_features > num_rows
    found = survey(data, spec, onto=np.zeros((num_features, 0)) if wide else None)
    if not found.whole:
        row, column = np.argwhere(np.isnan(x))[0]
        raise UserError(f"data.x[{row}, {column}] is missing: eigenvectors need every cell; take method='em'")
    if wide:
        _, singular, rows = np.linalg.svd(x - found.mean, full_matrices=False)
        values, vectors = singular[:size] ** 2 / num_rows, rows[:size].T
    else:
        largest = [num_features - size, num_features - 1]
        values, vectors = scipy.linalg.eigh(found.scatter / num_rows, subset_by_index=largest)
        values, vectors = values[::-1], vectors[:, ::-1]
    total = found.variance.sum()
    variance = (total - values.sum()) / (num_features - size)
    if variance <= LEAST_NOISE * total:
        raise no_maximum(int((values > LEAST_NOISE * total).sum()), size)
    weight = vectors * np.sqrt(np.maximum(values - variance, 0.0)) * _signs(vectors)
    return Params(Theta(weight, found.mean, np.array(0.5 * np.log(variance))), Phi())


# --- local variables and densities ----------------------------------------------------------------------------------


def local_optimum(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the params with q(latent) at its optimum written out, for every row."""
    xp, means, raws = namespace(params.theta.weight), [], []
    for _, rows in visit(Params(params.theta), data):
        raws.append(raw_cholesky(rows.covariance)[rows.group])
        means.append(rows.mean)
    return params._replace(phi=Phi(xp.concatenate(means), xp.concatenate(raws)))


def local_gradient(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by what is free of q(latent), with A the Cholesky factor of S and P as in (1).

    (12) by m_n: W_o' y_no / sigma^2 - m_n
    (13) by A_n: (A_n')^-1 - P_n A_n, its lower triangle; by the logarithms of the diagonal, times the diagonal
    """
    theta, phi, xp = params.theta, params.phi, namespace(params.theta.weight)
    scaled, means, raws = xp.exp(-2.0 * theta.noise_log_scale) * theta.weight, [], []
    for here, rows in visit(params, data):
        means.append(rows.residual(theta.weight) @ scaled - rows.mean)
        if phi.latent_raw_scale is not None:
            factor = cholesky(phi.latent_raw_scale[here])
            pull = _precision(rows.observed, scaled, theta.weight) @ factor
            raws.append(xp.tril(-pull, -1) + xp.eye(spec.num_latents) * (1.0 - factor * pull))
    mean = None if phi.latent_mean is None else xp.concatenate(means)
    return Params(phi=Phi(mean, xp.concatenate(raws) if raws else None))


def log_predictive(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return the log density of the observed cells of each row, the latent coordinates integrated out."""
    theta, xp, found = params.theta, namespace(params.theta.weight), []
    log_noise, precision = np.log(2.0 * np.pi) + 2.0 * theta.noise_log_scale, xp.exp(-2.0 * theta.noise_log_scale)
    for _, rows in visit(Params(theta), data):
        residual, group = rows.residual(theta.weight), rows.group
        squared = precision * xp.einsum("ni,ni->n", residual, residual) + (rows.mean**2).sum(1)
        found.append(-0.5 * (rows.observed.sum(1)[group] * log_noise - rows.log_det[group] + squared))
    return xp.concatenate(found)


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows"]:
    """Return the log density of the observed cells of each row at given globals; those not given are of params."""
    return log_predictive(Params(_theta(latents, params.theta)), data, prior, spec)


def _theta(sites: dict[str, Array], theta: Theta) -> Theta:
    """Return theta with the values of sites in the place of its own."""
    weight, variance = sites.get("weight", theta.weight), sites.get("noise_variance")
    log_scale = theta.noise_log_scale if variance is None else 0.5 * namespace(weight).log(variance)
    return Theta(weight, sites.get("loc", theta.loc), log_scale)


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return of each row the mean and sd of its latent coordinates given its observed cells, and what follows for x.

    latent, latent_sd: (rows, num_latents). x: (rows, features), the mean of W z + mu: a reconstruction without noise of
    observed cells, and the best guess of missing ones.
    """
    theta, found = params.theta, []
    for _, rows in visit(Params(theta), data):
        variance = np.diagonal(rows.covariance, axis1=-2, axis2=-1)[rows.group]
        found.append((rows.mean, np.sqrt(variance), rows.mean @ theta.weight.T + theta.loc))
    return dict(zip(("latent", "latent_sd", "x"), map(np.concatenate, zip(*found, strict=True)), strict=True))


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return what `predict` does, with the globals averaged over their draws; at points these are all the same."""
    sites = {site: draws[site] for site in ("weight", "loc", "noise_variance") if site in draws}
    same = all((values == values[:1]).all() for values in sites.values())
    each = []
    for index in range(1 if same else len(sites["weight"])):
        theta = _theta({site: values[index] for site, values in sites.items()}, params.theta)
        each.append(predict(Params(theta), data, prior, spec))
    latent, sd, x = (np.stack([found[name] for found in each]) for name in ("latent", "latent_sd", "x"))
    return {"latent": latent.mean(0), "latent_sd": np.sqrt((sd**2).mean(0) + latent.var(0)), "x": x.mean(0)}


def describe(params: Params, data: Data | None, spec: Spec) -> str:
    """Return a table: what part of the variance each direction explains, and which features it is made of."""
    found, noise = directions(params.theta), float(np.exp(params.theta.noise_log_scale))
    names, so_far, others = names_of(data, len(found.directions)), np.cumsum(found.shares), 1.0 - found.shares.sum()
    shown = min(len(names), 4)
    head = ["direction", "variance", "share", "so far", "largest parts", *[""] * (shown - 1)]
    rows = []
    for index, parts in enumerate(found.directions.T):
        words = [f"{parts[i]:+.2f} {names[i]}" for i in np.argsort(-np.abs(parts))[:shown]]
        numbers = f"{found.variance[index]:.4g}", f"{found.shares[index]:.1%}", f"{so_far[index]:.1%}"
        rows.append([str(index), *numbers, *words])
    rows.append(["noise", f"{noise**2:.4g}", f"{others:.1%}", "100.0%", f"sd {noise:.4g}", *[""] * (shown - 1)])
    return "\n".join(aligned([head], rows))
