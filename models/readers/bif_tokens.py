"""The tokens of a BIF file, read one after another; the errors that name their line."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, TypeVar

from latentzoo.models.language.errors import UserError, choose
from latentzoo.models.language.graph import TOLERANCE

MOST_ITEMS = 2**22  # states, parents and probabilities in a file; and numbers in all tables, which `default` can fill
LONGEST = 1000  # characters of a name or a number

Item = TypeVar("Item")

_DELIMITERS = "{}()[],;|:"
BREAKS = r"\n\v\f\r\x1c-\x1e\x85\u2028\u2029"  # all that ends a line of a message
# White space and comments. All repetitions are possessive: none is tried twice, however long.
_SKIP = r"(?:\s++|//[^\n]*+|/\*(?s:.*?)\*/)*+"
_WORD = rf'(?:[^\s{re.escape(_DELIMITERS)}"/]++|/(?![/*]))++'
_QUOTED = rf'"[^"{BREAKS}]*+"'
_DECIMAL = r"\+?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?"
_ENDED = rf'(?=[\s{re.escape(_DELIMITERS)}"]|/[/*]|\Z)'

_SPACE = re.compile(_SKIP)
PLAIN = re.compile(_WORD)
_TOKEN = re.compile(rf"{_SKIP}({_WORD}|{_QUOTED}|[{re.escape(_DELIMITERS)}]|\Z)")
_NAME = re.compile(rf"{_SKIP}({_WORD}|{_QUOTED}){_SKIP},?")
_NUMBER = re.compile(rf"{_SKIP}({_DECIMAL}){_ENDED}{_SKIP},?")
_PROPERTY = re.compile(rf"(?:[^;{{}}\"]++|{_QUOTED})*+;")


class Tokens:
    """A text, read token by token, once.

    at, end: where the last token begins and ends.
    block: where the block begins in which it stands.
    """

    def __init__(self, text: str, source: str):
        self.text, self.source = text, source
        self.at = self.end = self.block = self._num_items = 0

    def refuse(self, fault: str, at: int | None = None) -> NoReturn:
        """Raise the error that names the line of a place: of the last token, without one."""
        raise UserError(f"{self.source}: line {self._line(self.at if at is None else at)}: {fault}")

    def _line(self, at: int) -> int:
        return self.text.count("\n", 0, at) + 1

    def unexpected(self, expected: str, token: str) -> NoReturn:
        """Raise the error that says what should stand where the last token does."""
        if token:
            self.refuse(f"expected {expected}, found {cut(token)!r}")
        ends = f"the file ends: it is cut off in the block that begins on line {self._line(self.block)}"
        self.refuse(f"expected {expected}, but {ends}", len(self.text.rstrip()))

    def peek(self) -> str:
        """Return the next token and leave it there."""
        match = _TOKEN.match(self.text, self.end)
        return match[1] if match else ""

    def token(self) -> str:
        """Return the next token as it is written; nothing at the end."""
        if not (match := _TOKEN.match(self.text, self.end)):
            # What is left can only be the beginning of a quote or of a comment.
            at = _SPACE.match(self.text, self.end).end()  # type: ignore[union-attr]  # it matches nothing, too
            what = "quote" if self.text[at] == '"' else "comment"
            self.refuse(f"a {what} opens here and never closes{' on its line' if what == 'quote' else ''}", at)
        return self._take(match)

    def _take(self, match: re.Match[str]) -> str:
        self.at, self.end = match.start(1), match.end()
        if len(match[1]) > LONGEST:
            self.refuse(f"{cut(match[1])!r} is longer than {LONGEST} characters")
        return match[1]

    def expect(self, *tokens: str) -> str:
        """Return the next token, which must be one of these."""
        token = self.token()
        if token not in tokens:
            self.unexpected(" or ".join(map(repr, tokens)), token)
        return token

    def name(self, what: str) -> str:
        """Return the next token, which must be a name."""
        token = self.token()
        if not token or token in _DELIMITERS:
            self.unexpected(what, token)
        return unquoted(token)

    def names(self, what: str, close: str) -> list[str]:
        """Return names up to the end of their list."""
        return self._items(_NAME, unquoted, what, close)

    def numbers(self) -> list[float]:
        """Return probabilities up to the end of their statement."""
        return self._items(_NUMBER, self._number, "a number from 0 to 1", ";")

    def _number(self, word: str) -> float:
        if (number := float(word)) > 1.0 + TOLERANCE:
            self.refuse(f"{cut(word)} is no probability, from 0 to 1")
        return number

    def _items(self, pattern: re.Pattern[str], read: Callable[[str], Item], what: str, close: str) -> list[Item]:
        items = []
        while match := pattern.match(self.text, self.end):
            items.append(read(self._take(match)))
            self._num_items += 1
            if self._num_items > MOST_ITEMS:
                self.refuse(f"here are more than {MOST_ITEMS:,} states, parents and probabilities: that is too many")
        if (token := self.token()) != close or not items:
            self.unexpected(f"{what} or {close!r}" if items else what, token)
        return items

    def statements(self, *words: str) -> Iterator[str]:
        """Yield the word with which each statement of a block begins, up to its end, and skip properties."""
        self.expect("{")
        while (word := self.expect(*words, "property", "}")) != "}":
            if word == "property":
                self._skip_property()
            else:
                yield word

    def _skip_property(self) -> None:
        if not (match := _PROPERTY.match(self.text, self.end)):
            self.refuse("a property opens here and does not end with ';'")
        self.end = match.end()

    def choose(self, name: str, names: Mapping[str, object], what: str, at: int) -> None:
        """Refuse a name that is not among these, and say which is the nearest."""
        if name in names:
            return
        # Comparing with very many would take long, and so would reading the message.
        if sum(map(len, names)) > 20 * LONGEST:
            self.refuse(f"no {what} {name!r}", at)
        try:
            choose(name, names, what)
        except UserError as error:
            self.refuse(str(error), at)


def unquoted(token: str) -> str:
    """Return a token without its quotes."""
    return token.strip('"')  # a name holds none


def cut(text: str) -> str:
    """Return the beginning of a text that is too long for a message."""
    return text if len(text) <= 30 else text[:27] + "..."
