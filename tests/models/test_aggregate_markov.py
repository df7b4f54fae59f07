"""The classes between words in use: text in and out, hard data, mistakes, both libraries, what is made of a fit."""

import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import pyro
import pytest

import latentzoo as lz
from latentzoo.inference import language, pictures
from latentzoo.inference.closed_form import aggregate_markov as closed_form
from latentzoo.models.aggregate_markov import Spec, default_data, options_like, vocabulary_of
from latentzoo.models.language.contract import Params, leaves, take_rows
from latentzoo.models.language.ppl import LIBRARIES
from latentzoo.models.readers.text import pack, read_text

NURSERY = """the cat sat on the mat
the dog sat on the log
a cat saw the dog
the dog saw a cat on a mat
"""
METHODS = ("em", "map", "cavi")


def entry(num_classes: int = 3) -> Any:
    return lz.get("aggregate_markov", num_classes=num_classes)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "nursery.txt"
    path.write_text(NURSERY, encoding="utf-8")
    return path


def table(zoo: Any, size: int = 5, num_rows: int = 200, seed: int = 0) -> Any:
    """Words in a ring, with slips: each mostly follows the one before."""
    rng = np.random.default_rng(seed)
    context = rng.integers(size + 1, size=num_rows)
    word = (context + np.where(rng.random(num_rows) < 0.8, 1, rng.integers(size, size=num_rows))) % size
    return zoo.Data(context, word, np.ones(num_rows), vocabulary=pack([f"w{index}" for index in range(size)]))


def elbo(zoo: Any, data: Any, prior: Any, params: Params) -> float:
    return float(closed_form.elbo(closed_form.e_step(params, data, prior, zoo.spec), params, prior, zoo.spec))


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_text_is_its_bigrams(text: Path) -> None:
    zoo = entry()
    data = zoo.read(text)
    words = [*vocabulary_of(data), "*"]
    found = {(words[x], words[y]): n for x, y, n in zip(data.context, data.word, data.count, strict=True)}
    assert words[0] == "<unk>"
    assert found["*", "the"] == 3.0
    assert found["the", "dog"] == 3.0
    assert found["log", "</s>"] == 1.0
    lines = [line.split() for line in NURSERY.splitlines()]
    assert sum(found.values()) == sum(len(line) + 1 for line in lines)


def test_the_unknown_word_is_the_first(text: Path, tmp_path: Path) -> None:
    """Wherever a vocabulary that was given has it; the bigrams stay the same."""
    zoo = entry()
    (tmp_path / "words").write_text("cat\nUNK\nthe\n</s>\n", encoding="utf-8")
    expected = read_text(text, vocabulary=["cat", "UNK", "the", "</s>"], unknown="UNK")
    for vocabulary in (["cat", "UNK", "the", "</s>"], tmp_path / "words"):
        data = zoo.read(text, vocabulary=vocabulary, unknown="UNK")
        words = vocabulary_of(data)
        assert words == ("UNK", "cat", "the", "</s>")
        found = {(*map((*words, "*").__getitem__, pair), n) for *pair, n in zip(*data[:3], strict=True)}
        names = (*expected.words, "*")
        columns = expected.context, expected.word, expected.count
        assert found == {(names[x], names[y], n) for x, y, n in zip(*columns, strict=True)}
        assert list(zip(data.context, data.word, strict=True)) == sorted(zip(data.context, data.word, strict=True))
        assert data.count[data.word == 0].sum() > 5.0


@pytest.mark.parametrize(
    "options",
    [{}, {"lowercase": True}, {"unknown": "UNK"}, {"predict_end": False}, {"min_count": 2}],
    ids=str,
)
def test_another_text_is_read_like_the_first(options: dict[str, Any], text: Path, tmp_path: Path) -> None:
    zoo = entry()
    text.write_text(NURSERY.replace("the", "The"), encoding="utf-8")
    data = zoo.read(text, **options)
    (tmp_path / "other").write_text("A zebra sat on The mat\n", encoding="utf-8")
    other = zoo.read(tmp_path / "other", like=data)
    assert (other.vocabulary == data.vocabulary).all()
    assert other.count.sum() == (6.0 if options.get("predict_end") is False else 7.0)
    unknown = other.count[other.word == 0].sum()
    assert unknown == (1.0 if options.get("lowercase") else 2.0)  # "zebra", and "A" where it is another word than "a"
    again = zoo.read(text, like=data, **options)
    assert all((leaf == leaves(again)[name]).all() for name, leaf in leaves(data).items())
    assert options_like(zoo.Data()) == {}


