"""Tables of plain text."""

from collections.abc import Sequence


def aligned(head: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its head of one line or more: names to the left, numbers to the right."""
    cells = [*head, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells]
    return [*lines[: len(head)], "  ".join("-" * width for width in widths), *lines[len(head) :]]
