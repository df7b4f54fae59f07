"""The bigram kernel against brute force in decimals, JAX's automatic gradient, and itself on other cuts of the rows."""

import math
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from latentzoo.inference.kernels import bigram_numpy, threads
from latentzoo.inference.kernels.bigram import BigramSums, bigram_log_normalisers, bigram_sums
from latentzoo.inference.kernels.executors import using


@pytest.fixture(params=["numpy", "numba"], autouse=True)
def executor(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test runs by either."""
    with using(request.param):
        yield request.param


class Problem(NamedTuple):
    context: Any
    word: Any
    count: Any
    log_class: Any
    log_word: Any

    def take(self, rows: Any) -> "Problem":
        return self._replace(context=self.context[rows], word=self.word[rows], count=self.count[rows])


def problem(rows: int, classes: int = 3, contexts: int = 5, words: int = 7) -> Problem:
    """Random rows in the order of the reader, sorted by context, and sub-normalised tables."""
    draw = np.random.default_rng([rows, classes])
    context, word = np.sort(draw.integers(contexts, size=rows)), draw.integers(words, size=rows)
    count = draw.poisson(2.0, size=rows) + 1.0
    log_class, log_word = (np.log(draw.dirichlet(np.full(classes, 0.5), size=n)) - 0.1 for n in (contexts, words))
    return Problem(context, word, count, log_class, log_word)


def oracle(data: Problem) -> BigramSums:
    """The sums in decimals, whose exponents are so wide that nothing underflows and no maximum need be subtracted."""
    log_normaliser = Decimal(0)
    contexts, words = np.zeros(data.log_class.shape), np.zeros(data.log_word.shape)
    for context, word, count in zip(data.context, data.word, map(Decimal, data.count), strict=True):
        pairs = zip(data.log_class[context].tolist(), data.log_word[word].tolist(), strict=True)
        weights = [(Decimal(one) + Decimal(other)).exp() for one, other in pairs]
        if count > 0:
            log_normaliser += count * sum(weights).ln()  # the logarithm of zero is -Infinity
        for z, weight in enumerate(weights):
            if weight > 0:
                expected = float(count * weight / sum(weights))
                contexts[context, z] += expected
                words[word, z] += expected
    return BigramSums(np.float64(log_normaliser), contexts, words)


def assert_close(found: BigramSums, wanted: BigramSums, tolerance: float = 1e-12) -> None:
    for value, target in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value, target, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("classes", [1, 3, 16, 40])
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_sums_are_those_of_brute_force(rows: int, classes: int) -> None:
    data = problem(rows, classes)
    assert_close(bigram_sums(*data), oracle(data))


@pytest.mark.parametrize("rows", [127, 128, 129, 700])
def test_the_last_chunk_may_have_any_length(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bigram_numpy, "_CHUNK_BYTES", 0)  # the shortest chunks, of 128 rows
    data = problem(rows)
    assert_close(bigram_sums(*data), oracle(data))


def test_one_row_by_hand() -> None:
    one, other = [0.2, 0.5], [0.01, 0.03]
    found = bigram_sums(np.array([0]), np.array([1]), np.array([3.0]), np.log([one]), np.log([[0.5, 0.6], other]))
    assert found.log_normaliser == pytest.approx(3 * math.log(0.2 * 0.01 + 0.5 * 0.03), rel=1e-14)
    np.testing.assert_allclose(found.contexts, [[3 * 2 / 17, 3 * 15 / 17]], rtol=1e-14)
    np.testing.assert_allclose(found.words, [[0, 0], [3 * 2 / 17, 3 * 15 / 17]], rtol=1e-14)


def test_no_rows_sum_to_zero() -> None:
    found = bigram_sums(*problem(0))
    assert found.log_normaliser == 0
    np.testing.assert_array_equal(found.contexts, np.zeros((5, 3)))
    np.testing.assert_array_equal(found.words, np.zeros((7, 3)))


def test_each_bigram_shares_out_its_count() -> None:
    data = problem(1000)
    found = bigram_sums(*data)
    np.testing.assert_allclose(found.contexts.sum(1), np.bincount(data.context, data.count), rtol=1e-13)
    np.testing.assert_allclose(found.words.sum(1), np.bincount(data.word, data.count), rtol=1e-13)


def test_log_normalisers_are_those_that_the_sums_add() -> None:
    data = problem(40)
    found = bigram_log_normalisers(data.context, data.word, data.log_class, data.log_word)
    assert found.shape == (40,)
    for r in range(40):
        alone = oracle(data.take([r]))
        np.testing.assert_allclose(found[r] * data.count[r], alone.log_normaliser, rtol=1e-13)
    np.testing.assert_allclose(found @ data.count, bigram_sums(*data).log_normaliser, rtol=1e-14)


def test_halves_add_up() -> None:
    data = problem(40_001, 5)
    halves = [bigram_sums(*data.take(half)) for half in (slice(17_000), slice(17_000, None))]
    assert_close(BigramSums(*map(sum, zip(*halves, strict=True))), bigram_sums(*data))


def test_the_order_of_the_rows_does_not_matter() -> None:
    data = problem(50)
    mixed = data.take(np.random.default_rng(0).permutation(50))
    assert np.any(np.diff(mixed.context) < 0)
    assert_close(bigram_sums(*mixed), oracle(mixed))
    assert_close(bigram_sums(*mixed), bigram_sums(*data))


def test_a_bigram_on_two_rows_counts_twice() -> None:
    data = problem(20)
    doubled = data.take(np.repeat(np.arange(20), 2))
    assert_close(bigram_sums(*doubled), bigram_sums(*data._replace(count=2 * data.count)))


def test_relabelled_classes_relabel_the_tables() -> None:
    data, order = problem(200, 20), np.random.default_rng(0).permutation(20)
    found = bigram_sums(*data._replace(log_class=data.log_class[:, order], log_word=data.log_word[:, order]))
    log_normaliser, contexts, words = bigram_sums(*data)
    assert_close(found, BigramSums(log_normaliser, contexts[:, order], words[:, order]))


@pytest.mark.parametrize("offset", [-1e6, -900.0, -400.0, 400.0, 1e6])
def test_rows_of_a_table_may_have_any_scale(offset: float) -> None:
    data = problem(30)
    data.log_word[2:4] += offset
    data.log_class[1] -= offset / 3
    assert_close(bigram_sums(*data), oracle(data), tolerance=1e-9 if abs(offset) > 1e3 else 1e-12)


@pytest.mark.parametrize("gap", [300.0, 353.0, 356.0, 450.0, 740.0, 1e4])
def test_classes_that_disagree_do_not_underflow(gap: float) -> None:
    """A context that is of one class and a word that is of another: no scale of the rows can save the product."""
    log_class, log_word = np.array([[0.0, -2 * gap], [0.0, 0.0]]), np.array([[-2 * gap, 0.5], [0.0, -1.0]])
    data = Problem(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([2.0, 1.0, 4.0]), log_class, log_word)
    assert_close(bigram_sums(*data), oracle(data))
    first = bigram_log_normalisers(data.context, data.word, log_class, log_word)[0]
    assert first == pytest.approx(-2 * gap + math.log(1 + math.exp(0.5)), rel=1e-15)


@pytest.mark.parametrize(("chunk_bytes", "classes"), [(0, 2), (2**15, 40)])
def test_many_rows_that_underflow(chunk_bytes: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second case visits more rows at once than it takes the lines of."""
    monkeypatch.setattr(bigram_numpy, "_CHUNK_BYTES", chunk_bytes)
    data = problem(400, classes)
    data.log_class[:, ::2] -= 1000
    data.log_word[:, 1::2] -= 1000
    assert_close(bigram_sums(*data), oracle(data))


def test_entries_of_probability_zero() -> None:
    data = problem(40, 4)
    data.log_class[:, 2] = data.log_class[1, 1:] = data.log_word[3, :2] = -np.inf
    found = bigram_sums(*data)
    assert_close(found, oracle(data))
    np.testing.assert_array_equal(found.contexts[data.log_class == -np.inf], 0)
    np.testing.assert_array_equal(found.words[data.log_word == -np.inf], 0)


def impossible() -> Problem:
    """Row 0 has a context without classes, row 1 two tables that exclude each other; row 2 is possible."""
    log_class, log_word = np.full((2, 2), -np.inf), np.zeros((2, 2))
    log_class[1, 0] = log_word[0, 1] = -1.0
    log_word[1, 0] = -np.inf
    return Problem(np.array([0, 1, 1]), np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0]), log_class, log_word)