def test_what_is_written_is_read_back_with_the_same_counts(tmp_path: Path) -> None:
    zoo = entry()
    data, truth = zoo.simulate(seed=2, num_rows=300)
    assert truth["token_class"].shape == (300,)
    path = tmp_path / "walk.txt"
    zoo.write(data, path)
    back = zoo.read(path, like=data)
    walked = np.zeros((9, 8))
    np.add.at(walked, (data.context, data.word), data.count)
    counts = np.zeros((9, 8))
    counts[back.context, back.word] = back.count
    np.testing.assert_array_equal(counts, walked)
    assert (back.vocabulary == data.vocabulary).all()
    # Without a vocabulary, words are called the same.
    zoo.write(data._replace(vocabulary=None), path)
    assert path.read_text(encoding="utf-8").split()[0] in vocabulary_of(data)


def test_the_default_data_are_english() -> None:
    zoo = entry()
    reading = default_data(Spec(), lowercase=True, min_count=2)
    words = vocabulary_of(zoo.check(reading.data))
    assert reading.num_left_out == 0
    assert reading.summary.startswith("pydoc_data.topics: ")
    assert {"the", "of", "class", ".", "<unk>", "</s>"} <= set(words)
    assert 500 < len(words) < 10_000
    assert not any(word != word.lower() for word in words)


# --- hard data --------------------------------------------------------------------------------------------------------

