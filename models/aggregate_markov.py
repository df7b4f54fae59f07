"""Classes between words: a class is drawn from the word before, and the next word from the class.

    class_probs[x] ~ Dirichlet(class_concentration[x])       p(z | x), or a point; x is a context
    word_probs[z]  ~ Dirichlet(word_concentration[z])        p(x' | z), or a point
    class[t]       ~ Categorical(class_probs[word[t - 1]])   z_t
    word[t]        ~ Categorical(word_probs[class[t]])       x_t; before the first of a line stands a start symbol

The class-based bigram of Saul & Pereira (1997), the aggregate Markov model. A text enters by the counts of its bigrams,
and the class is summed out: a bigram x, x' seen c times has the log likelihood c log sum_z p(z | x) p(x' | z).
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentzoo.models.language.contract import Reading, optional, positive, shared
from latentzoo.models.language.contract import count as whole
from latentzoo.models.language.errors import UserError
from latentzoo.models.language.ppl import Handle
from latentzoo.models.readers.text import END, Corpus, pack, read_text, unpack, write_lines

MAX_PLATE_NESTING = 1
ROWS = ("bigrams",)
MOST_CLASSES = 100_000
UNKNOWN = "<unk>"
EXAMPLE_WORDS = 8  # the size of the vocabulary where there are no data
CLASS_CONCENTRATION, WORD_CONCENTRATION = 1.1, 1.03  # see default_prior


@dataclass(frozen=True)
class Spec:
    """What changes the program.

    num_classes: the number of classes, m. With one the model is the unigram, with one for each context the full bigram.
    """

    num_classes: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise UserError(f"num_classes is {self.num_classes}: it must be from 1 to {MOST_CLASSES:,}")


class Data(NamedTuple):
    """The bigrams of a text, as indices into a vocabulary of V words.

    context: the word before; V is the start of a line, which is no word.
    word: the word that follows.
    count: how often it does; a bigram may be on several rows.
    state: its class, where that is known (complete data).
    vocabulary: the words as `readers.text.pack` makes them an array, that for all unknown words first. Without one, V
        is the smallest number for which the indices are right.
    """

    context: Annotated[Int[Any, "rows"], whole] = None
    word: Annotated[Int[Any, "rows"], whole] = None
    count: Annotated[Float[Any, "rows"], whole] = None
    state: Annotated[Int[Any, "rows"], whole, optional] = None
    vocabulary: Annotated[UInt8[Any, "characters"], optional, shared] = None


class Prior(NamedTuple):
    """Hyperparameters; None for point parameters without a prior.

    class_concentration: of the Dirichlet prior on p(class | context).
    word_concentration: of the Dirichlet prior on p(word | class).
    """

    class_concentration: Annotated[Float[Any, "contexts num_classes"], positive, optional] = None
    word_concentration: Annotated[Float[Any, "num_classes words"], positive, optional] = None


class Theta(NamedTuple):
    """Point parameters, real-valued: the softmax of each row is a distribution.

    class_logits: of p(class | context).
    word_logits: of p(word | class).
    """

    class_logits: Float[Any, "contexts num_classes"]
    word_logits: Float[Any, "num_classes words"]


def model(ppl: Handle, data: Data, prior: Prior, theta: Theta | None, spec: Spec) -> Data:
    """Tell how bigrams come about; where none are observed, draw one line of text, word after word."""
    dist, softmax = ppl.dist, ppl.nn.softmax

    with ppl.plate("contexts", len(prior.class_concentration if theta is None else theta.class_logits)):
        point = theta and softmax(theta.class_logits)
        class_probs = ppl.parameter("class_probs", point, dist.Dirichlet, prior.class_concentration)
    with ppl.plate("classes", spec.num_classes):
        point = theta and softmax(theta.word_logits)
        word_probs = ppl.parameter("word_probs", point, dist.Dirichlet, prior.word_concentration)

    if data.word is None and ppl.num_rows is not None:
        return _walk(ppl, class_probs, word_probs, ppl.num_rows)
    with ppl.rows("bigrams", data):
        log_joint = log_joints(ppl, data, *log_tables(ppl, theta, class_probs, word_probs))
        ppl.factor("word", data.count * ppl.nn.logsumexp(log_joint))
    return data


def log_tables(ppl: Handle, theta: Theta | None, class_probs: Any, word_probs: Any) -> tuple[Any, Any]:
    """Return the logarithms of both tables: of a point's logits, whose probabilities may be too small for floats."""
    if theta is None:
        return ppl.xp.log(class_probs), ppl.xp.log(word_probs)
    return ppl.nn.log_softmax(theta.class_logits), ppl.nn.log_softmax(theta.word_logits)


