"""Text: how often a word follows another, counted without holding the text.

A file is plain UTF-8 with one sentence a line and white space between words; a mark of byte order is fine. Lines end
with a line feed, a carriage return, or both. Lines without a word are skipped.

A file is read once and block by block, so that a pipe will do, and memory grows with the different words and pairs of
words, not with the text.
"""

import codecs
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from latentzoo.models.language import words as words_as_array
from latentzoo.models.language.contract import check_whole
from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.language.files import atomic

END = "</s>"
BLOCK = 2**20  # bytes that are read at once
LONGEST = 2**20  # characters of a word: what is longer is no text, and would have to be held
# Stands among the tokens for the end of a line. It cannot be a word, since files with NUL bytes are refused.
_BREAK = "\0"

_Whole = Int[np.ndarray, "rows"]
_Real = Float[np.ndarray, "rows"]
_Table = tuple[_Whole, _Real]  # pairs of numbers, each coded as one, and their counts
_Rows = tuple[_Whole, _Whole, _Real]  # contexts, words and their counts


class TextReport(NamedTuple):
    """What was read; `str` gives it in one line.

    paths: the files.
    num_lines: the lines that hold a word.
    num_tokens: the words, and the ends of lines where they are predicted: the sum of the counts.
    num_unknown: those of the tokens that are out of vocabulary.
    num_words: the size of the vocabulary.
    """

    paths: tuple[Path, ...]
    num_lines: int
    num_tokens: int
    num_unknown: int
    num_words: int

    def __str__(self) -> str:
        percent = 100.0 * self.num_unknown / self.num_tokens
        sizes = f"{self.num_lines:,} lines, {self.num_tokens:,} tokens, {self.num_words:,} words"
        return f"{_listed(self.paths)}: {sizes}, {percent:.3g} % of the tokens out of vocabulary"


class Corpus(NamedTuple):
    """The bigrams of a text, each pair of words once, sorted by context and then by word.

    context: the index of the word before; `len(words)` where a line begins, which is no word.
    word: the index of the word that follows.
    count: how often it does.
    words: the vocabulary.
    """

    context: Int[np.ndarray, "rows"]
    word: Int[np.ndarray, "rows"]
    count: Float[np.ndarray, "rows"]  # type: ignore[assignment]  # the field hides the method of tuples
    words: tuple[str, ...]
    report: TextReport


def read_text(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    lowercase: bool = False,
    min_count: int = 1,
    unknown: str = "<unk>",
    vocabulary: str | PathLike[str] | Sequence[str] | None = None,
    predict_end: bool = True,
) -> Corpus:
    """Count the bigrams of one text file or several; no bigram spans two lines, and lines without a word are skipped.

    lowercase: put words into lower case, all but `unknown`.
    min_count: words that occur less often become `unknown`.
    unknown: the word for all that is out of vocabulary, always in it; the text may hold it too, and it counts as it.
    vocabulary: the words to tell apart, in their order, or a file with one of them a line: everything else becomes
        `unknown`. It must hold `unknown`, and `END` if that is predicted. Without one it is `unknown`, `END` if that
        is predicted, and the words of the text by falling count, in alphabetical order where counts tie.
    predict_end: every line ends by predicting the word `END`.

    Raises
    ------
    UserError: a file cannot be read as text with words, no two words can be told apart, or an option is wrong.
    """
    files = [Path(expanduser(path)) for path in ([paths] if isinstance(paths, str | PathLike) else paths)]
    _check_options(files, min_count, unknown, vocabulary)
    needed = [unknown, END] if predict_end else [unknown]
    words = None if vocabulary is None else _given(vocabulary, needed)

    numbers, pairs = _Numbers(lambda token: token.lower() if lowercase and token != unknown else token), _Pairs()
    for path in files:
        _count(path, numbers, pairs)
    rows = pairs.rows()
    if words is None:
        words = _frequent(_listed(files), _frequencies(numbers, rows), min_count, needed)
    context, word, count = _indexed(numbers, rows, words, unknown, predict_end)
    num_lines, num_unknown = count[context == len(words)].sum(), count[word == words.index(unknown)].sum()
    report = TextReport(tuple(files), int(num_lines), int(count.sum()), int(num_unknown), len(words))
    return Corpus(context, word, count, words, report)


