"""The reader of text: the bigrams it counts, the vocabulary it makes, and what it refuses."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from latentzoo.models.language.errors import Note, UserError
from latentzoo.models.readers import text
from latentzoo.models.readers.text import END, Corpus, pack, read_text, unpack, write_lines

START = "start"  # how these tests write the context of a line's first word
UNK = "<unk>"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "text.txt"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("text") / "text.txt"


def taken(path: Path, content: str | bytes, **options: object) -> Corpus:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_text(path, **options)  # type: ignore[arg-type]


def refusal(path: Path, content: str | bytes | None = None, **options: object) -> str:
    """Return the one line with which reading is refused."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_text(path, **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert str(path) in line or options
    return line


def named(corpus: Corpus) -> dict[tuple[str, str], float]:
    """Return the counts by words."""
    names = [*corpus.words, START]
    rows = zip(corpus.context.tolist(), corpus.word.tolist(), corpus.count.tolist(), strict=True)
    return {(names[context], names[word]): count for context, word, count in rows}


def brute(lines: list[list[str]], predict_end: bool = True) -> Counter[tuple[str, str]]:
    """Count bigrams the plain way."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in filter(None, lines):
        walk = [START, *line, END] if predict_end else [START, *line]
        counts.update(pairwise(walk))
    return counts


# Counts


def test_bigrams_of_lines(file: Path) -> None:
    corpus = taken(file, "to be or\n\nnot to be\n")
    assert corpus.words == (UNK, END, "be", "to", "not", "or")
    assert list(zip(corpus.context, corpus.word, corpus.count, strict=True)) == [
        (2, 1, 1), (2, 5, 1), (3, 2, 2), (4, 3, 1), (5, 1, 1), (6, 3, 1), (6, 4, 1)
    ]  # fmt: skip
    assert (corpus.context.dtype, corpus.word.dtype, corpus.count.dtype) == (np.int64, np.int64, np.float64)
    assert corpus.report == ((file,), 2, 8, 0, 6)
    assert str(corpus.report) == f"{file}: 2 lines, 8 tokens, 6 words, 0 % of the tokens out of vocabulary"


def test_ends_of_lines_need_not_be_predicted(file: Path) -> None:
    corpus = taken(file, "to be or\n\nnot to be\n", predict_end=False)
    assert corpus.words == (UNK, "be", "to", "not", "or")
    assert named(corpus) == brute([["to", "be", "or"], ["not", "to", "be"]], predict_end=False)
    assert corpus.report == ((file,), 2, 6, 0, 5)


def test_no_bigram_spans_two_files(tmp_path: Path) -> None:
    one, two = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("a b", encoding="utf-8")
    two.write_text("c a b", encoding="utf-8")
    corpus = read_text([one, str(two)])
    assert named(corpus) == brute([["a", "b"], ["c", "a", "b"]])
    assert str(corpus.report).startswith(f"{one}, {two}: 2 lines, 7 tokens")
    assert str(read_text([one, two] * 3).report).startswith(f"{one}, {two}, {one} and 3 more: ")


# Letters of one to four bytes, every kind of line end, and white space that ends no line.
LETTERS = st.text(st.sampled_from("aBé€𝄞\u00a0\u2028\x1c \t\r\n"), max_size=60)


@given(content=LETTERS, mark=st.booleans(), block=st.integers(1, 7), options=st.tuples(st.booleans(), st.booleans()))
def test_wherever_blocks_end_the_counts_are_the_same(
    scratch: Path, content: str, mark: bool, block: int, options: tuple[bool, bool]
) -> None:
    lowercase, predict_end = options
    folded = content.lower() if lowercase else content
    lines = [line.split() for line in folded.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    assume(len({word for line in lines for word in line}) > 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "BLOCK", block)
        encoded = b"\xef\xbb\xbf" * mark + content.encode()
        corpus = taken(scratch, encoded, lowercase=lowercase, predict_end=predict_end)
    assert named(corpus) == brute(lines, predict_end)
    assert corpus.report.num_lines == sum(map(bool, lines))
    assert corpus.report.num_tokens == corpus.count.sum()
    assert (np.diff(corpus.context * 1000 + corpus.word) > 0).all()


def test_a_million_words_in_one_line_without_an_end(file: Path) -> None:
    corpus = taken(file, " ".join(["a b c d"] * 250_000))
    assert named(corpus)[("a", "b")] == 250_000
    assert named(corpus)[("d", "a")] == 249_999
    assert corpus.report == ((file,), 1, 1_000_001, 0, 6)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("a b c\n" * 1000,))
    writer.start()
    corpus = read_text(pipe, min_count=2)
    writer.join()
    assert named(corpus)[(START, "a")] == 1000


# The vocabulary


def test_rare_words_become_unknown(file: Path) -> None:
    corpus = taken(file, "a b a x\nb <unk> a\ny a b z\n", min_count=2)
    assert corpus.words == (UNK, END, "a", "b")
    assert named(corpus) == brute([["a", "b", "a", UNK], ["b", UNK, "a"], [UNK, "a", "b", UNK]])
    assert corpus.report == ((file,), 3, 14, 4, 4)
    assert "28.6 % of the tokens out of vocabulary" in str(corpus.report)


def test_words_come_by_falling_count_and_then_by_the_alphabet(file: Path) -> None:
    assert taken(file, "d c b a c é Z\n").words == (UNK, END, "c", "Z", "a", "b", "d", "é")


def test_lower_case_leaves_the_unknown_word_alone(file: Path) -> None:
    corpus = taken(file, "The UNK the\nTHE ΣΑΣ unk ΣΑΣ\n", lowercase=True, unknown="UNK")
    assert corpus.words == ("UNK", END, "the", "σας", "unk")
    assert corpus.report.num_unknown == 1


def test_a_given_vocabulary_is_used_as_it_is(file: Path, tmp_path: Path) -> None:
    words = ("b", END, "never", UNK, "a")
    corpus = taken(file, "a b x\nb y\n", vocabulary=words)
    assert corpus.words == words
    assert named(corpus) == brute([["a", "b", UNK], ["b", UNK]])
    listed = tmp_path / "words.txt"
    for content in ("\n".join(words), "\r\n".join(words) + "\r\n", "\ufeff" + "\n".join(words)):
        listed.write_bytes(content.encode())
        again = read_text(file, vocabulary=listed)
        assert again.words == words
        assert named(again) == named(corpus)


def test_text_of_other_words_can_be_read_with_a_vocabulary(file: Path) -> None:
    corpus = taken(file, "x\n", vocabulary=[UNK, END, "a"])
    assert named(corpus) == {(START, UNK): 1, (UNK, END): 1}
    assert str(corpus.report).endswith("50 % of the tokens out of vocabulary")


@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (["a", END], "vocabulary lacks the word '<unk>'"),
        ([UNK, "a"], "vocabulary lacks the word '</s>': add it, or pass predict_end=False"),
        ([UNK, END, "a", "b", "a"], "word 5 is 'a', as word 3 is"),
        ([UNK, END, ""], "word 3 is ''"),
        ([UNK, END, "a b"], "word 3 is 'a b'"),
        ([UNK, END, 7], "word 3 is 7"),
        ([], "lacks"),
        ("missing.txt", "No such file"),
    ],
)
def test_a_vocabulary_that_will_not_do_is_refused(file: Path, vocabulary: object, said: str) -> None:
    assert said in refusal(file, "a b\n", vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "line 1 is ''"), (f"{UNK}\n{END}\n\na\n", "line 3 is ''"), (f"{UNK}\n{END}\na \n", "line 3 is 'a '")],
)
def test_a_file_of_words_is_refused_with_its_line(file: Path, tmp_path: Path, content: str, said: str) -> None:
    listed = tmp_path / "words.txt"
    listed.write_text(content, encoding="utf-8")
    assert f"{listed}: {said}" in refusal(file, "a b\n", vocabulary=listed)


WORDS = st.text(min_size=1).filter(lambda word: word.split() == [word] and "\0" not in word)


@given(words=st.lists(WORDS, unique=True))
def test_packing_is_undone_exactly(words: list[str]) -> None:
    packed = pack(words)
    assert packed.dtype == np.uint8
    assert packed.ndim == 1
    assert unpack(packed) == tuple(words)


@pytest.mark.parametrize("words", [["a", ""], ["a b"], ["a\n"], ["a", "a"]])
def test_what_cannot_be_unpacked_is_not_packed(words: list[str]) -> None:
    with pytest.raises(UserError, match="words: word"):
        pack(words)


# Mistakes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no words"),
        (b"\xef\xbb\xbf", "holds no words"),
        (" \n\t\r\n\u2028", "holds no words"),
        ("a a\na\n", "holds the word 'a' and no other"),
        (f"a b\n\nb a\na {END}\n", f"line 4 holds the word '{END}'"),
        (b"a b\nc\0d\n", "binary data (NUL bytes)"),
        ("é €\r\n\r\na caf".encode() + b"\xe9 b\n", "line 3 has the byte 0xe9 at offset 15 of the file; save it as"),
        (b"\xef\xbb\xbfa\rb\r\n\xff", "line 3 has the byte 0xff at offset 8 of the file"),
        (b"a b\n\xe2\x82", "line 2 has the byte 0xe2 at offset 4 of the file"),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 2**20])
def test_a_file_that_is_no_text_is_refused(
    file: Path, content: str | bytes, said: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK", block)
    assert said in refusal(file, content)


def test_text_in_utf_16_is_binary(file: Path) -> None:
    assert "binary data (NUL bytes)" in refusal(file, "a b\n".encode("utf-16"))


def test_an_end_in_capitals_is_found_in_lower_case(file: Path) -> None:
    assert END.upper() in taken(file, f"a {END.upper()}\n").words
    assert "line 1 holds the word" in refusal(file, lowercase=True)


def test_one_empty_file_of_several_is_refused(file: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    file.write_text("a b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"empty\.txt holds no words"):
        read_text([file, empty])


def test_a_word_without_an_end_is_no_text(file: Path) -> None:
    assert "line 2 holds a word of more than 1048576 characters" in refusal(file, b"a b\n" + b"c" * 3_000_000)


def test_a_file_that_is_not_there_or_no_file_is_refused(file: Path) -> None:
    assert "cannot read" in refusal(file)
    assert "No such file" in refusal(file)
    assert "directory" in refusal(file.parent)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_count": 0}, "min_count is 0"),
        ({"min_count": 1.5}, "min_count is 1.5"),
        ({"min_count": 3}, "no word occurs 3 times"),
        ({"min_count": 2, "vocabulary": [UNK, END]}, "min_count is 2: with a vocabulary"),
        ({"unknown": ""}, "unknown is ''"),
        ({"unknown": "not known"}, "unknown is 'not known'"),
        ({"unknown": END}, f"unknown is '{END}'"),
    ],
)
def test_an_option_out_of_range_is_named(file: Path, options: dict[str, object], said: str) -> None:
    assert said in refusal(file, "a b a\n", **options)


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="paths is empty"):
        read_text([])


# Writing


def walk(lines: list[list[int]], start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of lines of indices."""
    context = np.array([context for line in lines for context in [start, *line[:-1]]])
    word = np.array([word for line in lines for word in line])
    return context, word, np.ones(word.size)


