"""The one computation behind the E step of the aggregate Markov model, the class-based bigram of Saul & Pereira (1997).

A distinct bigram r, seen count[r] times, has the likelihood s[r] = sum_z p(z | context[r]) p(word[r] | z). With tables
P of p(class | context) and Q of p(word | class), a row for each context and each word, s[r] is the product of a row of
P and a row of Q. The expected counts that the M step needs are the gradient of sum_r count[r] log s[r] with respect to
log P and log Q, and with the sparse matrix W of count / s, contexts by words, they are two products:

    contexts = P * (W Q)        words = Q * (W' P)

So neither rows x classes nor contexts x words is ever in memory. `bigram_numba` has the likelihoods and the products,
and `bigram_numpy` the same where numba is not installed, or not worth its loading; what is done with them is here. No
order of the rows is needed, but rows that are sorted by context are faster, because a row of P then stays in the cache
while it is used.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp, softmax

from latentzoo.inference.arrays import namespace, special
from latentzoo.inference.kernels import bigram_numpy
from latentzoo.inference.kernels.executors import runs_numba
from latentzoo.inference.kernels.threads import share

# Above this, what the exponentials lose below the range of floats is far below the rounding error of the likelihood.
_LOW = np.sqrt(np.finfo(np.float64).tiny)
_LOG_NUMBERS = 8  # that the logarithm of a row's likelihood needs


class BigramSums(NamedTuple):
    """What a pass over the bigrams yields; the sums of two sets of rows add up to those of their union."""

    log_normaliser: Float[Any, ""]
    """The sum over rows of count * log s."""
    contexts: Float[Any, "contexts classes"]
    """The sum of count * responsibility over the rows of each context: the gradient with respect to `log_class`."""
    words: Float[Any, "words classes"]
    """The sum of count * responsibility over the rows of each word: the gradient with respect to `log_word`."""


def bigram_sums(
    context: Int[Any, "rows"],
    word: Int[Any, "rows"],
    count: Float[Any, "rows"],
    log_class: Float[Any, "contexts classes"],
    log_word: Float[Any, "words classes"],
) -> BigramSums:
    """Return the log likelihood of the bigrams and the expected counts of (context, class) and of (word, class).

    NumPy arrays go through every core this process may use; the result does not depend, to the bit, on how many there
    are. All work is in float64, float32 tables included. Memory is O(rows + (contexts + words) classes). Arrays of any
    other namespace (jax) go through a plain expression in their own precision, which can be jitted and differentiated,
    and which does hold arrays of rows x classes.

    A bigram that no class explains has log s = -inf: the log normaliser is then -inf, unless its count is zero, and
    nothing is added to the tables. Bigrams of count zero add nothing at all.

    Parameters
    ----------
    context, word: a distinct bigram a row, as indices into the rows of `log_class` and `log_word`. Any order will do,
        sorted by context is the fastest, and a bigram on several rows counts as often as they say together.
    count: how often each was seen, zero or more.
    log_class, log_word: the logarithms of p(class | context) and of p(word | class), a row for each word; below +inf,
        -inf allowed. They need not be normalised: variational Bayes passes expected logarithms.

    Raises
    ------
    ValueError: `context`, `word` and `count` differ in length, or the tables in the number of classes.
    IndexError: a context or word has no row in its table (NumPy only: jax cannot tell while it traces).
    """
    foreign = _foreign(context, word, count, log_class, log_word)
    if foreign is not None:
        return _plain_sums(foreign, context, word, count, log_class, log_word)
    bigrams, count = _Bigrams.of(context, word, log_class, log_word), np.asarray(count, np.float64)
    _check_lengths(counts=count, words=bigrams.word)
    found, parts = bigrams.sums(count), list[float]()

    def take(rows: slice) -> None:
        logs = bigrams.log_likelihoods(rows, found.likelihood[rows])
        if (impossible := logs == -np.inf).any():
            logs[impossible & (count[rows] == 0)] = 0  # 0 * -inf would be NaN
        parts.append(np.sum(count[rows] * logs))

    bigrams.visit(take, _LOG_NUMBERS)
    weightless = np.flatnonzero(found.weight == 0)
    bigrams.add_careful(weightless[count[weightless] != 0], count, found.contexts, found.words)
    # Threads deliver the parts in any order, and fsum, which rounds but once, returns the same sum in any order.
    return BigramSums(np.float64(math.fsum(parts)), found.contexts, found.words)


def bigram_log_normalisers(
    context: Int[Any, "rows"],
    word: Int[Any, "rows"],
    log_class: Float[Any, "contexts classes"],
    log_word: Float[Any, "words classes"],
) -> Float[Any, "rows"]:
    """Return log s of each bigram, the log probability of its word given its context; -inf if no class explains it.

    Parameters, errors, memory and namespaces are those of `bigram_sums`, which sums these times the counts.
    """
    foreign = _foreign(context, word, log_class, log_word)
    if foreign is not None:
        return _plain(foreign, context, word, log_class, log_word).log_likelihood
    bigrams = _Bigrams.of(context, word, log_class, log_word)
    log_normalisers = np.empty(len(bigrams.word))

    def take(rows: slice) -> None:
        log_normalisers[rows] = bigrams.log_likelihoods(rows, bigrams.likelihoods(rows))

    bigrams.visit(take, bigrams.line_numbers)
    return log_normalisers


class _Table(NamedTuple):
    """A table of logarithms, and its exponentials, where the largest of each row is one: none can overflow."""

    logs: Float[np.ndarray, "n classes"]
    top: Float[np.ndarray, "n"]
    scaled: Float[np.ndarray, "n classes"]

    @classmethod
    def of(cls, logs: Float[Any, "n classes"]) -> "_Table":
        logs = np.ascontiguousarray(logs, np.float64)  # of any other layout, each chunk would copy the whole table
        top = logs.max(axis=1)
        top[top == -np.inf] = 0  # -inf - -inf would be NaN
        scaled = logs - top[:, None]
        return cls(logs, top, np.exp(scaled, out=scaled))


class _Bigrams(NamedTuple):
    """The rows and the tables they index, once these have been checked, and the module that has the loops."""

    context: Int[np.ndarray, "rows"]
    word: Int[np.ndarray, "rows"]
    by_context: _Table
    by_word: _Table
    loops: Any

    @classmethod
    def of(cls, context: Any, word: Any, log_class: Any, log_word: Any) -> "_Bigrams":
        context, word = np.asarray(context), np.asarray(word)
        tables: list[Any] = [log_class, log_word]

        def take_tables(todo: Iterator[int]) -> None:
            for which in todo:
                tables[which] = _Table.of(tables[which])

        share((0, 1), take_tables)
        bigrams = cls(context, word, tables[0], tables[1], _loops(len(word)))
        _check_lengths(contexts=bigrams.context, words=bigrams.word)
        if bigrams.by_context.logs.shape[1] != bigrams.by_word.logs.shape[1]:
            raise ValueError("the tables of contexts and of words differ in the number of classes")
        _check_indices("context", bigrams.context, len(bigrams.by_context.logs))
        _check_indices("word", bigrams.word, len(bigrams.by_word.logs))
        return bigrams

    @property
    def line_numbers(self) -> int:
        """How many numbers the lines of both tables have that a row names."""
        return 2 * self.by_word.logs.shape[1]

    def visit(self, take: Callable[[slice], None], numbers: int) -> None:
        """Call `take` on every chunk, a slice of the rows, from several threads, on chunks in any order.

        numbers: that `take` needs for a row, which decides how many rows a chunk has.
        """

        def take_chunks(todo: Iterator[slice]) -> None:
            for rows in todo:
                take(rows)

        share(bigram_numpy.chunks(len(self.word), numbers), take_chunks)

    def likelihoods(self, rows: slice) -> Float[np.ndarray, "some"]:
        """Return the likelihoods of some rows under the scaled tables."""
        return self.loops.likelihoods(self.context[rows], self.word[rows], self.by_context.scaled, self.by_word.scaled)

    def sums(self, count: Float[np.ndarray, "rows"]) -> bigram_numpy.Sums:
        """Return the likelihoods under the scaled tables, and both tables of expected counts, whose scales cancel.

        A row whose likelihood is too small to be exact has weight zero: its share must be added with care.
        """
        tables = self.by_context.scaled, self.by_word.scaled
        return self.loops.sums(self.context, self.word, count, *tables, _LOW)

    def log_likelihoods(self, rows: slice, likelihood: Float[np.ndarray, "some"]) -> Float[np.ndarray, "some"]:
        """Return the log likelihoods of some rows under the tables themselves, given those under the scaled ones."""
        some = self._replace(context=self.context[rows], word=self.word[rows])
        found = np.log(np.maximum(likelihood, _LOW))
        found += self.by_context.top.take(some.context)
        found += self.by_word.top.take(some.word)
        for low in some._few_at_once(np.flatnonzero(likelihood < _LOW)):
            found[low] = logsumexp(some._logits(low), axis=1)
        return found

    def add_careful(self, rows: Int[np.ndarray, "some"], count: Any, contexts: Any, words: Any) -> None:
        """Add to both tables, in place, the expected counts of rows whose likelihoods are too small for `products`."""
        for some in self._few_at_once(rows):
            logits = self._logits(some)
            possible = logits.max(axis=1) != -np.inf
            expected = count[some[possible], None] * softmax(logits[possible], axis=1)
            np.add.at(contexts, self.context[some[possible]], expected)
            np.add.at(words, self.word[some[possible]], expected)

    def _logits(self, rows: Int[np.ndarray, "some"]) -> Float[np.ndarray, "some classes"]:
        return self.by_context.logs[self.context[rows]] + self.by_word.logs[self.word[rows]]

    def _few_at_once(self, rows: Int[np.ndarray, "some"]) -> Iterator[Int[np.ndarray, "few"]]:
        """Yield the rows, as many at a time as their lines may take memory."""
        return (rows[part] for part in bigram_numpy.chunks(len(rows), self.line_numbers))


def _loops(num_rows: int) -> Any:
    """Return the module that has the loops over so many rows."""
    if runs_numba(num_rows):
        from latentzoo.inference.kernels import bigram_numba

        return bigram_numba
    return bigram_numpy


def _check_lengths(**arrays: np.ndarray) -> None:
    if len({array.shape for array in arrays.values()}) > 1:
        raise ValueError(f"the rows differ in shape: {', '.join(f'{name} {a.shape}' for name, a in arrays.items())}")


def _check_indices(name: str, index: Int[np.ndarray, "rows"], length: int) -> None:
    if len(index) and not 0 <= index.min() <= index.max() < length:
        raise IndexError(f"a {name} has no row in its table of {length}")


class _Plain(NamedTuple):
    """What `_plain` yields: with log likelihoods of -inf come finite logits, so that gradients have no NaN."""

    logits: Float[Any, "rows classes"]
    log_likelihood: Float[Any, "rows"]


def _plain(xp: Any, context: Any, word: Any, log_class: Any, log_word: Any) -> _Plain:
    """Return the log likelihoods as one expression, and the logits that they normalise."""
    logits = xp.asarray(log_class)[xp.asarray(context)] + xp.asarray(log_word)[xp.asarray(word)]
    impossible = xp.all(logits == -xp.inf, axis=1)
    logits = xp.where(impossible[:, None], 0, logits)
    return _Plain(logits, xp.where(impossible, -xp.inf, special(logits).logsumexp(logits, axis=1)))


def _plain_sums(xp: Any, context: Any, word: Any, count: Any, log_class: Any, log_word: Any) -> BigramSums:
    """Return the sums as one expression in jax, where rows with the same index are added by `.at`."""
    logits, log_likelihood = _plain(xp, context, word, log_class, log_word)
    count = xp.asarray(count)
    share = xp.where(log_likelihood == -xp.inf, 0, count)
    expected = share[:, None] * xp.exp(special(logits).log_softmax(logits, axis=1))
    return BigramSums(
        xp.sum(count * xp.where(count == 0, 0, log_likelihood)),
        xp.zeros_like(log_class, dtype=expected.dtype).at[context].add(expected),
        xp.zeros_like(log_word, dtype=expected.dtype).at[word].add(expected),
    )


def _foreign(*arrays: Any) -> Any:
    """Return the namespace of the first array that is not NumPy's, or None."""
    return next((xp for xp in map(namespace, arrays) if xp is not np), None)