def write_lines(
    path: str | PathLike[str],
    context: Int[np.ndarray, "rows"],
    word: Int[np.ndarray, "rows"],
    count: Float[np.ndarray, "rows"],
    words: Sequence[str],
) -> None:
    """Write bigrams that follow one another as a text; with `vocabulary=words`, `read_text` reads back their counts.

    The file appears whole or not at all. A row whose context is `len(words)` begins a line; if `END` is one of the
    words, it ends each; if not, read with `predict_end=False`. Lines that hold no word, and an end that the last line
    lacks, are read back otherwise: a `Note` says so.

    Raises
    ------
    UserError: the rows are no such walk, the vocabulary cannot be read back, or the file cannot be written.
    """
    _check_words(words, "words")
    context, word = _checked_walk(context, word, count, words)
    starts = np.flatnonzero(context == len(words))
    lines = [[words[index] for index in line.tolist()] for line in np.split(word, starts[1:])]
    num_empty = sum(line == [END] for line in lines)
    if num_empty:
        warnings.warn(Note(f"{path}: {num_empty} of {len(lines)} lines hold no word: reading skips them"), stacklevel=2)
    if END in words and lines[-1][-1] != END:
        warnings.warn(Note(f"{path}: the last line does not end with {END!r}: reading ends it"), stacklevel=2)
    with atomic(path) as file:
        file.writelines((" ".join(written for written in line if written != END) + "\n").encode() for line in lines)


unpack = words_as_array.unpack


def pack(words: Sequence[str]) -> UInt8[np.ndarray, "bytes"]:
    """Return a vocabulary as an array: UTF-8, with a line feed between words.

    Raises
    ------
    UserError: a word is empty, holds white space or occurs twice.
    """
    _check_words(words, "words")
    return words_as_array.pack(words)


# --- reading -------------------------------------------------------------------------------------------------------


