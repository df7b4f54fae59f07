"""Errors and warnings that a user can cause: always one clear line that says what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_LISTED = 40  # names in a message: more make no line that one reads
MOST_COMPARED = 10_000  # names in search of the nearest


class UserError(ValueError):
    """A mistake in an argument, a file or the data: one line that names it and says what would be right.

    The command line prints the line and leaves with exit status 2; a Python user sees an ordinary `ValueError`.
    """


class Note(UserWarning):
    """Something a user should know about a run that went through: rows left out, a fit that did not converge."""


def choose(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`; raise `UserError` naming `what` and the nearest match if it is not."""
    names = list(allowed)
    if value in names:
        return value
    near = get_close_matches(str(value), names[:MOST_COMPARED], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = names if len(names) <= MOST_LISTED else [*names[:MOST_LISTED], f"... ({len(names):,} in all)"]
    raise UserError(f"no {what} {value!r}; {hint}there is: {', '.join(shown)}")
