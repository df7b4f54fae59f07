"""The reader of tables of states: which columns and rows it reads, what it refuses and what it says."""

import csv
import gzip
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network, Node
from latentzoo.models.readers import states as module
from latentzoo.models.readers.states import States, read_states, write_states


def network(**nodes: Sequence[str]) -> Network:
    """Return a network without arcs of nodes with these states."""
    return of(nodes)


def of(nodes: dict[str, Sequence[str]]) -> Network:
    uniform = {name: np.full(len(states), 1.0 / len(states)) for name, states in nodes.items()}
    return Network.of("asia", [Node(name, states, (), uniform[name]) for name, states in nodes.items()])


ASIA = network(asia=("yes", "no"), xray=("clear", "dim", "dark"), dysp=("yes", "no"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "asia.csv"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that the examples of one property overwrite."""
    return tmp_path_factory.mktemp("states") / "states.csv"


def taken(path: Path, content: str | bytes, net: Network = ASIA, **options: object) -> States:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_states(path, net, **options)  # type: ignore[arg-type]


def refusal(path: Path, content: str | bytes | None = None, net: Network = ASIA, **options: object) -> str:
    """Return the one line with which reading is refused."""
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as raised:
        read_states(path, net, **options)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert len(line) < 1000
    return line


def write_refusal(path: Path, states: object, net: Network = ASIA) -> str:
    """Return the one line with which writing is refused; no file is left behind."""
    with pytest.raises(UserError) as raised:
        write_states(path, states, net)  # type: ignore[arg-type]
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert not list(path.parent.iterdir())
    return line


# What is read


def test_columns_come_in_any_order_and_rows_in_that_of_the_network(file: Path) -> None:
    states, report = taken(file, "dysp,asia,xray\nno,yes,dim\nyes,no,dark\n")
    assert states.tolist() == [[0, 1, 1], [1, 2, 0]]
    assert states.dtype == np.int64
    assert states.flags.writeable
    assert states.flags.c_contiguous
    assert str(report) == f"{file}: 2 of 2 rows read"


def test_a_mark_of_byte_order_carriage_returns_blank_lines_white_space_and_gzip_are_fine(file: Path) -> None:
    content = b'\xef\xbb\xbf"asia", xray ,dysp\r\nyes,\tdim ,"no"\r\n\r\n  \r\n no,clear,yes'
    for path, packed in ((file, content), (file.with_suffix(".gz"), gzip.compress(content, mtime=0))):
        assert taken(path, packed).states.tolist() == [[0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("cell", ["", " ", "NA", "na", "NaN", " nan ", "?"])
def test_a_cell_can_be_missing(file: Path, cell: str) -> None:
    states, report = taken(file, f"asia,xray,dysp\nyes,{cell},no\n{cell},dim,{cell}\n")
    assert states.tolist() == [[0, -1, 1], [-1, 1, -1]]
    assert (report.num_missing, report.latent) == (3, ())
    assert str(report) == f"{file}: 2 of 2 rows read; missing cells: 3"


def test_a_state_that_reads_as_missing_is_the_state_where_the_names_are_the_same(file: Path) -> None:
    net = network(country=("NA", "DE"), sure=("?", "!"), empty=("", "full"), word=("a", "b"))
    states = taken(file, "country,sure,empty,word\nNA,?,,\nna,!,NA,?\nnan, ? ,full,b\n", net).states
    assert states.tolist() == [[0, 0, 0, -1], [-1, 1, -1, -1], [-1, 0, 1, 1]]


def test_a_node_without_a_column_is_latent(file: Path) -> None:
    states, report = taken(file, "xray\ndim\n?\n")
    assert states.tolist() == [[-1, 1, -1], [-1, -1, -1]]
    assert (report.latent, report.num_missing) == (("asia", "dysp"), 1)
    assert str(report) == f"{file}: 2 of 2 rows read; missing cells: 1; latent, without a column: asia, dysp"


def test_columns_that_are_no_node_are_left_out_and_named(file: Path) -> None:
    states, report = taken(file, "asia,age,xray,,dysp\nyes,34,dim,x,no\n")
    assert states.tolist() == [[0, 1, 1]]
    assert report.columns_left_out == ("age", "column 4")
    assert str(report) == f"{file}: 1 of 1 rows read; columns left out: age, column 4"


@pytest.mark.parametrize("name", ["", "rownames", "row.names", "Unnamed: 0"])
def test_names_of_rows_are_no_misspelling(file: Path, name: str) -> None:
    net = network(asia=("yes", "no"), rowname=("a", "b"), Unnamed=("a", "b"))
    states, report = taken(file, f'"{name}",asia\n1,no\n', net)
    assert states.tolist() == [[1, -1, -1]]
    assert report.columns_left_out == (name or "column 1",)


def test_names_of_rows_may_be_a_node(file: Path) -> None:
    assert taken(file, "rownames\nb\n", network(rownames=("a", "b"))).states.tolist() == [[1]]


def test_much_that_is_left_out_is_counted(file: Path) -> None:
    net = of({f"n{place}": ("a", "b") for place in range(14)})
    report = taken(file, ",".join(["n0", *"CDEFGHIJKLMN"]) + "\na" + ",x" * 12 + "\n", net).report
    assert (len(report.latent), len(report.columns_left_out)) == (13, 12)
    assert "n1, n2, n3, n4, n5, n6, n7, n8, n9, n10 and 3 more; columns" in str(report)
    assert str(report).endswith("C, D, E, F, G, H, I, J, K, L and 2 more")


# Cells that are no states

BAD = "asia,xray,dysp\nyes,dim,no\nno,?,maybe\n\nYes,dim,yes\n,dark,perhaps\nyes,grey,maybe\nno,clear,1\nno,clear,no\n"


def test_a_cell_that_is_no_state_is_refused_with_its_word_line_and_what_would_be_right(file: Path) -> None:
    line = refusal(file, "asia,xray,dysp\nyes,dim,no\nno,?,maybe\n")
    assert line == (
        f"{file}: 1 of 2 rows cannot be used: 1 dysp is 'maybe', no state of it (line 3); "
        "put them right, with 'yes' or 'no' for dysp, or leave them out with on_bad='skip' (--on-bad skip)"
    )


@pytest.mark.parametrize("chunk_cells", [1, 3, 6, 100])
def test_each_row_has_one_reason_and_each_reason_its_first_lines(
    file: Path, chunk_cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_CELLS", chunk_cells)
    bad = (
        "1 asia is 'Yes', no state of it (line 5), 1 xray is 'grey', no state of it (line 7), "
        "3 dysp is 'maybe' or 'perhaps' or '1', no state of it (line 3, 6, 8)"
    )
    line = refusal(file, BAD)
    assert f"5 of 7 rows cannot be used: {bad}; put them right, with 'yes' or 'no' for asia, 'clear' or" in line
    states, report = read_states(file, ASIA, on_bad="skip")
    assert states.tolist() == [[0, 1, 1], [1, 0, 1]]
    assert list(report.left_out.values()) == [(5,), (7,), (3, 6, 8)]
    assert (report.num_rows, report.num_kept, report.num_missing) == (7, 2, 0)
    assert str(report) == f"{file}: 2 of 7 rows read; left out: {bad}"


def test_missing_cells_of_rows_left_out_are_not_counted(file: Path) -> None:
    report = taken(file, "asia,xray\n?,grey\n?,dim\nyes,dim\n", on_bad="skip").report
    assert (report.num_missing, report.num_kept) == (1, 2)


def test_a_file_without_a_row_that_can_be_used_is_refused(file: Path) -> None:
    line = refusal(file, "asia,dysp\n1,0\nyes,0\n", on_bad="skip")
    assert line == (
        f"{file}: none of 2 rows can be used: 1 asia is '1', no state of it (line 2), "
        "1 dysp is '0', no state of it (line 3); write 'yes' or 'no' for asia, 'yes' or 'no' for dysp"
    )


def test_what_is_quoted_is_short(file: Path) -> None:
    net = of({f"n{place}": [f"state {number}" for number in range(99)] for place in range(9)})
    rows = [",".join(["x" * 10_000 + str(row)] * 9) for row in range(20)]
    line = refusal(file, "\n".join([",".join(net.nodes), *rows]), net)
    xs = "'" + "x" * 17 + "...'"
    assert f"20 n0 is {xs} or {xs} or {xs} or ..., no state of it (line 2, 3, 4, ...)" in line
    assert "'state 8' or 'state 9' or ... for n2 and 6 more" in line


def test_words_of_two_lines_or_none_are_quoted_in_one(file: Path) -> None:
    line = refusal(file, 'asia,xray\nyes,"di\nm"\nyes,\x1b[2J\nno,grey\nno,dim\n')
    assert r"3 xray is 'di\nm' or '\x1b[2J' or 'grey', no state of it (line 2, 4, 5)" in line


# Mistakes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty: a table of states has a header and rows"),
        ("\n \n", "is empty"),
        ("asia,xray\n", "has a header and no rows"),
        ("age,sex\n1,2\n", "has no column of a node of asia (asia, xray, dysp): it has 'age', 'sex'"),
        ("yes,no\nno,no\n", "has no column of a node of asia (asia, xray, dysp): it has 'yes', 'no'"),
        (",\n1,2\n", "has no column of a node of asia (asia, xray, dysp): it has '', ''"),
        ("x" * 10_000 + "\n1\n", "has no column of a node of asia"),
        ("astia,xray\nyes,dim\n", "column 'astia' is no node of asia: did you mean 'asia'? rename the column"),
        ("xray,Asia\ndim,yes\n", "column 'Asia' is no node of asia: did you mean 'asia'?"),
        ("asia,xray\nyes,dim\nno\n", "line 3 has 1 fields, the header 2"),
        ("asia,xray\nyes,dim\n\n\nno,dim,3\n", "line 5 has 3 fields, the header 2"),
        ('asia,xray\nyes,"dim\n', "a quote that opens on line 2 never closes"),
        ("asia,xray,asia\nyes,dim,no\n", "more than one column 'asia'"),
        ("asia;xray\nyes;dim\n", "separated by ';'"),
        (b"\0" * 100, "it holds binary data"),
        (b"asia,xray\nyes,\0\n", r"1 xray is '\x00', no state of it (line 2)"),
        (bytes(range(256)), "not text in UTF-8"),
        ("asia,xray\nyes,é\n".encode("latin-1"), "not text in UTF-8: save it as UTF-8"),
        (gzip.compress(b"asia\nyes\n", mtime=0), "not text in UTF-8"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"on_bad": "skip"}])
def test_a_file_that_is_no_such_table_is_refused_in_one_line(
    file: Path, content: str | bytes, said: str, options: dict[str, object]
) -> None:
    line = refusal(file, content, **options)
    assert str(file) in line
    assert said in line


def test_a_name_is_no_misspelling_of_a_node_that_has_its_column(file: Path) -> None:
    assert taken(file, "asia,astia\nyes,no\n").report.columns_left_out == ("astia",)


def test_a_file_that_is_not_there_or_no_file_is_refused(file: Path) -> None:
    assert "No such file" in refusal(file)
    assert "directory" in refusal(file.parent)
    packed = file.with_suffix(".gz")
    assert "gzip" in refusal(packed, "asia\nyes\n")
    assert f"cannot read {packed}" in refusal(packed, gzip.compress(b"asia\nyes\n" * 1000, mtime=0)[:-20])


def test_an_option_that_is_wrong_is_named(file: Path) -> None:
    assert "no on_bad 'ignore'" in refusal(file, "asia\nyes\n", on_bad="ignore")


def test_misspellings_are_not_looked_for_among_so_many_names_that_it_takes_long(file: Path) -> None:
    net = of({f"node{place}": ("a", "b") for place in range(1000)})
    names = [f"nodes{place}" for place in range(1000)]
    report = taken(file, ",".join(["node7", *names]) + "\na" + ",x" * 1000, net).report
    assert len(report.columns_left_out) == 1000


@pytest.mark.parametrize("name", ["a  b", " a", "a\nb", "a\t", "\ufeffa"])
def test_a_node_that_cannot_name_a_column_is_refused(file: Path, name: str) -> None:
    net = of({name: ("x", "y"), "b": ("x", "y")})
    assert f"node {name!r} cannot name a column" in write_refusal(file, [[0, 0]], net)
    assert f"node {name!r} cannot name a column" in refusal(file, "b\nx\n", net)


def test_states_that_differ_in_white_space_alone_are_refused(file: Path) -> None:
    net = network(a=("x", "y", " x"))
    assert "node 'a': the states 'x' and ' x' differ in white space alone" in write_refusal(file, [[1]], net)
    assert "node 'a': the states 'x' and ' x' differ in white space alone" in refusal(file, "a\ny\n", net)


# Writing


def test_the_file_has_names_and_a_missing_cell_is_empty(file: Path) -> None:
    net = of({"a, b": ('"', "x,y"), "c": ("1", "2")})
    write_states(file, [[0, 1], [1, -1]], net)
    assert file.read_text() == '"a, b",c\n"""",2\n"x,y",\n'


def test_a_missing_cell_alone_in_its_row_is_no_blank_line(file: Path) -> None:
    net = network(a=("x", "y"))
    write_states(file, [[-1], [1], [-1]], net)
    assert read_states(file, net).states.tolist() == [[-1], [1], [-1]]


NAMES = st.text(min_size=1, max_size=6) | st.text(st.sampled_from('aB é",;|#\n\r?NA\0'), min_size=1, max_size=5)
STATES = st.lists(NAMES.filter(str.strip), min_size=1, max_size=4, unique_by=str.strip)
NODES = NAMES.filter(lambda name: name == " ".join(name.split()) and name[:1] not in "\ufeff" and "\0" not in name)


@settings(max_examples=200)
@given(data=st.data(), chunk_cells=st.integers(1, 9), packed=st.booleans())
def test_what_is_written_is_read_back(scratch: Path, data: st.DataObject, chunk_cells: int, packed: bool) -> None:
    names = data.draw(st.lists(NODES, min_size=1, max_size=3, unique=True))
    if len(names) == 1:
        names = [names[0].translate(dict.fromkeys(map(ord, ";|"), "x"))]
    net = of({name: data.draw(STATES) for name in names})
    cells = st.tuples(*(st.integers(-1, len(states) - 1) for states in net.states))
    states = np.array(data.draw(st.lists(cells, min_size=1, max_size=5)))
    path = scratch.with_suffix(".csv.gz") if packed else scratch
    write_states(path, states, net)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_CELLS", chunk_cells)
        read, report = read_states(path, net)
    np.testing.assert_array_equal(read, states)
    assert (report.num_rows, report.num_kept, report.left_out) == (len(states), len(states), {})
    assert (report.latent, report.columns_left_out) == ((), ())
    assert report.num_missing == np.count_nonzero(states < 0)


def test_another_reader_reads_the_same(file: Path) -> None:
    net = of({'"a"': ('x, "y"', "line\r\nbreak", "NA"), "b": ("p", "q")})
    write_states(file, [[0, 1], [1, -1], [2, 0]], net)
    with file.open(newline="", encoding="utf-8") as opened:
        rows = list(csv.reader(opened))
    assert rows == [['"a"', "b"], ['x, "y"', "q"], ["line\r\nbreak", ""], ["NA", "p"]]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ([0, 1, 0], "states has shape (3,): it must be (rows, 3)"),
        (np.zeros((0, 3), int), "states has shape (0, 3)"),
        ([[0, 1]], "states has shape (1, 2): it must be (rows, 3)"),
        ([[0, 1, 0], [1]], "states is no array"),
        ([[0.0, 1.0, 0.0]], "states holds float64: it must hold integers"),
        ([[True, False, True]], "states holds bool"),
        ([["yes", "dim", "no"]], "it must hold integers"),
        ([[0, 1, 0], [0, 3, 5]], "states[1, 1] is 3: node 'xray' has states 0 to 2, and -1 where it is missing"),
        ([[0, 1, -2]], "states[0, 2] is -2: node 'dysp' has states 0 to 1"),
        (np.array([[0, 0, 2**63]], np.uint64), "states[0, 2] is 9223372036854775808: node 'dysp'"),
    ],
)
def test_an_array_that_holds_no_states_is_refused(file: Path, states: object, said: str) -> None:
    assert said in write_refusal(file, states)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ({"a": ("", "x")}, "node 'a' has a state without a name"),
        ({"a": ("x", " ")}, "node 'a' has a state without a name"),
        ({"a": ("x", "\ud800")}, r"'\ud800' in a name is no character"),
        ({"a;b": ("x", "y")}, "separated by ';'"),
        ({"a\0": ("x", "y")}, "holds binary data"),
    ],
)
def test_names_that_cannot_be_read_back_are_refused(file: Path, nodes: dict[str, Sequence[str]], said: str) -> None:
    assert said in write_refusal(file, [[1]], of(nodes))


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_states(tmp_path / "no" / "asia.csv", np.zeros((1, 3), int), ASIA)
    write_states(tmp_path / "asia.csv", np.zeros((1, 3), np.int8), ASIA)
    assert [path.name for path in tmp_path.iterdir()] == ["asia.csv"]


def test_importing_the_reader_loads_nothing_heavy() -> None:
    code = "import sys, latentzoo.models.readers.states; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "pandas", "scipy"} & set(loaded)
