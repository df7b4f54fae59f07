"""Threads for loops that release the interpreter's lock: one pool for all of them."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")


def share(jobs: Sequence[Job], work: Callable[[Iterator[Job]], None], threads: int | None = None) -> None:
    """Let threads work, each in its own arrays, on jobs that they take from one iterator as they become free.

    threads: at most so many; by default as many as the cores that this process may use.
    """
    todo = iter(jobs)
    others = min(cores() if threads is None else threads, len(jobs)) - 1
    pending = [_pool(others).submit(work, todo) for _ in range(others)]
    try:
        work(todo)  # the thread that asks works, too
    finally:
        for done in pending:
            done.result()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool that stays: to start one takes as long as an E step over some thousand rows."""
    return ThreadPoolExecutor(threads, thread_name_prefix="latentzoo")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