CYCLE = np.arange(6)
# Name: contexts, words, counts, number of classes.
HARD: dict[str, tuple[Any, Any, Any, int]] = {
    "two words": ([2, 0], [0, 1], [1.0, 1.0], 2),
    "one row": ([2], [1], [3.0], 3),
    "more classes than contexts": ([0, 1, 2, 0], [1, 0, 0, 0], [1.0, 2.0, 3.0, 1.0], 9),
    "a deterministic text": (CYCLE, (CYCLE + 1) % 6, np.full(6, 5.0), 6),
    "a deterministic text, too few classes": (CYCLE, (CYCLE + 1) % 6, np.full(6, 5.0), 2),
    "counts of 1e9": ([0, 1, 2, 2], [1, 0, 0, 1], [1e9, 1.0, 1e9, 3.0], 2),
    "counts of 0": ([0, 1, 2, 2, 3], [1, 0, 0, 1, 2], [0.0, 4.0, 1.0, 0.0, 2.0], 2),
    "the same row again": ([0] * 9 + [1], [1] * 9 + [0], [1.0] * 10, 3),
    "words that never come": ([0, 500], [1, 0], [2.0, 2.0], 3),
    "one class": ([0, 1, 2, 2], [1, 0, 0, 1], [1.0, 1.0, 4.0, 1.0], 1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", HARD)
def test_hard_data_have_finite_fits(method: str, case: str) -> None:
    *columns, num_classes = HARD[case]
    zoo = entry(num_classes)
    data = zoo.Data(*(np.asarray(column) for column in columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lz.Note)  # a slow case may stop at num_steps; any other warning is an error
        fit = lz.fit(zoo, data, method, tol=0.0, num_steps=2000, progress=False)
    assert np.isfinite(fit.elbo_trace).all()
    for name, leaf in leaves(fit.params).items():
        assert np.isfinite(leaf).all(), name
    np.testing.assert_allclose(fit.predict()["responsibilities"].sum(1), 1.0, rtol=0, atol=1e-12)
    found = fit.evaluate()
    assert np.isfinite(list(found.values())).all()
    assert found["perplexity"] >= 1.0 - 1e-12
    assert fit.describe()


def test_an_empty_class_keeps_its_words() -> None:
    """One that no context can come to; Bayes gives it its prior, and so does MAP."""
    zoo = entry(3)
    data = table(zoo)
    start = zoo.init(data)
    logits = np.where(np.arange(3) == 1, -1e4, start.theta.class_logits)
    start = start._replace(theta=start.theta._replace(class_logits=logits))
    fit = lz.fit(zoo, data, "em", init=start, progress=False)
    np.testing.assert_array_equal(fit.params.theta.word_logits[1], start.theta.word_logits[1])
    assert language.probabilities(fit.params).class_probs[:, 1].max() < 1e-200
    prior = zoo.prior(data)
    stats = closed_form.e_step(start, data, prior, zoo.spec)
    moved = closed_form.m_step(stats, start, prior, zoo.spec)
    np.testing.assert_allclose(language.probabilities(moved).word_probs[1], 0.2, rtol=1e-12)
    flat = prior._replace(word_concentration=np.ones((3, 5)))
    moved = closed_form.m_step(stats, start, flat, zoo.spec)
    np.testing.assert_array_equal(moved.theta.word_logits[1], start.theta.word_logits[1])


# --- mistakes ---------------------------------------------------------------------------------------------------------


def mistaken(zoo: Any, **changes: Any) -> Any:
    return table(zoo)._replace(**{name: np.asarray(value) for name, value in changes.items()})


def changed(column: str, row: int, value: float) -> Callable[[Any], Any]:
    def change(zoo: Any) -> Any:
        data = table(zoo)
        array = np.array(getattr(data, column), dtype=float)
        array[row] = value
        return data._replace(**{column: array})

    return change


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed("word", 7, 5), r"data\.word\[7\] is 5: it must be at most 4, the last of the 5 words"),
        (changed("context", 3, 6), r"data\.context\[3\] is 6: it must be at most 5, the start of a line"),
        (changed("word", 2, -1), r"data\.word\[2\] is -1: it must be a whole number"),
        (changed("word", 2, 0.5), r"data\.word must hold whole numbers"),
        (changed("count", 4, -2), r"data\.count\[4\] is -2"),
        (changed("count", 4, 0.5), r"data\.count\[4\] is 0\.5"),
        (lambda zoo: mistaken(zoo, count=np.zeros(200)), r"data\.count is 0 in every row"),
        (lambda zoo: mistaken(zoo, state=np.full(200, 3)), r"data\.state\[0\] is 3: it must be at most 2"),
        (lambda zoo: mistaken(zoo, state=np.full(200, -1)), r"data\.state\[0\] is -1"),
        (lambda zoo: mistaken(zoo, state=np.zeros(3)), r"data\.state has shape \(3,\)"),
        (lambda zoo: table(zoo)._replace(count=None), r"data\.count is missing"),
        (lambda zoo: zoo.Data([0, 1], [0, 0], [1, 1]), "data have 1 word: classes need a text of at least two"),
    ],
)
def test_a_mistake_in_the_data_is_one_line(make: Callable[[Any], Any], message: str) -> None:
    zoo = entry()
    with pytest.raises(lz.UserError, match=message) as raised:
        lz.fit(zoo, make(zoo), progress=False)
    assert "\n" not in str(raised.value)