def test_rows_that_no_class_explains_add_nothing_to_the_tables() -> None:
    found = bigram_sums(*impossible())
    assert found.log_normaliser == -np.inf
    np.testing.assert_array_equal(found.contexts, [[0, 0], [3, 0]])
    np.testing.assert_array_equal(found.words, [[3, 0], [0, 0]])
    assert_close(found, oracle(impossible()))


@pytest.mark.parametrize("gap", [0.0, 1000.0])
def test_rows_of_count_zero_add_nothing(gap: float) -> None:
    data = impossible()._replace(count=np.array([0.0, 0.0, 3.0]))
    assert_close(bigram_sums(*data), BigramSums(np.float64(-3), *bigram_sums(*impossible())[1:]))
    data = problem(30, 2)
    data.log_class[:, 0] -= gap
    data.log_word[:, 1] -= gap
    data.count[::3] = 0
    assert_close(bigram_sums(*data), bigram_sums(*data.take(data.count > 0)))


def test_nan_is_not_hidden() -> None:
    data = problem(10)
    data.log_class[data.context[3], 1] = np.nan
    assert np.isnan(bigram_sums(*data).log_normaliser)


def test_float32_tables_have_float64_totals() -> None:
    data = problem(1000)
    single = data._replace(log_class=data.log_class.astype(np.float32), log_word=data.log_word.astype(np.float32))
    found = bigram_sums(*single)
    assert [total.dtype for total in found] == [np.float64] * 3
    assert_close(found, bigram_sums(*single._replace(log_class=single.log_class.astype(np.float64))))
    assert_close(found, oracle(single))