def log_joints(ppl: Handle, data: Data, log_class: Any, log_word: Any) -> Any:
    """Return log p(class | context) + log p(word | class) of each row, (..., rows, classes).

    Of complete data they are those of the one class of each row, (..., rows, 1).
    """
    if data.state is not None:
        return (log_class[..., data.context, data.state] + log_word[..., data.state, data.word])[..., None]
    return log_class[..., data.context, :] + ppl.xp.swapaxes(log_word, -1, -2)[..., data.word, :]


def _walk(ppl: Handle, class_probs: Any, word_probs: Any, num_rows: int) -> Data:
    """Draw one line of so many words, which begins after the start symbol; each word is the next one's context."""
    dist, xp, num_words = ppl.dist, ppl.xp, word_probs.shape[-1]

    def step(context: Any) -> tuple[Any, tuple[Any, Any]]:
        state = ppl.sample("class", dist.Categorical(ppl.at(class_probs, context, event_dim=1)))
        word = ppl.sample("word", dist.Categorical(ppl.at(word_probs, state, event_dim=1)))
        return word, (state, word)

    # The axis of one is where the plates were: whatever batch of particles there is stands to its left.
    columns = ppl.scan(step, ppl.array(np.array([num_words])), num_rows)
    state, word = (xp.swapaxes(column, 0, -1)[0] for column in columns)
    with ppl.rows("bigrams", Data()):
        ppl.deterministic("token_class", state)
    context = xp.where(ppl.array(np.arange(num_rows) == 0), num_words, xp.roll(word, 1, -1))
    return Data(context, word, ppl.array(np.ones(num_rows)), vocabulary=ppl.array(pack(example_words(num_words))))