def fitted_and_longer(zoo: Any) -> tuple[Any, Any]:
    fit = lz.fit(zoo, table(zoo), "map", progress=False)
    return fit, table(zoo, size=7)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda zoo: entry(0), "num_classes is 0"),
        (
            lambda zoo: lz.fit(zoo, table(zoo), "mle", progress=False),
            r"mle needs data\.state.*take em, map, cavi or svi",
        ),
        (
            lambda zoo: lz.fit(
                zoo, table(zoo), "map", prior=zoo.prior(table(zoo), word_concentration=np.full((3, 5), 0.5))
            ),
            r"prior\.word_concentration\[0, 0\] is 0\.5: map needs concentrations of 1 or more",
        ),
        (
            lambda zoo: zoo.prior(table(zoo), class_concentration=np.ones((3, 3))),
            r"class_concentration has shape \(3, 3\)",
        ),
        (
            lambda zoo: (lambda fit, longer: fit.evaluate(longer))(*fitted_and_longer(zoo)),
            "data.vocabulary is not that of the fit: read them with zoo.read",
        ),
        (
            lambda zoo: (lambda fit, longer: fit.predict(longer))(*fitted_and_longer(zoo)),
            "data.vocabulary is not that of the fit",
        ),
        (
            lambda zoo: lz.fit(zoo, table(zoo), validation=table(zoo, size=7), progress=False),
            "data.vocabulary is not that of the fit",
        ),
        (
            lambda zoo: language.interpolated(zoo.init(table(zoo)), table(zoo), 1.5),
            "weight is 1.5: it must be from 0 to 1",
        ),
        (lambda zoo: zoo.read("x", like=None, vocabulary=zoo.Data()), r"data\.vocabulary is missing"),
        (
            lambda zoo: vocabulary_of(table(zoo)._replace(vocabulary=np.array([255, 254]))),
            r"data\.vocabulary is no text in UTF-8",
        ),
        (lambda zoo: zoo.write(table(zoo), "x"), "rows can be written where they follow one another"),
    ],
)
def test_another_mistake_is_one_line(act: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(lz.UserError, match=message) as raised:
        act(entry())
    assert "\n" not in str(raised.value)


def test_concentrations_below_one_are_for_bayes() -> None:
    zoo = entry()
    data = table(zoo)
    prior = zoo.prior(data, word_concentration=np.full((3, 5), 0.5), class_concentration=np.full((6, 3), 0.2))
    for method in ("em", "cavi"):
        assert np.isfinite(lz.fit(zoo, data, method, prior=prior, progress=False).elbo)


# --- what a fit says --------------------------------------------------------------------------------------------------


def test_perplexity_and_what_is_told_beside_it(text: Path) -> None:
    zoo = entry()
    data = zoo.read(text, min_count=2)
    for method in METHODS:
        fit = lz.fit(zoo, data, method, progress=False)
        found = fit.evaluate()
        assert found["tokens"] == data.count.sum()
        assert found["perplexity"] == pytest.approx(np.exp(-found["log_density"] / found["tokens"]))
        # "log", once, is out of vocabulary.
        assert found["out_of_vocabulary_rate"] == pytest.approx(1.0 / found["tokens"])
        assert "impossible_tokens" not in found
        assert found["log_density_error"] == 0.0


def test_an_infinite_perplexity_says_why(text: Path, tmp_path: Path) -> None:
    """Maximum likelihood has no place for what it has not seen; priors have."""
    zoo = entry()
    data = zoo.read(text)
    (tmp_path / "other").write_text("the zebra sat\nthe cat sat\n", encoding="utf-8")
    other = zoo.read(tmp_path / "other", like=data)
    found = lz.fit(zoo, data, "em", progress=False).evaluate(other)
    assert found["perplexity"] == np.inf
    assert found["impossible_tokens"] >= 1.0
    assert np.isfinite(found["log_density"])
    for method in ("map", "cavi"):
        found = lz.fit(zoo, data, method, progress=False).evaluate(other)
        assert found["perplexity"] < 1000.0
        assert "impossible_tokens" not in found


def test_data_without_a_vocabulary(text: Path) -> None:
    """They have as many words as their indices need, where the largest context may be the start of a line."""
    zoo = entry()
    named = zoo.read(text)
    data = named._replace(vocabulary=None)
    one, other = (lz.fit(zoo, each, "cavi", progress=False) for each in (named, data))
    assert one.elbo == other.elbo
    assert "out_of_vocabulary_rate" not in other.evaluate()
    assert "dog" in one.describe().split()
    assert "dog" not in other.describe().split()
    assert other.evaluate(take_rows(data, slice(0, 1)))["tokens"] == data.count[0]


def test_the_fit_stops_where_held_out_text_is_predicted_best(data_folder: Path, tmp_path: Path) -> None:
    lines = (data_folder / "tinyshakespeare.txt").read_text(encoding="utf-8").splitlines()
    train, held_out = tmp_path / "train", tmp_path / "held_out"
    train.write_text("\n".join(lines[:3000]), encoding="utf-8")
    held_out.write_text("\n".join(lines[3000:4000]), encoding="utf-8")
    zoo = entry(8)
    data = zoo.read(train, min_count=2)
    other = zoo.read(held_out, like=data)
    early = lz.fit(zoo, data, "em", validation=other, progress=False)
    late = lz.fit(zoo, data, "em", progress=False)
    assert early.num_steps < late.num_steps
    assert "held-out" in early.reason
    assert early.evaluate(other)["perplexity"] < late.evaluate(other)["perplexity"]
    # The two ends, and what lies between: classes know more than the unigram; interpolation helps what is over-fitted.
    held = {
        "unigram": language.unigram(data).perplexity(other),
        "class": early.evaluate(other)["perplexity"],
        "map": lz.fit(zoo, data, "map", validation=other, progress=False).evaluate(other)["perplexity"],
    }
    assert held["map"] < held["class"] < held["unigram"]


def test_the_table_of_the_classes(text: Path) -> None:
    zoo = entry(2)
    data = zoo.read(text)
    # Class 0 knows two words, class 1 the rest.
    words = vocabulary_of(data)
    word_probs = np.full((2, len(words)), 1e-300)
    word_probs[0, [words.index("cat"), words.index("dog")]] = [0.25, 0.75]
    word_probs[1, words.index("the")] = 1.0
    class_probs = np.full((len(words) + 1, 2), [0.1, 0.9])
    params = Params(zoo.Theta(np.log(class_probs), np.log(word_probs)), zoo.Phi())
    found = language.top_words(params, data, 5)
    assert [each.number for each in found] == [1, 0]
    assert [each.words for each in found] == [("the",), ("dog", "cat")]
    assert [each.share for each in found] == pytest.approx([0.9, 0.1])
    assert found[1].probs == pytest.approx((0.75, 0.25))
    shown = closed_form.describe(params, data, zoo.spec).splitlines()
    assert [line.split() for line in shown[1:]] == [["1", "90.0", "%", "the"], ["0", "10.0", "%", "dog", "cat"]]
    bare = closed_form.describe(params, None, zoo.spec).splitlines()
    assert [line.split() for line in bare[1:]] == [
        ["0", str(words.index("dog")), str(words.index("cat"))],
        ["1", str(words.index("the"))],
    ]


def test_a_fit_is_saved_with_its_words(text: Path, tmp_path: Path) -> None:
    zoo = entry()
    fit = lz.fit(zoo, zoo.read(text), "map", progress=False)
    fit.save(tmp_path / "fit.npz")
    loaded = lz.load(tmp_path / "fit.npz")
    assert "dog" in loaded.describe().split()
    other = zoo.read(text, like=loaded.like)
    assert loaded.evaluate(other) == pytest.approx(fit.evaluate())


def test_prediction_by_draws_is_that_of_the_tables() -> None:
    zoo = entry()
    data = table(zoo)
    fit = lz.fit(zoo, data, "map", progress=False)
    tables = language.probabilities(fit.params)._asdict()
    draws = {site: value[None] for site, value in tables.items()}
    by_draws = closed_form.predict_at(draws, fit.params, data, fit.prior, zoo.spec)
    for name, value in fit.predict().items():
        np.testing.assert_allclose(by_draws[name], value, rtol=1e-12)
    for site, value in fit.posterior(2).items():
        np.testing.assert_allclose(value, np.stack([tables[site]] * 2), rtol=1e-12)
    assert fit.diagnostics() == {}
    bayes = lz.fit(zoo, data, "cavi", progress=False)
    by_draws = closed_form.predict_at(bayes.posterior(4000), bayes.params, data, bayes.prior, zoo.spec)
    np.testing.assert_allclose(by_draws["probability"], bayes.predict()["probability"], atol=0.01)


# --- the two ends -----------------------------------------------------------------------------------------------------


def everything(data: Any, size: int) -> list[Any]:
    """For each context, the start of a line and ones that never were included, every word once."""
    return [
        data._replace(context=np.full(size, context), word=np.arange(size), count=np.ones(size))
        for context in range(size + 1)
    ]


def each_density(model: Any, data: Any) -> np.ndarray:
    return np.array([model.log_density(take_rows(data, slice(row, row + 1))) for row in range(len(data.word))])


def test_the_smoothed_bigram_is_a_distribution_of_words_after_every_context(text: Path) -> None:
    zoo = entry()
    data = zoo.read(text)
    size = len(vocabulary_of(data))
    bigram = language.smoothed_bigram(data)
    for context in everything(data, size):
        probs = np.exp(each_density(bigram, context))
        assert probs.sum() == pytest.approx(1.0, rel=1e-12)
        assert (probs > 0.0).all()
    # Witten and Bell by hand, of "the dog": 3 of 6, 4 kinds after "the", 13 words of which 11 are known.
    words = vocabulary_of(data)
    count, kinds, tokens = 3.0, len({"cat", "mat", "dog", "log"}), data.count.sum()
    known = len(set(NURSERY.split())) + 1  # and the end of a line
    unigram = (4.0 - 1.0 + known / len(words)) / (tokens + known)
    row = data._replace(context=np.array([words.index("the")]), word=np.array([words.index("dog")]), count=np.ones(1))
    total = data.count[data.context == words.index("the")].sum()
    assert np.exp(bigram.log_density(row)) == pytest.approx((count + kinds * unigram) / (total + kinds), rel=1e-12)
    # Rows that say the same twice say it once.
    doubled = take_rows(data, np.repeat(np.arange(len(data.word)), 2))._replace(count=np.repeat(data.count / 2.0, 2))
    assert language.smoothed_bigram(doubled).log_density(data) == pytest.approx(bigram.log_density(data), rel=1e-12)


def test_the_unigram_is_the_share_of_each_word(text: Path) -> None:
    zoo = entry()
    data = zoo.read(text)
    unigram = language.unigram(data)
    assert np.exp(unigram.log_probs).sum() == pytest.approx(1.0)
    assert unigram.log_probs[0] == -np.inf  # no word was unknown
    assert unigram.perplexity(data) < len(vocabulary_of(data))
    assert unigram.perplexity(everything(data, len(vocabulary_of(data)))[0]) == np.inf


def test_the_weight_of_the_interpolation_is_the_best() -> None:
    zoo = entry(4)
    data, held_out = table(zoo, num_rows=40), table(zoo, num_rows=60, seed=1)
    fit = lz.fit(zoo, data, "em", progress=False)
    weight = language.interpolation_weight(fit.params, data, held_out)
    assert 0.05 < weight < 0.95

    def density(w: float) -> float:
        params = language.interpolated(fit.params, data, w)
        return float(closed_form.log_predictive(params, held_out, fit.prior, zoo.spec).sum())

    grid = np.linspace(0.0, 1.0, 101)
    densities = np.array([density(w) for w in grid])
    assert abs(grid[densities.argmax()] - weight) < 0.01
    assert density(weight) >= densities.max() - 1e-12 * abs(densities.max())
    assert density(weight) > density(0.0) + 1.0
    assert (np.diff(densities, 2) < 1e-9).all()  # concave
    # The fitted text itself wants no interpolation; a text in random order wants nothing else.
    assert language.interpolation_weight(fit.params, data, data) < 0.05
    rng = np.random.default_rng(0)
    shuffled = data._replace(
        context=rng.permutation(np.repeat(data.context, 50)), word=np.repeat(data.word, 50), count=np.ones(2000)
    )
    assert language.interpolation_weight(fit.params, data, shuffled) > 0.9


def test_the_interpolation_of_a_posterior_is_that_of_its_means() -> None:
    zoo = entry()
    data = table(zoo)
    fit = lz.fit(zoo, data, "cavi", progress=False)
    params = language.interpolated(fit.params, data, 0.0)
    found = closed_form.predict(params, data, fit.prior, zoo.spec)["probability"]
    np.testing.assert_allclose(found, fit.predict()["probability"], rtol=1e-12)
    assert zoo.check_params(params).phi.state_logits is None


# --- Pyro and NumPyro -------------------------------------------------------------------------------------------------


def test_complete_data_in_both_libraries() -> None:
    """With the class of each row known: the log likelihood with its prior, and the ELBO, to 1e-10."""
    zoo = entry()
    data = table(zoo, num_rows=12)
    data = data._replace(state=np.arange(12) % 3)
    for method in ("map", "cavi"):
        fit = lz.fit(zoo, data, method, num_steps=3, progress=False)
        report = lz.verify(fit)
        assert report.ok, str(report)
        assert not any("z-test" in row.way for row in report.rows)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_walk_is_the_model(library: str) -> None:
    """Words follow one another, the first one the start; their frequencies are those of the tables (5 sd)."""
    zoo = entry(2)
    prior = zoo.prior()
    rng = np.random.default_rng(0)
    class_probs, word_probs = rng.dirichlet([1.0, 1.0], 4), rng.dirichlet(np.ones(3), 2)
    params = Params(zoo.Theta(np.log(class_probs), np.log(word_probs)), zoo.Phi())
    num_rows = 20_000 if library == "numpyro" else 1000
    data, truth = zoo.simulate(
        seed=1,
        num_rows=num_rows,
        prior=prior._replace(class_concentration=None, word_concentration=None),
        params=params,
        library=library,
    )
    assert data.context[0] == 3
    np.testing.assert_array_equal(data.context[1:], data.word[:-1])
    np.testing.assert_allclose(truth["class_probs"], class_probs, rtol=1e-6)
    for x, (z, y) in itertools.product(range(3), itertools.product(range(2), range(3))):
        mine = data.context == x
        p, n = class_probs[x, z] * word_probs[z, y], mine.sum()
        found = ((truth["token_class"] == z) & (data.word == y) & mine).sum()
        assert abs(found - n * p) < 5.0 * np.sqrt(n * p * (1.0 - p)) + 1e-9


@pytest.mark.parametrize("library", LIBRARIES)
def test_prior_and_posterior_predictive(library: str) -> None:
    zoo = entry(2)
    data = table(zoo)
    prior = zoo.prior(data)
    fit = lz.fit(zoo, data, "cavi", prior=prior, progress=False)
    for arguments in ({}, {"guide": zoo.guide.on(library)}):
        given = (zoo.Data(), prior, fit.params if arguments else None)
        if library == "pyro":
            for parallel in (False, True):
                draw = pyro.infer.Predictive(zoo.model.pyro, num_samples=5, parallel=parallel, **arguments)
                assert_walks(draw(*given, num_rows=7))
        else:
            extra = {"params": {}} if arguments else {}
            draw = numpyro.infer.Predictive(zoo.model.numpyro, num_samples=5, **arguments, **extra)
            assert_walks(draw(jax.random.PRNGKey(0), *given, num_rows=7))
    with pytest.raises(lz.UserError, match="no bigrams are observed: say how many to draw, num_rows="):
        numpyro.handlers.seed(zoo.model.on("numpyro"), 0)(zoo.Data(), prior)


def assert_walks(draws: dict[str, Any]) -> None:
    shapes = {"token_class": (5, 7), "class_probs": (5, 6, 2), "word_probs": (5, 2, 5)}
    assert {"token_class"} <= set(draws) <= set(shapes)
    assert all(draws[site].shape == shapes[site] for site in draws)
    assert (np.asarray(draws["token_class"]) < 2).all()


def certificate(zoo: Any) -> tuple[Any, Any, Params]:
    """Parameters at which one draw gives the bound exactly: q(class) free, the tables at their optimum given it."""
    data = table(zoo, num_rows=15)
    prior = zoo.prior(data)
    free = closed_form.local_optimum(zoo.init(data, prior, method="cavi"), data, prior, zoo.spec)
    best = closed_form.m_step(closed_form.e_step(free, data, prior, zoo.spec), free, prior, zoo.spec)
    return data, prior, Params(phi=best.phi._replace(state_logits=free.phi.state_logits))


def test_one_draw_is_the_bound_in_pyro() -> None:
    zoo = entry()
    data, prior, params = certificate(zoo)
    for options in ({}, {"num_particles": 7}, {"num_particles": 7, "vectorize_particles": True}):
        loss = zoo.loss.pyro(**options)
        for seed in range(3):
            pyro.set_rng_seed(seed)
            found = -loss.loss(zoo.model.pyro, zoo.guide.pyro, data, prior, params)
            assert found == pytest.approx(elbo(zoo, data, prior, params), rel=1e-10), options


def test_one_draw_is_the_bound_in_numpyro() -> None:
    zoo = entry()
    data, prior, params = certificate(zoo)
    with jax.enable_x64(True):
        loss = zoo.loss.numpyro(num_particles=7)
        compiled = jax.jit(lambda key: loss.loss(key, {}, zoo.model.numpyro, zoo.guide.numpyro, data, prior, params))
        for seed in range(3):
            found = -float(compiled(jax.random.PRNGKey(seed)))
            assert found == pytest.approx(elbo(zoo, data, prior, params), rel=1e-10)


def test_svi_climbs_to_where_cavi_is() -> None:
    zoo = entry(2)
    data = table(zoo)
    prior = zoo.prior(data)
    cavi = lz.fit(zoo, data, "cavi", prior=prior, progress=False)
    start = elbo(zoo, data, prior, zoo.init(data, prior, method="svi"))
    svi = lz.fit(zoo, data, "svi", prior=prior, num_steps=2000, num_particles=4, progress=False)
    assert cavi.elbo - start > 5.0
    assert 0.0 < cavi.elbo - svi.elbo < 1.0


@pytest.mark.parametrize("library", LIBRARIES)
def test_minibatches_average_to_the_whole(library: str) -> None:
    """At one draw of the tables, the losses of disjoint minibatches, scaled by total_rows, average to the whole's."""
    zoo = entry()
    data = table(zoo, num_rows=15)
    prior = zoo.prior(data)
    params = zoo.init(data, prior, method="cavi")

    def at_one_draw(rows: slice, **options: int) -> float:
        part = take_rows(data, rows)
        if library == "pyro":
            pyro.set_rng_seed(4)
            return zoo.loss.pyro().loss(zoo.model.pyro, zoo.guide.pyro, part, prior, params, **options)
        with jax.enable_x64(True):
            loss = zoo.loss.numpyro()
            key = jax.random.PRNGKey(4)
            return float(loss.loss(key, {}, zoo.model.numpyro, zoo.guide.numpyro, part, prior, params, **options))

    whole = at_one_draw(slice(None))
    parts = [at_one_draw(slice(start, start + 5), total_rows=15) for start in (0, 5, 10)]
    assert np.ptp(parts) > 0.1
    assert np.mean(parts) == pytest.approx(whole, rel=1e-10)


NEITHER = """
import sys
import latentzoo as lz
zoo = lz.get("aggregate_markov", num_classes=2)
data = zoo.Data([2, 0, 1], [0, 1, 0], [1, 2, 2])
for method in ("em", "map", "cavi"):
    fit = lz.fit(zoo, data, method, progress=False)
    fit.predict(), fit.evaluate(), fit.describe()
print(sorted({"jax", "numpyro", "torch", "pyro", "arviz", "pandas", "matplotlib"} & set(sys.modules)))
"""


def test_the_closed_forms_load_no_library() -> None:
    found = subprocess.run([sys.executable, "-c", NEITHER], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


# --- the picture ------------------------------------------------------------------------------------------------------


def words_of(figure: Any) -> list[str]:
    return [each.get_text() for axes in figure.axes for each in axes.texts]


def test_the_picture_has_the_words_of_each_class(text: Path, tmp_path: Path) -> None:
    zoo = entry()
    text.write_text(NURSERY.replace("mat", "incomprehensibilities").replace("log", "$1"), encoding="utf-8")
    fit = lz.fit(zoo, zoo.read(text), "map", progress=False)
    found = words_of(pictures.draw(fit)["classes"])
    assert {"0", "1", "2", "dog", "incomprehe…", r"\$1"} <= set(found)
    assert sum(word.endswith(" %") for word in found) == 3
    paths = pictures.save(fit, tmp_path / "pictures")
    assert [path.name for path in paths] == ["elbo.png", "classes.png"]
    # Loaded without its text, a fit knows the words, and not how common the classes are.
    fit.save(tmp_path / "fit.npz")
    found = words_of(pictures.draw(lz.load(tmp_path / "fit.npz"))["classes"])
    assert "dog" in found
    assert not any(word.endswith(" %") for word in found)


def test_the_picture_leaves_the_smallest_classes_out() -> None:
    zoo = entry(30)
    figure = pictures.draw(lz.fit(zoo, table(zoo), "cavi", progress=False))["classes"]
    assert "the 6 smallest classes are left out" in figure.axes[0].get_title()
    assert sum(word.endswith(" %") for word in words_of(figure)) == 24
