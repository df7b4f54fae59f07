"""What language models need beside a fit: perplexity, the words of each class, interpolation, and the two ends.

The two ends are the unigram, which is the class model with one class, and a smoothed bigram. All of them give the
probability of a word after the word before, or after the start of a line. Data are those of the aggregate Markov model.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import bisect

from latentzoo.inference.kernels.bigram import bigram_log_normalisers
from latentzoo.models.aggregate_markov import Data, Theta, check_counts, count_words, vocabulary_of
from latentzoo.models.language.contract import Params
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.tables import IMPOSSIBLE, logits_of


class Probabilities(NamedTuple):
    """Both tables: of points, or their means under q."""

    class_probs: Float[np.ndarray, "contexts classes"]
    word_probs: Float[np.ndarray, "classes words"]


def probabilities(params: Params) -> Probabilities:
    """Return the tables of a fit as probabilities."""
    logs = params.phi[:2] if params.theta is None else params.theta
    rows = (np.exp(table - np.max(table, -1, keepdims=True)) for table in logs)
    return Probabilities(*(table / table.sum(-1, keepdims=True) for table in rows))


def check_words(data: Data, size: int) -> None:
    """Raise `UserError` where data are not of a vocabulary of this size: their indices would mean other words."""
    found = count_words(data)
    if found > size or (data.vocabulary is not None and found != size):
        raise UserError(
            f"data have {found} words, the fit {size}: read them with vocabulary=, the data that were fitted"
        )


# --- perplexity -----------------------------------------------------------------------------------------------------


def num_tokens(data: Data) -> float:
    """Return how many words are predicted, ends of lines included: the sum of the counts.

    Raises
    ------
    UserError: there are none.
    """
    check_counts(data)
    return float(np.sum(data.count))


def perplexity(log_density: float, data: Data) -> float:
    """Return exp(-log density / tokens): the number of words among which a model of this density is in doubt."""
    return float(np.exp(-log_density / num_tokens(data)))


def weighted(count: Float[np.ndarray, "rows"], log_probs: Float[np.ndarray, "rows"]) -> Float[np.ndarray, "rows"]:
    """Return count * log p of each row; what was not seen adds nothing, be it impossible."""
    return count * np.where(count > 0.0, log_probs, 0.0)


class Unigram(NamedTuple):
    """Words without their contexts."""

    log_probs: Float[np.ndarray, "words"]

    def log_density(self, data: Data) -> float:
        """Return the log density of a text, in nats; -inf where it holds a word of probability zero."""
        return float(weighted(data.count, self.log_probs[data.word]).sum())

    def perplexity(self, data: Data) -> float:
        """Return the perplexity of a text."""
        return perplexity(self.log_density(data), data)


def unigram(data: Data) -> Unigram:
    """Return the unigram of highest likelihood, p(x') = c(x') / N: the class model with one class reaches it."""
    count = np.bincount(data.word, weights=data.count, minlength=count_words(data))
    with np.errstate(divide="ignore"):
        return Unigram(np.log(count / num_tokens(data)))


class SmoothedBigram(NamedTuple):
    """The bigram, interpolated with the smoothed unigram.

    code, seen: context * V + word of each bigram that was seen, sorted, and how often it was. total, distinct: the
    tokens after each context, and the distinct words among them. unigram: the smoothed one.
    """

    code: Int[np.ndarray, "bigrams"]
    seen: Float[np.ndarray, "bigrams"]
    total: Float[np.ndarray, "contexts"]
    distinct: Float[np.ndarray, "contexts"]
    unigram: Float[np.ndarray, "words"]

    def log_density(self, data: Data) -> float:
        """Return the log density of a text, in nats."""
        code = data.context * len(self.unigram) + data.word
        place = np.minimum(np.searchsorted(self.code, code), len(self.code) - 1)
        seen = np.where(self.code[place] == code, self.seen[place], 0.0)
        total, distinct = self.total[data.context], self.distinct[data.context]
        known = total + distinct > 0.0
        smoothed = (seen + distinct * self.unigram[data.word]) / np.where(known, total + distinct, 1.0)
        return float(weighted(data.count, np.log(np.where(known, smoothed, self.unigram[data.word]))).sum())

    def perplexity(self, data: Data) -> float:
        """Return the perplexity of a text."""
        return perplexity(self.log_density(data), data)


def smoothed_bigram(data: Data) -> SmoothedBigram:
    """Return the bigram in interpolated Witten-Bell smoothing (Chen & Goodman, 1999, 2.5), down to the uniform.

    With T(x) the number of distinct words after x, p(x' | x) = (c(x, x') + T(x) p(x')) / (c(x) + T(x)); likewise p(x')
    with the uniform distribution in its place, so that no word has probability zero. A context without counts predicts
    p(x').
    """
    size = count_words(data)
    seen = np.asarray(data.count) > 0.0
    code, place = np.unique(data.context[seen] * size + data.word[seen], return_inverse=True)
    count = np.bincount(place, weights=data.count[seen])
    context, word = code // size, code % size
    often = np.bincount(word, weights=count, minlength=size)
    kinds = np.count_nonzero(often)
    return SmoothedBigram(
        code,
        count,
        total=np.bincount(context, weights=count, minlength=size + 1),
        distinct=np.bincount(context, minlength=size + 1).astype(np.float64),
        unigram=(often + kinds / size) / (num_tokens(data) + kinds),
    )


# --- interpolation --------------------------------------------------------------------------------------------------


def class_shares(class_probs: Float[np.ndarray, "contexts classes"], data: Data) -> Float[np.ndarray, "classes"]:
    """Return p(z) = sum_x c(x) p(z | x) / N: the share of each class in a text."""
    count = np.bincount(data.context, weights=data.count, minlength=len(class_probs))
    return count @ class_probs / num_tokens(data)


def interpolated(params: Params, data: Data, weight: float) -> Params:
    """Return point parameters with p(z | x) drawn towards the share of each class: (1 - w) p(z | x) + w p(z).

    data: what was fitted. After an M step of EM, p(z) = c(z) / N and p(x' | z) = c(z, x') / c(z), so that
    sum_z p(z) p(x' | z) is the unigram: this is the class model interpolated with the unigram, to the letter. Of a
    posterior the tables are its means.

    Raises
    ------
    UserError: the weight is not from 0 to 1, or the data are of another vocabulary.
    """
    if not 0.0 <= weight <= 1.0:
        raise UserError(f"weight is {weight}: it must be from 0 to 1")
    class_probs, word_probs = probabilities(params)
    check_words(data, word_probs.shape[1])
    mixed = (1.0 - weight) * class_probs + weight * class_shares(class_probs, data)
    logits = (logits_of(table) for table in (mixed, word_probs))
    return Params(theta=Theta(*logits), phi=None if params.phi is None else type(params.phi)())


def interpolation_weight(params: Params, data: Data, validation: Data) -> float:
    """Return the weight for which `interpolated(params, data, weight)` gives the validation text the highest density.

    The density is concave in the weight: its maximum is where the slope changes its sign, or at an end.
    """
    class_probs, word_probs = probabilities(params)
    check_words(data, word_probs.shape[1])
    check_words(validation, word_probs.shape[1])
    logs = (logits_of(table) for table in (class_probs, word_probs.T))
    model = np.exp(bigram_log_normalisers(validation.context, validation.word, *logs))
    step = (class_shares(class_probs, data) @ word_probs)[validation.word] - model
    count = validation.count

    def slope(weight: float) -> float:
        return float((count * step / (model + weight * step)).sum())

    if slope(0.0) <= 0.0:
        return 0.0
    return 1.0 if slope(1.0) >= 0.0 else float(bisect(slope, 0.0, 1.0, xtol=1e-12))


# --- the words of each class ----------------------------------------------------------------------------------------


class TopWords(NamedTuple):
    """The words that a class holds most probable, the first the most.

    number: of the class. share: the part of the tokens that are of it; None where no text says.
    """

    number: int
    share: float | None
    words: tuple[str, ...]
    probs: tuple[float, ...]


def top_words(params: Params, data: Data | None, num_words: int = 10) -> list[TopWords]:
    """Return the most probable words of each class, the class with the largest share of the data first.

    Words without probability are left out; where the data have no vocabulary, words are numbers.
    """
    class_probs, word_probs = probabilities(params)
    names = tuple(map(str, range(word_probs.shape[1])))
    if data is not None and data.vocabulary is not None:
        names = vocabulary_of(data)
    shares = None if data is None or data.word is None else class_shares(class_probs, data)
    found = []
    for number, probs in enumerate(word_probs):
        best = [int(word) for word in np.argsort(-probs, kind="stable")[:num_words] if probs[word] > IMPOSSIBLE]
        share = None if shares is None else float(shares[number])
        found.append(TopWords(number, share, tuple(names[w] for w in best), tuple(float(probs[w]) for w in best)))
    return sorted(found, key=lambda each: -(each.share or 0.0))