@given(lines=st.lists(st.lists(st.integers(1, 3), min_size=1), min_size=1), predict_end=st.booleans())
def test_a_walk_is_read_back_to_the_same_counts(scratch: Path, lines: list[list[int]], predict_end: bool) -> None:
    words = [UNK, "a", "é", f"x{END}", *([END] if predict_end else [])]
    rows = walk([[*line, 4] if predict_end else line for line in lines], len(words))
    write_lines(scratch, *rows, words)
    corpus = read_text(scratch, vocabulary=words, predict_end=predict_end)
    expected = Counter(zip(rows[0].tolist(), rows[1].tolist(), strict=True))
    assert dict(zip(zip(corpus.context, corpus.word, strict=True), corpus.count, strict=True)) == expected


def test_writing_says_what_reading_will_change(file: Path) -> None:
    words = [UNK, END, "a", "b"]
    with pytest.warns(Note, match="1 of 2 lines hold no word: reading skips them"):
        write_lines(file, *walk([[1], [2, 3, 1]], 4), words)
    assert read_text(file, vocabulary=words).report.num_tokens == 3
    with pytest.warns(Note, match="the last line does not end with '</s>'"):
        write_lines(file, *walk([[2, 1], [2, 3]], 4), words)
    assert file.read_text(encoding="utf-8") == "a\na b\n"