def dims(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the dimensions of sites beside their plates, by name."""
    return {"class_probs": ("classes",), "word_probs": ("words",)}


# --- sizes and checks -----------------------------------------------------------------------------------------------


def count_words(data: Data) -> int:
    """Return V, the size of the vocabulary.

    Raises
    ------
    UserError: a row has an index beyond it.
    """
    word, context = np.asarray(data.word), np.asarray(data.context)
    if data.vocabulary is None:
        # Where the largest context is never a word that follows, it is taken for the start of a line.
        return int(max(word.max() + 1, context.max()))
    size = int(np.count_nonzero(np.asarray(data.vocabulary) == ord("\n"))) + 1
    _check_index("word", word, size - 1, f"the last of the {size} words of its vocabulary")
    _check_index("context", context, size, f"the start of a line, after the {size} words of its vocabulary")
    return size


def check_counts(data: Data) -> None:
    """Raise `UserError` where no bigram was seen."""
    if not np.any(np.asarray(data.count) > 0.0):
        raise UserError("data.count is 0 in every row: give a bigram that was seen")


def _check_states(data: Data, spec: Spec) -> None:
    if data.state is not None:
        words = f"the last of num_classes = {spec.num_classes} classes"
        _check_index("state", np.asarray(data.state), spec.num_classes - 1, words)


def _check_index(field: str, index: Int[np.ndarray, "rows"], most: int, words: str) -> None:
    if index.max() > most:
        row = int(np.argmax(index > most))
        raise UserError(f"data.{field}[{row}] is {index[row]}: it must be at most {most}, {words}")


def vocabulary_of(data: Data) -> tuple[str, ...]:
    """Return the words of the vocabulary.

    Raises
    ------
    UserError: there is none, or it is not an array that `pack` made.
    """
    if data.vocabulary is None:
        raise UserError("data.vocabulary is missing: read the data from text, or pack(words) makes it of words")
    array = np.asarray(data.vocabulary)
    try:
        if array.min() < 0 or array.max() > 255:
            raise ValueError
        return unpack(array)
    except ValueError as error:
        raise UserError("data.vocabulary is no text in UTF-8: pack(words) makes it of words") from error


def example_words(size: int) -> tuple[str, ...]:
    """Return so many words without a meaning, for a vocabulary that has no others."""
    return (UNKNOWN, *(f"w{index}" for index in range(1, size)))


def default_prior(data: Data | None, spec: Spec) -> Prior:
    """Return symmetric priors, for the vocabulary of the data, or for a few words where there are none.

    They are made for MAP, which adds a concentration less one to each expected count: a tenth of a token to each class
    of a context, three hundredths to each word of a class. Of the values that were measured on held-out text, 1.01 to 4
    and 1.001 to 1.1, these led to the lowest perplexity, or within 1 % of it: with 16 classes 150 on Shakespeare (9,150
    words), where EM that is stopped early has 163, and 76 on Python's help (1,703 words), where EM has 86.

    CAVI adds the whole concentration, and so smooths far more: with these it has 208 and 117. Give it 0.3 and 0.1,
    which did best for it: 157 and 84.

    Raises
    ------
    UserError: the data are no text: an index is beyond the vocabulary, no bigram was seen, or there is one word.
    """
    size = EXAMPLE_WORDS
    if data is not None and data.word is not None:
        size = count_words(data)
        if size < 2:
            raise UserError("data have 1 word: classes need a text of at least two")
        check_counts(data)
        _check_states(data, spec)
    return Prior(
        class_concentration=np.full((size + 1, spec.num_classes), CLASS_CONCENTRATION),
        word_concentration=np.full((spec.num_classes, size), WORD_CONCENTRATION),
    )


def exchangeable(prior: Prior, spec: Spec) -> str | None:
    """Return the plate whose labels mean nothing: the classes, unless the prior tells them apart."""
    tables = (prior.class_concentration, prior.word_concentration)
    told = [axis for axis, table in zip((1, 0), tables, strict=True) if table is not None and np.ptp(table, axis).any()]
    return None if told else "classes"


# --- files ----------------------------------------------------------------------------------------------------------


def read(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    spec: Spec,
    *,
    lowercase: bool = False,
    min_count: int = 1,
    unknown: str = UNKNOWN,
    vocabulary: Any = None,
    predict_end: bool = True,
) -> Reading:
    """Count the bigrams of one text file or several: plain UTF-8, a sentence a line, white space between words.

    lowercase: put words into lower case, all but `unknown`.
    min_count: words that occur less often become `unknown`.
    unknown: the word for all that is out of vocabulary; it is the first word of the vocabulary, index 0.
    vocabulary: the words to tell apart: a list, a file with a word a line, or other data, whose words these have then.
    predict_end: every line ends by predicting the word `</s>`.

    Raises
    ------
    UserError: a file cannot be read as text with two words, or an option is wrong.
    """
    words = vocabulary_of(vocabulary) if isinstance(vocabulary, Data) else vocabulary
    corpus = read_text(
        paths, lowercase=lowercase, min_count=min_count, unknown=unknown, vocabulary=words, predict_end=predict_end
    )
    return Reading(_as_data(corpus, unknown), str(corpus.report), 0)


def _as_data(corpus: Corpus, unknown: str) -> Data:
    """Return a corpus as data, whose unknown word is the first; a vocabulary that was given may have it elsewhere."""
    context, word, size = corpus.context, corpus.word, len(corpus.words)
    first = corpus.words.index(unknown)
    order = np.array([first, *range(first), *range(first + 1, size), size])
    place = np.argsort(order)
    context, word = place[context], place[word]
    rows = np.lexsort((word, context))
    vocabulary = pack([corpus.words[index] for index in order[:-1]])
    return Data(context[rows], word[rows], corpus.count[rows], vocabulary=vocabulary)


def options_like(data: Data) -> dict[str, Any]:
    """Return the reader's options with which another file is read as these data were, with the words they have.

    Whether words were put into lower case is not known: where no word has another, they are.
    """
    if data.vocabulary is None:
        return {}
    unknown, *words = vocabulary_of(data)
    lowercase = all(word == word.lower() for word in words)
    options = {"vocabulary": data, "unknown": unknown, "lowercase": lowercase, "predict_end": END in words}
    return {**options, "min_count": 1}  # the vocabulary says which words are kept


def write(data: Data, path: str | PathLike[str], spec: Spec) -> None:
    """Write a walk, rows that follow one another as words of a text do, as text; `read` gives back their counts.

    For the same indices, `read` needs the vocabulary: `read(path, spec, **options_like(data))`.
    """
    words = example_words(count_words(data)) if data.vocabulary is None else vocabulary_of(data)
    write_lines(path, data.context, data.word, data.count, words)


def default_data(spec: Spec, **options: Any) -> Reading:
    """Return the English text of Python's own help, `pydoc_data.topics`, read with these options of the reader.

    Headings, grammar and code are left out; marks that punctuate are words, others are not; a sentence is a line. The
    text differs a little between versions of Python.
    """
    from pydoc_data.topics import topics

    name = "pydoc_data.topics"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text("\n".join(_sentences("\n\n".join(topics.values()))), encoding="utf-8")
        reading = read(path, spec, **options)
    return reading._replace(summary=reading.summary.replace(str(path), name))


def _sentences(text: str) -> Iterator[str]:
    """Yield the sentences of the paragraphs that are not indented, their marks apart from their words."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.splitlines()
        if any(line.startswith((" ", "*****", "=====", "-----", "+--")) for line in lines):
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(lines)):
            yield " ".join(re.findall(r"\w+(?:['’-]\w+)*|[.,;:!?()]", sentence))
