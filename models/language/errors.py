"""Errors and warnings that a user can cause: always one clear line that says what would be right."""

from collections.abc import Iterable
from difflib import get_close_matches


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
    near = get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UserError(f"no {what} {value!r}; {hint}there is: {', '.join(names)}")
