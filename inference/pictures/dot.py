"""Pictures of graphs by Graphviz's `dot`, where it is installed; else their source in DOT, which it draws elsewhere."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.files import atomic, atomic_path

LONGEST = 60  # seconds that a layout may take


class Graph(NamedTuple):
    """A picture that `dot` draws: its source in DOT."""

    source: str


def save(graph: Graph, path: Path) -> tuple[Path, str]:
    """Write a graph as PNG, or where `dot` is missing as DOT, under a path without a suffix; say what it is.

    Raises
    ------
    UserError: the folder cannot be written, or the source is no DOT.
    """
    program = shutil.which("dot")
    if program is None:
        return _source(graph, path), "the graph in DOT: Graphviz's `dot`, which is not installed, draws it"
    picture = path.with_name(f"{path.name}.png")
    try:
        with atomic_path(picture) as temporary:
            command = [program, "-Tpng", "-Gdpi=150", "-o", str(temporary)]
            subprocess.run(command, input=graph.source.encode(), capture_output=True, check=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return _source(graph, path), f"the graph in DOT: `dot` did not lay it out in {LONGEST} s"
    except subprocess.CalledProcessError as error:
        words = " ".join(error.stderr.decode(errors="replace").split())
        raise UserError(f"dot cannot draw the graph: {words}") from error
    return picture, "picture of the graph"


def _source(graph: Graph, path: Path) -> Path:
    source = path.with_name(f"{path.name}.dot")
    with atomic(source, "w", encoding="utf-8") as file:
        file.write(graph.source)
    return source
