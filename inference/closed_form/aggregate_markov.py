"""EM, MAP and CAVI for classes between words: hand-derived bound, gradient and updates. Equation numbers are its own.

Symbols: n_r the count of bigram r = (x, x'); P = p(z | x) and Q = p(x' | z) where theta holds them at points; a_xz and
b_zx' the concentrations of q(class_probs) and q(word_probs); alpha, beta those of the prior; psi is digamma. The bound
needs the tables through their logarithms alone:

    (1)  L_xz = log P_xz,  M_zx' = log Q_zx'                                      at points
         L_xz = psi(a_xz) - psi(sum_z a_xz),  M_zx' = psi(b_zx') - psi(sum_x' b_zx')    else, E_q of the same
    (2)  q_r(z) = exp(L_xz + M_zx') / s_r,  s_r = sum_z exp(L_xz + M_zx')         the optimum of q(class)
    (3)  sum_r n_r log s_r                                                        the bound over the rows, at (2)
    (4)  sum_r n_r sum_z q_r(z) (L_xz + M_zx' - log q_r(z))                       at any q: the free energy F
    (5)  c(x, z) = sum_{r: x_r = x} n_r q_r(z),  c(z, x') likewise                the expected counts

At points, (3) is the log likelihood, and (4) is less by sum_r n_r KL(q_r || (2)). Complete data have q_r(z) = 1 for the
class of the row. No array of rows x classes is made but for a free q, for complete data and for predictions.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from latentzoo.guides.aggregate_markov import Phi
from latentzoo.inference.arrays import add_at, namespace, special
from latentzoo.inference.conjugate import (
    dirichlet_gradient,
    log_dirichlet,
    log_shares,
    logits_gradient,
    softmax_gradient,
)
from latentzoo.inference.divergences import kl_dirichlet
from latentzoo.inference.kernels.bigram import bigram_log_normalisers, bigram_sums
from latentzoo.inference.language import (
    check_words,
    interpolated,
    interpolation_weight,
    num_tokens,
    perplexity,
    probabilities,
    smoothed_bigram,
    top_words,
    unigram,
    weighted,
)
from latentzoo.models.aggregate_markov import Data, Prior, Spec, Theta, count_words
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.tables import IMPOSSIBLE, logits_of

METHODS = ("em", "map", "cavi", "svi", "mle")
PROOF = "expectation"

Array = Any


class Stats(NamedTuple):
    """Sums over bigrams: those of two sets of bigrams add up to those of their union.

    bound: (3), or (4) where q(class) is free. scale: a bound on the sum of the absolute terms of the ELBO.
    contexts: c(x, z). words: c(z, x'), a row for each word.
    """

    bound: Float[Array, ""]
    scale: Float[Array, ""]
    contexts: Float[Array, "contexts classes"]
    words: Float[Array, "words classes"]


class Tables(NamedTuple):
    """The logarithms (1), with a row for each context and for each word."""

    log_class: Float[Array, "contexts classes"]
    log_word: Float[Array, "words classes"]


def tables(params: Params) -> Tables:
    """Return the logarithms (1) of the tables at points, or their expectations."""
    theta, phi = params
    if theta is not None:
        fn = special(theta.class_logits)
        return Tables(fn.log_softmax(theta.class_logits, axis=-1), fn.log_softmax(theta.word_logits, axis=-1).T)
    return Tables(_expected_log(phi.class_log_concentration), _expected_log(phi.word_log_concentration).T)


def _expected_log(log_concentration: Array) -> Array:
    xp, fn = namespace(log_concentration), special(log_concentration)
    concentration = xp.exp(log_concentration)
    return fn.digamma(concentration) - fn.digamma(concentration.sum(-1))[..., None]


# --- the E step -----------------------------------------------------------------------------------------------------


def e_step(params: Params, data: Data, prior: Prior, spec: Spec) -> Stats:
    """Return the expected counts of the bigrams under q(class), free or at its optimum."""
    of = tables(params)
    if data.state is not None:
        terms, contexts, words = _complete_sums(of, data)
    elif params.phi.state_logits is not None:
        terms, contexts, words = _free_sums(of, data, params.phi.state_logits)
    else:
        # The kernel reads whole rows of its tables.
        log_word = np.ascontiguousarray(of.log_word) if namespace(of.log_word) is np else of.log_word
        terms, contexts, words = bigram_sums(data.context, data.word, data.count, of.log_class, log_word)
    return Stats(terms.sum(), abs(terms).sum() + data.count.sum() + _prior_scale(prior), contexts, words)


def _complete_sums(of: Tables, data: Data) -> tuple[Array, Array, Array]:
    """Return the terms of the log likelihood of complete data, and their counts, which are known."""
    contexts = add_at(of.log_class, (data.context, data.state), data.count)
    return data.count * _log_densities(of, data), contexts, add_at(of.log_word, (data.word, data.state), data.count)


def _free_sums(of: Tables, data: Data, logits: Array) -> tuple[Array, Array, Array]:
    """Return the terms of (4), and the expected counts (5) of a free q(class)."""
    log_q = special(logits).log_softmax(logits, axis=1)
    q = namespace(logits).exp(log_q)
    expected = data.count[:, None] * q
    terms = expected * (of.log_class[data.context] + of.log_word[data.word] - log_q)
    return terms, add_at(of.log_class, data.context, expected), add_at(of.log_word, data.word, expected)


def _prior_scale(prior: Prior) -> Array:
    """Return a bound on the log normalisers of the prior, whose rounding the ELBO has, too."""
    given = [concentration for concentration in prior if concentration is not None]
    return sum((each.sum() * namespace(each).log(2.0 + each.size * each.max()) for each in given), start=0.0)


# --- the bound, its gradient, and the M step ------------------------------------------------------------------------


def elbo(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Float[Array, ""]:
    """Return the bound, in nats, every constant kept: (3) or (4) with the log prior, or with the KL of the tables.

    (6)  sum_x log Dirichlet(P_x; alpha_x) + sum_z log Dirichlet(Q_z; beta_z)        at points with a prior
    (7)  - sum_x KL(Dirichlet(a_x) || Dirichlet(alpha_x)) - sum_z KL(Dirichlet(b_z) || Dirichlet(beta_z))
    """
    if params.theta is None:
        phi, exp = params.phi, namespace(params.phi.class_log_concentration).exp
        kl = kl_dirichlet(exp(phi.class_log_concentration), prior.class_concentration).sum()
        return stats.bound - kl - kl_dirichlet(exp(phi.word_log_concentration), prior.word_concentration).sum()
    log_class, log_word = tables(params)
    total = stats.bound
    for log_probs, concentration in ((log_class, prior.class_concentration), (log_word.T, prior.word_concentration)):
        if concentration is not None:
            total = total + log_dirichlet(log_probs, concentration)
    return total


def elbo_gradient(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by both tables' parameters, from the same statistics.

    With q(class) free it is the partial derivative; at its optimum that is the total one (envelope theorem).
    """
    theta, phi = params
    if theta is None:
        class_target, word_target = prior.class_concentration + stats.contexts, prior.word_concentration + stats.words.T
        return Params(
            phi=Phi(
                class_log_concentration=dirichlet_gradient(class_target, phi.class_log_concentration),
                word_log_concentration=dirichlet_gradient(word_target, phi.word_log_concentration),
            )
        )
    class_count, word_count = _counts(stats, prior)
    return Params(
        theta=Theta(softmax_gradient(class_count, theta.class_logits), softmax_gradient(word_count, theta.word_logits))
    )


def _counts(stats: Stats, prior: Prior) -> tuple[Array, Array]:
    """Return the counts whose shares the points have at their best: (8) c(x, z) + alpha - 1 and c(z, x') + beta - 1."""
    alpha, beta = (0.0 if each is None else each - 1.0 for each in prior)
    return stats.contexts + alpha, stats.words.T + beta


def m_step(stats: Stats, params: Params, prior: Prior, spec: Spec) -> Params:
    """Return the parameters after one exact update of both tables.

    (10)  P_xz = c(x, z) / c(x),  Q_zx' = c(z, x') / c(z), with alpha - 1 and beta - 1 added to the counts (8)
    (11)  a = alpha + c(x, z),  b = beta + c(z, x')

    A class without counts keeps its row. A context without counts has the share of each class, c(z) / N: with (10) it
    predicts sum_z c(z)/N c(z, x')/c(z) = c(x')/N, the unigram. Neither row matters to the likelihood.
    """
    if params.theta is None:
        xp = namespace(stats.contexts)
        return Params(
            phi=Phi(
                class_log_concentration=xp.log(prior.class_concentration + stats.contexts),
                word_log_concentration=xp.log(prior.word_concentration + stats.words.T),
            )
        )
    class_count, word_count = _counts(stats, prior)
    fallback = log_shares(stats.contexts.sum(0)[None], 0.0)
    return Params(
        theta=Theta(log_shares(class_count, fallback), log_shares(word_count, params.theta.word_logits)), phi=Phi()
    )


def mle(given: Params | None, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the maximum of the likelihood of complete data: (10) of the counts themselves.

    Raises
    ------
    UserError: the classes are not known.
    """
    if data.state is None:
        raise UserError("mle needs data.state, the class of every bigram: without it take em, map, cavi or svi")
    size = count_words(data)
    even = Theta(np.zeros((size + 1, spec.num_classes)), np.zeros((spec.num_classes, size)))
    params = Params(theta=even, phi=Phi())
    return m_step(e_step(params, data, prior, spec), params, prior, spec)


# --- local variables and densities ----------------------------------------------------------------------------------


def local_optimum(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the params with q(class) at its optimum (2) written out: log responsibilities, (rows, classes)."""
    return params._replace(phi=params.phi._replace(state_logits=_log_responsibilities(tables(params), data)))


def _log_responsibilities(of: Tables, data: Data) -> Float[Array, "rows classes"]:
    joint = of.log_class[data.context] + of.log_word[data.word]
    return special(joint).log_softmax(joint, axis=1)


def local_gradient(params: Params, data: Data, prior: Prior, spec: Spec) -> Params:
    """Return the gradient by the free logits of q(class).

    Of complete data it is zero: the class is known, and q(class) of no account.
    """
    by_row = logits_gradient(_log_responsibilities(tables(params), data), params.phi.state_logits)
    count = data.count if data.state is None else 0.0 * data.count
    return Params(phi=Phi(state_logits=count[:, None] * by_row))


def predict(params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return q(class) of each bigram as probabilities, the most probable class, and p(word | context)."""
    check_words(data, _num_words(params))
    log_density = _log_densities(_predictive_tables(params), data._replace(state=None))
    return _predicted(np.exp(_log_responsibilities(tables(params), data)), np.exp(log_density), data)


def predict_at(draws: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec) -> dict[str, Array]:
    """Return the same under draws of the tables: the means of p(class | bigram) and of p(word | context)."""
    joint, density = 0.0, 0.0
    for class_probs, word_probs in zip(draws["class_probs"], draws["word_probs"], strict=True):
        each = _logs(class_probs, word_probs)
        joint = joint + np.exp(_log_responsibilities(each, data))
        density = density + np.exp(_log_densities(each, data._replace(state=None)))
    size = len(draws["class_probs"])
    return _predicted(joint / size, density / size, data)


def _predicted(resp: Array, density: Array, data: Data) -> dict[str, Array]:
    if data.state is not None:
        resp = np.equal(data.state[:, None], np.arange(resp.shape[1])).astype(np.float64)
    return {"responsibilities": resp, "state": resp.argmax(1), "probability": density}


def _logs(class_probs: Array, word_probs: Array) -> Tables:
    """Return the logarithms of tables that may hold zeros."""
    return Tables(logits_of(class_probs), logits_of(word_probs).T)


def _predictive_tables(params: Params) -> Tables:
    """Return the tables that predict a new token: points, or the means under q, whose product is that of the means."""
    return tables(params) if params.theta is not None else _logs(*probabilities(params))


def _log_densities(of: Tables, data: Data) -> Float[Array, "rows"]:
    """Return log p(word | context), or log p(word, class | context) of complete data."""
    if data.state is not None:
        return of.log_class[data.context, data.state] + of.log_word[data.word, data.state]
    return bigram_log_normalisers(data.context, data.word, of.log_class, np.ascontiguousarray(of.log_word))


def log_likelihood(
    latents: dict[str, Array], params: Params, data: Data, prior: Prior, spec: Spec
) -> Float[Array, "rows"]:
    """Return count * log p(word | context, tables) of each bigram at given tables, the class summed out."""
    check_words(data, np.shape(latents["word_probs"])[1])
    return weighted(data.count, _log_densities(_logs(latents["class_probs"], latents["word_probs"]), data))


def log_predictive(params: Params, data: Data, prior: Prior, spec: Spec) -> Float[Array, "rows"]:
    """Return count * log E_q p(word | context) of each bigram: every token is predicted by itself, given the fit.

    The tables are independent under q, so that this is exact for a token: (12) sum_z E p(z | x) E p(x' | z). A point
    that maximum likelihood has put to zero counts as FLOOR, so that texts can be ranked; `metrics` says of how many.
    """
    check_words(data, _num_words(params))
    return weighted(data.count, _log_densities(_predictive_tables(params), data))


def _num_words(params: Params) -> int:
    table = params.phi.word_log_concentration if params.theta is None else params.theta.word_logits
    return int(np.shape(table)[1])


# --- what one looks at ------------------------------------------------------------------------------------------------


def metrics(log_density: float, params: Params, data: Data, spec: Spec) -> dict[str, float]:
    """Return the number of tokens, the perplexity, and the share of tokens that are out of vocabulary.

    A text with tokens of probability zero has an infinite perplexity; `impossible_tokens` then says how many.
    """
    tokens = num_tokens(data)
    found = {"tokens": tokens, "perplexity": perplexity(log_density, data)}
    if data.vocabulary is not None:
        found["out_of_vocabulary_rate"] = float(data.count[np.asarray(data.word) == 0].sum() / tokens)
    if params.theta is not None:
        impossible = _log_densities(tables(params), data) < np.log(IMPOSSIBLE)
        if (number := float(data.count[impossible].sum())) > 0.0:
            found |= {"perplexity": np.inf, "impossible_tokens": number}
    return found


def baselines(params: Params, fitted: Data, data: Data, validation: Data | None, spec: Spec) -> dict[str, float]:
    """Return the perplexities of the two ends: the unigram, and the smoothed bigram.

    With validation data also that of the classes interpolated with the unigram, and the weight that suits those best.
    """
    found = {
        "unigram_perplexity": unigram(fitted).perplexity(data),
        "smoothed_bigram_perplexity": smoothed_bigram(fitted).perplexity(data),
    }
    if validation is None:
        return found
    weight = interpolation_weight(params, fitted, validation)
    mixed = interpolated(params, fitted, weight)
    log_density = log_predictive(mixed, data, Prior(), spec).sum()
    better = metrics(float(log_density), mixed, data, spec)["perplexity"]
    return found | {"interpolated_perplexity": better, "interpolation_weight": weight}


def describe(params: Params, data: Data | None, spec: Spec) -> str:
    """Return a table of the classes: the share of the tokens that each has, and its most probable words."""
    rows = [
        (str(each.number), "" if each.share is None else f"{100.0 * each.share:.1f} %", " ".join(each.words))
        for each in top_words(params, data)
    ]
    header = ("class", "" if rows[0][1] == "" else "share", "most probable words, the first the most")
    first, second = (max(len(row[column]) for row in (header, *rows)) for column in (0, 1))
    return "\n".join(f"{a:>{first}}  {b:>{second}}  {c}".rstrip() for a, b, c in (header, *rows))