def test_layouts_and_integers_of_every_kind() -> None:
    data = problem(50)
    found = bigram_sums(
        data.context.astype(np.int32)[::-1],
        data.word.astype(np.uint16)[::-1],
        data.count.astype(int)[::-1],
        np.asfortranarray(data.log_class),
        np.repeat(data.log_word, 2, axis=1)[:, ::2],
    )
    assert_close(found, bigram_sums(*data))


def test_the_same_bits_whatever_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem(60_007, 40, contexts=300, words=400)
    data.log_class[17, 1:] -= 2000
    data.log_word[23, 0] -= 2000  # together they underflow
    first = bigram_sums(*data)
    np.testing.assert_allclose(first.contexts.sum(1), np.bincount(data.context, data.count), rtol=1e-12)
    for repeat in range(10):
        monkeypatch.setattr(threads, "cores", lambda cores=1 + repeat % 5: cores)
        for value, again in zip(first, bigram_sums(*data), strict=True):
            np.testing.assert_array_equal(value, again)


@pytest.mark.parametrize("gap", [0.0, 1000.0])
def test_memory_grows_with_neither_rows_nor_words_times_classes(gap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 2)
    data = problem(200_000, 64, contexts=1000, words=1000)
    data.log_class[:, :32] -= gap
    data.log_word[:, 32:] -= gap
    tracemalloc.start()
    bigram_sums(*data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 2**20  # rows x classes alone would be 102 MB


def test_mistakes_are_told() -> None:
    data = problem(10)
    with pytest.raises(ValueError, match=r"counts \(9,\), words \(10,\)"):
        bigram_sums(*data._replace(count=data.count[1:]))
    with pytest.raises(ValueError, match=r"contexts \(9,\), words \(10,\)"):
        bigram_log_normalisers(data.context[1:], *data[1:2], *data[3:])
    with pytest.raises(ValueError, match="number of classes"):
        bigram_sums(*data._replace(log_word=data.log_word[:, 1:]))
    with pytest.raises(IndexError, match="a word has no row in its table of 7"):
        bigram_sums(*data._replace(word=data.word + 7))
    with pytest.raises(IndexError, match="a context has no row in its table of 5"):
        bigram_sums(*data._replace(context=data.context - 5))


def jax_sums_and_gradients(data: Problem) -> tuple[BigramSums, BigramSums]:
    """The sums of the jitted plain expression, and the same with the gradients of the log normaliser as tables."""
    with jax.enable_x64(True):
        *rows, log_class, log_word = map(jnp.asarray, data)
        sums = jax.jit(bigram_sums)(*rows, log_class, log_word)
        gradients = jax.grad(lambda *tables: bigram_sums(*rows, *tables).log_normaliser, (0, 1))(log_class, log_word)
        return BigramSums(*map(np.asarray, sums)), BigramSums(np.asarray(sums[0]), *map(np.asarray, gradients))


@pytest.mark.parametrize("gap", [0.0, 1000.0])
def test_jax_agrees_and_its_gradients_are_the_tables(gap: float) -> None:
    data = problem(500, 6)
    data.log_class[2:, :3] -= gap
    data.log_word[2:, 3:] -= gap
    data.log_class[1, 2] = data.log_word[3, 4] = -np.inf
    data.count[::7] = 0
    ours, (theirs, gradients) = bigram_sums(*data), jax_sums_and_gradients(data)
    assert_close(theirs, ours, tolerance=1e-10)
    assert_close(gradients, ours, tolerance=1e-10)


@pytest.mark.parametrize("count", [[1.0, 2.0, 3.0], [0.0, 0.0, 3.0]])
def test_jax_has_no_nan_where_no_class_explains_a_row(count: list[float]) -> None:
    data = impossible()._replace(count=np.array(count))
    for found in jax_sums_and_gradients(data):
        assert_close(found, bigram_sums(*data))


def test_jax_log_normalisers_agree_whichever_array_is_its() -> None:
    context, word, _, log_class, log_word = problem(50)
    ours = bigram_log_normalisers(context, word, log_class, log_word)
    with jax.enable_x64(True):
        for theirs in (
            bigram_log_normalisers(context, word, jnp.asarray(log_class), log_word),
            bigram_log_normalisers(jnp.asarray(context), word, log_class, log_word),
        ):
            assert isinstance(theirs, jax.Array)
            np.testing.assert_allclose(theirs, ours, rtol=1e-12)


def test_the_gradient_of_numpys_log_normaliser_is_its_tables() -> None:
    data, step = problem(30), 1e-5
    found = bigram_sums(*data)
    for name, wanted in (("log_class", found.contexts), ("log_word", found.words)):
        for i in np.ndindex(wanted.shape):
            ends = []
            for sign in (1, -1):
                table = getattr(data, name).copy()
                table[i] += sign * step
                ends.append(bigram_sums(*data._replace(**{name: table})).log_normaliser)
            np.testing.assert_allclose((ends[0] - ends[1]) / (2 * step), wanted[i], atol=1e-6)