@pytest.mark.parametrize(
    ("context", "word", "count", "said"),
    [
        ([4, 2], [2, 1], [1, 2], "row 1 has context 2, word 1 and count 2"),
        ([4, 3], [2, 1], [1, 1], "row 1 has context 3"),
        ([2, 2], [2, 1], [1, 1], "row 0 has context 2"),
        ([4, 4], [2, 1], [1, 1], "row 1 has context 4"),  # the line has no end
        ([4, 1], [1, 2], [1, 1], "row 1 has context 1"),  # nothing follows an end
        ([4, 2], [2, 4], [1, 1], "row 1 has context 2, word 4"),
        ([4, 2], [2, 1.5], [1, 1], "row 1 has context 2, word 1.5"),
        ([4, 2], [2], [1, 1], "shapes (2,), (1,) and (2,)"),
        ([], [], [], "shapes (0,), (0,) and (0,)"),
    ],
)
def test_rows_that_are_no_walk_are_refused(file: Path, context: list, word: list, count: list, said: str) -> None:
    with pytest.raises(UserError) as raised:
        write_lines(file, np.array(context), np.array(word), np.array(count), [UNK, END, "a", "b"])
    assert said in str(raised.value)
    assert not file.exists()


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_lines(tmp_path / "no" / "text.txt", *walk([[2, 1]], 3), [UNK, END, "a"])