def _blocks(path: Path) -> Iterator[str]:
    """Yield a file's text block by block, with a line feed at every end of a line."""
    decoder, newlines = codecs.getincrementaldecoder("utf-8")(), io.IncrementalNewlineDecoder(None, translate=True)
    num_bytes, num_lines, first = 0, 0, True
    try:
        with path.open("rb") as file:
            for block in chain(iter(partial(file.read, BLOCK), b""), [b""]):
                num_bytes += len(block)
                if b"\0" in block:
                    raise UserError(f"{path} is not text in UTF-8: it holds binary data (NUL bytes)")
                text = decoder.decode(block, final=not block)
                if first and text:
                    text, first = text.removeprefix("\ufeff"), False
                text = newlines.decode(text, final=not block)
                num_lines += text.count("\n")
                yield text
    except UnicodeDecodeError as error:
        # The decoder was at work on all bytes up to the end of this block.
        offset = num_bytes - len(error.object) + error.start
        line = num_lines + newlines.decode(error.object[: error.start].decode(), final=True).count("\n") + 1
        fault = f"line {line} has the byte {error.object[error.start]:#04x} at offset {offset} of the file"
        raise UserError(f"{path} is not text in UTF-8: {fault}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _tokens(path: Path) -> Iterator[list[str]]:
    """Yield a file's words block by block, with a break after every line."""
    rest, num_lines = "", 0
    for block in _blocks(path):
        text = rest + block
        tokens = text.replace("\n", f" {_BREAK} ").split()
        # The next block may go on with the last word.
        rest = "" if not tokens or text[-1].isspace() else tokens.pop()
        num_lines += block.count("\n")
        if len(rest) > LONGEST:
            fault = f"line {num_lines + 1} holds a word of more than {LONGEST} characters"
            raise UserError(f"{path}: {fault}: separate words by white space")
        if tokens:
            yield tokens
    yield [rest, _BREAK] if rest else [_BREAK]


class _Numbers(dict[str, int]):
    """The number of every token, in the order in which they come; 0 is a break.

    of_word: the number of each word; tokens that fold to one word share its number.
    """

    def __init__(self, fold: Callable[[str], str]):
        super().__init__({_BREAK: 0})
        self.of_word, self._fold = {_BREAK: 0}, fold

    def __missing__(self, token: str) -> int:
        self[token] = self.of_word.setdefault(self._fold(token), len(self.of_word))
        return self[token]


class _Pairs:
    """How often each pair of numbers occurs, in a sorted table, and in smaller ones that wait to be merged into it."""

    def __init__(self) -> None:
        self._tables = [(np.empty(0, np.int64), np.empty(0))]

    def add(self, context: Int[np.ndarray, "tokens"], word: Int[np.ndarray, "tokens"]) -> None:
        """Count pairs."""
        code, count = np.unique(context << 32 | word, return_counts=True)
        self._tables.append((code, count.astype(np.float64)))
        # Merged only when they outgrow the table: every pair is then sorted a few times, however long the text.
        if sum(code.size for code, _ in self._tables[1:]) > self._tables[0][0].size:
            self._tables = [_merged(self._tables)]

    def rows(self) -> _Rows:
        """Return contexts, words and counts, without the pairs of breaks, which lines without words leave."""
        code, count = _merged(self._tables)
        return _decoded((code[code != 0], count[code != 0]))


def _merged(tables: Sequence[_Table]) -> _Table:
    """Return one sorted table in which every pair stands once."""
    code, inverse = np.unique(np.concatenate([code for code, _ in tables]), return_inverse=True)
    return code, np.bincount(inverse, weights=np.concatenate([count for _, count in tables]), minlength=code.size)


def _decoded(table: _Table) -> _Rows:
    code, count = table
    return code >> 32, code & (2**32 - 1), count


def _count(path: Path, numbers: _Numbers, pairs: _Pairs) -> None:
    """Count the pairs of a file, a break before and after every line."""
    last, num_lines, empty = 0, 0, True
    for tokens in _tokens(path):
        word = np.fromiter(map(numbers.__getitem__, tokens), np.int64, len(tokens))
        if END in numbers.of_word:
            line = num_lines + tokens[: word.tolist().index(numbers.of_word[END])].count(_BREAK) + 1
            raise UserError(f"{path}: line {line} holds the word {END!r}, which stands for a line's end: take it out")
        pairs.add(np.concatenate([[last], word[:-1]]), word)
        last, num_lines, empty = int(word[-1]), num_lines + tokens.count(_BREAK), empty and not word.any()
    if empty:
        raise UserError(f"{path} holds no words: write one sentence a line, with white space between words")


def _indexed(numbers: _Numbers, rows: _Rows, words: tuple[str, ...], unknown: str, predict_end: bool) -> _Rows:
    """Return contexts and words as indices into the vocabulary, with their counts."""
    context, word, count = rows
    index = {known: place for place, known in enumerate(words)}
    before = np.array([index.get(known, index[unknown]) for known in numbers.of_word])
    after = before.copy()
    # A break is the start of a line where it comes before a word, and the end of one where it follows.
    before[0], after[0] = len(words), index.get(END, 0)
    kept = (word != 0) | predict_end
    return _decoded(_merged([((before[context] << 32 | after[word])[kept], count[kept])]))


# --- the vocabulary ------------------------------------------------------------------------------------------------


def _frequencies(numbers: _Numbers, rows: _Rows) -> dict[str, float]:
    """Return how often each word occurs."""
    _, word, count = rows
    frequency = np.bincount(word, weights=count, minlength=len(numbers.of_word)).tolist()
    return {known: frequency[number] for known, number in numbers.of_word.items() if known != _BREAK}


def _frequent(source: str, frequency: dict[str, float], min_count: int, needed: list[str]) -> tuple[str, ...]:
    """Return the words needed, and those of the text that are frequent enough, by falling count."""
    if len(frequency) < 2:
        raise UserError(f"{source} holds the word {next(iter(frequency))!r} and no other: a text needs two words")
    words = [word for word, count in frequency.items() if count >= min_count and word not in needed]
    if not words:
        raise UserError(f"{source}: no word occurs {min_count} times: lower min_count")
    return (*needed, *sorted(words, key=lambda word: (-frequency[word], word)))


def _given(vocabulary: str | PathLike[str] | Sequence[str], needed: list[str]) -> tuple[str, ...]:
    """Return the vocabulary that the user gave, checked."""
    if isinstance(vocabulary, str | PathLike):
        path = Path(expanduser(vocabulary))
        words, name, unit = "".join(_blocks(path)).removesuffix("\n").split("\n"), str(path), "line"
    else:
        words, name, unit = list(vocabulary), "vocabulary", "word"
    _check_words(words, name, unit)
    for word, other in zip(needed, ["name another with unknown=...", "pass predict_end=False"], strict=False):
        if word not in words:
            raise UserError(f"{name} lacks the word {word!r}: add it, or {other}")
    return tuple(words)


def _check_words(words: Sequence[str], name: str, unit: str = "word") -> None:
    first: dict[str, int] = {}
    for number, word in enumerate(words, start=1):
        if not _is_word(word):
            raise UserError(f"{name}: {unit} {number} is {word!r}: it must be one word, without white space")
        if first.setdefault(word, number) != number:
            raise UserError(f"{name}: {unit} {number} is {word!r}, as {unit} {first[word]} is: give each word once")


def _is_word(word: Any) -> bool:
    return isinstance(word, str) and word.split() == [word] and _BREAK not in word


# --- checks --------------------------------------------------------------------------------------------------------


def _check_options(files: list[Path], min_count: int, unknown: str, vocabulary: Any) -> None:
    if not files:
        raise UserError("paths is empty: name at least one file")
    check_whole("min_count", min_count)
    if vocabulary is not None and min_count != 1:
        raise UserError(f"min_count is {min_count}: with a vocabulary, which says what words to keep, it must be 1")
    if not _is_word(unknown) or unknown == END:
        raise UserError(f"unknown is {unknown!r}: it must be one word, without white space, and not {END!r}")


def _checked_walk(context: Any, word: Any, count: Any, words: Sequence[str]) -> tuple[_Whole, _Whole]:
    """Return contexts and words as arrays; refuse rows that do not follow one another as the words of a text do."""
    context, word, count = np.asarray(context), np.asarray(word), np.asarray(count)
    if context.ndim != 1 or not context.size or not context.shape == word.shape == count.shape:
        shapes = f"{context.shape}, {word.shape} and {count.shape}"
        raise UserError(f"context, word and count have the shapes {shapes}: they must be equal, and (rows,)")
    start, end = len(words), words.index(END) if END in words else -1
    before = np.concatenate([[end], word[:-1]])
    # Without ENDs nothing else tells where a line ends.
    follows = (context == np.where(before == end, start, before)) | ((context == start) & (end == -1))
    wrong = np.flatnonzero((count != 1) | (word < 0) | (word >= start) | (word != np.trunc(word)) | ~follows)
    if wrong.size:
        row = f"row {wrong[0]} has context {context[wrong[0]]}, word {word[wrong[0]]} and count {count[wrong[0]]:g}"
        raise UserError(f"{row}: rows can be written where they follow one another as words do, each with count 1")
    return context.astype(np.int64), word.astype(np.int64)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:3])) + (f" and {len(paths) - 3} more" if paths[3:] else "")
