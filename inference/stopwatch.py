"""A stopwatch that tells what runs from what compiles."""

import functools
import sys
import time

_spans: list[tuple[float, float]] = []


class Stopwatch:
    """Seconds spent inside `with watch:`, over as many visits as there are: `running` and, apart from it, `compiling`.

    JAX compiles a function when it is first called and says how long that took; Pyro compiles nothing.
    """

    def __init__(self, running: float = 0.0, compiling: float = 0.0) -> None:
        self.running, self.compiling = running, compiling

    def __enter__(self) -> "Stopwatch":
        _listen()
        _spans.clear()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        _listen()  # for a JAX that was imported inside
        passed, compiled = time.perf_counter() - self._start, _covered(_spans)
        self.running += max(passed - compiled, 0.0)
        self.compiling += compiled


def _listen() -> None:
    if "jax" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    from jax import monitoring

    monitoring.register_event_duration_secs_listener(_note)


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    """Keep when JAX traced, lowered or compiled."""
    if event.startswith("/jax/core/compile/"):
        now = time.perf_counter()
        _spans.append((now - duration_secs, now))


def _covered(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans: what is traced inside a trace is not counted twice."""
    total, reached = 0.0, -float("inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, reached), 0.0)
        reached = max(reached, end)
    return total