def test_importing_the_reader_loads_nothing_heavy() -> None:
    code = "import sys, latentzoo.models.readers.text; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "pandas", "scipy"} & set(loaded)


# Real text


@pytest.fixture
def shakespeare(data_folder: Path) -> Path:
    path = data_folder / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is missing (name another folder with LATENTZOO_DATA)")
    return path


@pytest.mark.parametrize("lowercase", [False, True])
def test_shakespeare(shakespeare: Path, lowercase: bool) -> None:
    content = shakespeare.read_text(encoding="utf-8")
    lines = [line.split() for line in (content.lower() if lowercase else content).split("\n")]
    frequency = Counter(word for line in lines for word in line)
    frequent = [[word if frequency[word] >= 5 else UNK for word in line] for line in lines]
    began = time.perf_counter()
    corpus = read_text(shakespeare, lowercase=lowercase, min_count=5)
    assert time.perf_counter() - began < 5.0  # a tenth of a second on the machine it was written on
    assert named(corpus) == brute(frequent)
    _, num_lines, num_tokens, num_unknown, num_words = corpus.report
    assert num_lines == sum(map(bool, lines)) == 32_777
    assert num_tokens == sum(map(len, lines)) + num_lines
    assert num_unknown == sum(line.count(UNK) for line in frequent)
    assert num_words == len(corpus.words) == len({word for line in frequent for word in line} | {END})
