"""Progress with the time left, for whatever takes more than two seconds."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 2.0  # seconds of silence


def _silent(done: int, text: str = "") -> None:
    """Draw nothing."""


@contextmanager
def progress(label: str, total: int, enabled: bool = True) -> Iterator[Callable[[int, str], None]]:
    """Yield `update(done, text)`, which draws a bar with the time left on a terminal once two seconds have passed.

    Where stderr is not a terminal nothing is drawn: a log does not want a bar.
    """
    if not (enabled and sys.stderr.isatty()):
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    times = (TimeElapsedColumn(), TextColumn("at most"), TimeRemainingColumn(), TextColumn("left  {task.fields[text]}"))
    bar = Progress(*columns, *times, console=Console(stderr=True), transient=True)
    task = bar.add_task(label, total=total, text="")
    start = time.perf_counter()

    def update(done: int, text: str = "") -> None:
        bar.update(task, completed=done, text=text)
        if not bar.live.is_started and time.perf_counter() - start > PATIENCE:
            bar.start()

    try:
        yield update
    finally:
        bar.stop()
