"""The reader and the writer of the Interchange Format: what they keep, and what they refuse in one line."""

import gzip
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentzoo.models.language.errors import UserError
from latentzoo.models.language.graph import Network, Node
from latentzoo.models.readers import bif, bif_tokens
from latentzoo.models.readers.bif import format_bif, parse_bif, read_bif, write_bif

RAIN = "variable rain { type discrete [ 2 ] { yes, no }; }\n"
WIND = "variable wind { type discrete [ 3 ] { calm, breeze, gale }; }\n"
WET = "variable wet { type discrete [ 2 ] { wet, dry }; }\n"
ROOTS = RAIN + WIND + "probability ( rain ) { table 0.25, 0.75; }\nprobability ( wind ) { table 0.5, 0.25, 0.25; }\n"
HEAD = ROOTS + WET  # five lines
WINDS = ("calm", "breeze", "gale")
ROWS = {  # of wet, given rain and wind
    ("yes", "calm"): (1.0, 0.0),
    ("yes", "breeze"): (0.875, 0.125),
    ("yes", "gale"): (0.75, 0.25),
    ("no", "calm"): (0.5, 0.5),
    ("no", "breeze"): (0.25, 0.75),
    ("no", "gale"): (0.0, 1.0),
}
TABLE = [[list(ROWS[rain, wind]) for wind in WINDS] for rain in ("yes", "no")]


def given_both(body: str) -> str:
    """Return a network in which the block of wet, given rain and wind, begins on line 6 and its body on line 7."""
    return f"{HEAD}probability ( wet | rain, wind ) {{\n{body}\n}}\n"


def rows(*leave_out: tuple[str, str]) -> str:
    return "\n".join(f"({', '.join(at)}) {row[0]}, {row[1]};" for at, row in ROWS.items() if at not in leave_out)


def refusal(text: str) -> str:
    """Return the one line with which a text is refused."""
    with pytest.raises(UserError) as raised:
        parse_bif(text, "weather.bif")
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert line.startswith("weather.bif")
    assert len(line) < 2000
    return line


# The grammar


def test_a_network_is_read() -> None:
    network = parse_bif(f"network weather {{\n}}\n{given_both(rows())}", "file.bif")
    assert network.name == "weather"
    assert network.nodes == ("rain", "wind", "wet")
    assert network.states == (("yes", "no"), ("calm", "breeze", "gale"), ("wet", "dry"))
    assert network.parents == ((), (), ("rain", "wind"))
    assert network.table("rain").tolist() == [0.25, 0.75]
    assert network.table("wind").tolist() == [0.5, 0.25, 0.25]
    assert network.table("wet").tolist() == TABLE


def test_rows_come_in_any_order() -> None:
    lines = rows().split("\n")
    for order in list(permutations(lines))[::97]:
        assert parse_bif(given_both("\n".join(order)), "x").table("wet").tolist() == TABLE


def test_a_table_varies_its_own_state_slowest_and_the_last_parents_fastest() -> None:
    numbers = [ROWS[rain, wind][place] for place in range(2) for rain in ("yes", "no") for wind in WINDS]
    table = "table " + " ".join(map(str, numbers)) + ";"
    assert parse_bif(given_both(table), "x").table("wet").tolist() == TABLE


def test_a_default_fills_the_rows_left_out() -> None:
    body = "(no, gale) 0.0, 1.0; default 0.5, 0.5;"
    table = parse_bif(given_both(body), "x").table("wet")
    assert table[1, 2].tolist() == [0.0, 1.0]
    assert sorted(table.reshape(-1, 2).tolist()) == [[0.0, 1.0], *[[0.5, 0.5]] * 5]
    filled = given_both(rows() + "default 0.5, 0.5;")
    assert parse_bif(filled, "x").table("wet").tolist() == TABLE
    root = RAIN + "probability (rain) { default 0.25 0.75; }"
    assert parse_bif(root, "x").table("rain").tolist() == [0.25, 0.75]


def test_blocks_come_in_any_order_and_nodes_in_that_of_their_variables() -> None:
    blocks = (
        "network weather { }",
        RAIN,
        WET,
        "probability(rain){table 0.25,0.75;}",
        "probability(wet|rain){(no)0,1;(yes)1,0;}",
    )
    for order in permutations(blocks):
        network = parse_bif("\n".join(order), "x")
        assert network.name == "weather"
        assert network.nodes == (("rain", "wet") if order.index(RAIN) < order.index(WET) else ("wet", "rain"))
        assert network.table("wet").tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_what_javabayes_writes_is_read() -> None:
    text = """
    // Bayesian network
    network "Dog-Problem" { //5 variables and 5 probability distributions
        property "credal-set constant-density-bounded 1.1" ;
    }
    variable  "family-out" { //2 values
        type discrete[2] {  "true"  "false" };
        property "position = (257, 99)" ;
    }
    variable  "dog-out" { //2 values
        property "position = (300; {195})" ;
        type discrete[2] {  "true"  "false" };
    }
    probability (  "dog-out"  "family-out" ) { //2 variable(s) and 4 values
        table
            0.9 0.3   // p(true | true), p(true | false)
            0.1 0.7 ;
    }
    probability (  "family-out" ) { /* 1 variable(s)
        and 2 values */
        table 0.15 /* p(true) */ 0.85 // p(false)
        ;
    }
    """
    network = parse_bif(text, "x")
    assert network.name == "Dog-Problem"
    assert network.nodes == ("family-out", "dog-out")
    assert network.table("dog-out").tolist() == [[0.9, 0.1], [0.3, 0.7]]
    assert network.table("family-out").tolist() == [0.15, 0.85]


@pytest.mark.parametrize("family", ["a | b, c", "a|b,c", "a | b c", "a b c", "a, b, c", '"a"|"b""c"', "a | b, c,"])
def test_parents_may_be_set_apart_in_many_ways(family: str) -> None:
    variables = "".join(f"variable {name} {{ type discrete [ 2 ] {{ y n }}; }} " for name in "abc")
    roots = "probability (b) { table 1 0; } probability (c) { table 1 0; }"
    network = parse_bif(f"{variables}{roots} probability ({family}) {{ default 1 0; }}", "x")
    assert network.parents_of("a") == ("b", "c")


@pytest.mark.parametrize(
    "state",
    ["<5", "12+", "Asy/Patchy", "-", "1.5", "/", "a/", "*/", "5_12", "U/N?", "é", "'", "=", "table", "default", "&lt"],
)
def test_a_word_holds_all_but_space_and_delimiters(state: str) -> None:
    text = f"variable x {{ type discrete [ 2 ] {{ {state}, other }}; }} probability ( x ) {{ table 1, 0; }}"
    text += f"variable y {{ type discrete [ 1 ] {{ one }}; }} probability ( y | x ) {{ (other) 1; ({state}) 1; }}"
    network = parse_bif(text, "x")
    assert network.states_of("x") == (state, "other")
    assert f"{{ {state}, other }}" in format_bif(network)


@pytest.mark.parametrize("word", ["network", "variable", "probability", "property", "table", "default", "type"])
def test_a_word_of_the_format_can_be_a_name(word: str) -> None:
    node = Node(word, [word, "type"] if word != "type" else [word], [], [1.0, 0.0][: 1 + (word != "type")])
    network = Network.of(word, [node, Node("y", [word], [word], np.ones(len(node.states)))])
    assert parse_bif(format_bif(network), "x") == network


@pytest.mark.parametrize("numbers", ["0.25,0.75", "0.25 0.75", "+.25, 75e-2", "2.5E-01\n0.750000", "0.25/**/,//\n.75,"])
def test_numbers_are_written_in_many_ways(numbers: str) -> None:
    network = parse_bif(RAIN + f"probability ( rain ) {{ table {numbers}; }}", "x")
    assert network.table("rain").tolist() == [0.25, 0.75]


def test_rows_that_sum_nearly_to_one_are_divided_by_it() -> None:
    network = parse_bif(WIND + "probability ( wind ) { table 0.33333333, 0.33333333, 0.33333333; }", "x")
    np.testing.assert_allclose(network.table("wind"), 1.0 / 3.0, rtol=1e-15)
    line = refusal(WIND + "probability ( wind ) { table 0.333, 0.333, 0.333; }")
    assert line == "weather.bif: node 'wind': the probabilities sum to 0.999, not to 1"
    line = refusal(given_both(rows(("no", "calm")) + "(no, calm) 0.5, 0.25;"))
    assert line == "weather.bif: node 'wet' given rain=no, wind=calm: the probabilities sum to 0.75, not to 1"


@pytest.mark.parametrize("head", ["", "network {}", "network unknown {}", 'network "" { property x; }'])
@pytest.mark.parametrize("source", ["weather.bif", "a.b/weather.bif.gz", "weather", "/x/weather.BIF.GZ"])
def test_a_network_without_a_name_is_called_as_its_file(head: str, source: str) -> None:
    assert parse_bif(f"{head}\n{ROOTS}", source).name == "weather"


def test_properties_are_skipped() -> None:
    marks = "property position = (7306, 5118) ; property http://x.org/* ; property 'a' \"; } {\" // ;\n"
    network = parse_bif(f"network weather {{ {marks} }} {given_both(marks + rows())}", "x")
    assert network.table("wet").tolist() == TABLE


def test_lines_may_end_in_any_way() -> None:
    for end in ("\r\n", "\r"):
        assert parse_bif(given_both("// x\n" + rows()).replace("\n", end), "x").table("wet").tolist() == TABLE


# Mistakes


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        # Rows and tables.
        (given_both(rows() + "\n(yes, storm) 1, 0;"), 13, "no state of 'wind': 'storm'; there is: calm, breeze, gale"),
        (given_both("(yes, calmm) 1, 0;"), 7, "no state of 'wind': 'calmm'; did you mean 'calm'?"),
        (given_both("\n(yes) 1, 0;"), 8, "the row (yes) names 1 states: node 'wet' has 2 parents"),
        (given_both("(yes, calm, no) 1, 0;"), 7, "the row (yes, calm, no) names 3 states"),
        (given_both("(yes,\ncalm)\n1, 0, 0;"), 7, "the row (yes, calm) of node 'wet' has 3 probabilities"),
        (given_both("(yes, calm) 1;"), 7, "has 1 probabilities: its states and parents need 2"),
        (given_both("default 1, 0, 0;"), 7, "the default of node 'wet' has 3 probabilities"),
        (
            given_both("table 0.5, 0.5;"),
            7,
            "the table of node 'wet' has 2 probabilities: its states and parents need 12",
        ),
        (given_both(rows() + "\n(no, gale) 0, 1;"), 13, "node 'wet' has the row (no, gale) twice"),
        (given_both(rows(("no", "gale"), ("yes", "breeze"))), 6, "lacks 2 of its 6 rows, the first (yes, breeze)"),
        (given_both(rows(("no", "gale"))), 6, "node 'wet' lacks 1 of its 6 rows, the first (no, gale)"),
        (given_both(""), 6, "node 'wet' lacks 6 of its 6 rows, the first (yes, calm)"),
        (given_both("table 1 1;\ntable 1 1;"), 8, "node 'wet' has a second table"),
        (given_both("default 1 0;\ndefault 1 0;"), 8, "node 'wet' has a second default"),
        (given_both("default 1 0;\ntable 1 0;"), 8, "node 'wet' has a table and more"),
        (given_both(rows() + "\ntable 1 0;"), 13, "node 'wet' has a table and more"),
        (given_both("() 1 0;"), 7, "expected a state, found ')'"),
        (RAIN + "probability ( rain ) {\n}", 2, "node 'rain' has no table"),
        (RAIN + "probability ( rain ) { (yes) 1 0; }", 2, "the row (yes) names 1 states: node 'rain' has 0 parents"),
        # Numbers.
        *(
            (given_both(f"default 0.5,\n{word};"), 8, f"expected a number from 0 to 1 or ';', found {word!r}")
            for word in ("nan", "inf", "-0.5", "1_0", "0x1", "x", "½", "٣", "1e", "1.2.3")
        ),
        (given_both("default 0.5, ;;"), 7, "expected 'table' or 'default' or '(' or 'property' or '}', found ';'"),
        (given_both("default 0.5,, 0.5;"), 7, "expected a number from 0 to 1 or ';', found ','"),
        (given_both('default "0.5" 0.5;'), 7, "expected a number from 0 to 1, found '\"0.5\"'"),
        (given_both("default ;"), 7, "expected a number from 0 to 1, found ';'"),
        (given_both("default 0.5\n1.5;"), 8, "1.5 is no probability, from 0 to 1"),
        (given_both("default 0.5\n1e999;"), 8, "1e999 is no probability, from 0 to 1"),
        # Variables and blocks.
        (
            "\nvariable a { type discrete [ 3 ] { x, y }; }",
            2,
            "variable 'a' has 2 states, but [ 3 ] says that it has 3",
        ),
        ("variable a { type discrete [ 2 ] { x, x }; }", 1, "variable 'a' has the state 'x' twice"),
        ("variable a { type discrete [ two ] { x }; }", 1, "expected the number of states, found 'two'"),
        ("variable a { type discrete [ %s ] { x }; }" % ("9" * 900), 1, "expected the number of states, found '9999"),
        ("variable a { type discrete [ 0 ] { }; }", 1, "expected a state, found '}'"),
        ("variable a {\ntype continuous;\n}", 2, "variable 'a' has the type 'continuous': only 'discrete' can be read"),
        ("\nvariable a {\n}", 2, "variable 'a' has no type: write type discrete [ 2 ] { no, yes };"),
        ("variable a { type discrete [1] {x};\ntype discrete [1] {x}; }", 2, "variable 'a' has a second type"),
        ("variable { type", 1, "expected the name of a variable, found '{'"),
        (HEAD + "\n" + WET, 7, "a second variable block of 'wet'"),
        (HEAD + "probability ( rain ) { table 1 0; }", 6, "a second probability block of 'rain'"),
        (HEAD, 5, "variable 'wet' has no probability block"),
        (
            HEAD + "probability ( wett ) { table 1 0; }",
            6,
            "no variable 'wett'; did you mean 'wet'? there is: rain, wind",
        ),
        (
            HEAD + "probability ( wet | rainy ) {}",
            6,
            "no variable to be a parent of 'wet': 'rainy'; did you mean 'rain'?",
        ),
        (HEAD + "probability ( wet | rain, rain ) {}", 6, "node 'wet' has the parent 'rain' twice"),
        (HEAD + "probability ( wet | ) {}", 6, "expected a parent, found ')'"),
        (HEAD + "probability wet {}", 6, "expected '(', found 'wet'"),
        (HEAD + "probability ( wet : rain ) {}", 6, "expected a parent, found ':'"),
        ("network a {}\nnetwork b {}", 2, "a second network block"),
        # Anything else.
        (HEAD + "}", 6, "expected 'network', 'variable' or 'probability', found '}'"),
        ("longitude,latitude\n1,2\n", 1, "'variable' or 'probability', found 'longitude'"),
        ("\n<?xml" + "x" * 100, 2, "found '<?xmlxxxxxxxxxxxxxxxxxxxxxx...'"),
        ("network a {\ntype b; }", 2, "expected 'property' or '}', found 'type'"),
        ("variable a {\ntype discrete [ 1 ] { x }\n}", 3, "expected ';', found '}'"),
        ("variable a { type discrete [ 1 ] { x ; } }", 1, "expected a state or '}', found ';'"),
        ('"network" a {}', 1, "found '\"network\"'"),
        (RAIN + "/* /* */ */", 2, "found '*/'"),
        (RAIN + "\n/* never\n\n closed", 3, "a comment opens here and never closes"),
        ("variable a { /*/ }", 1, "a comment opens here and never closes"),
        ('network\n"never closed {\n}', 2, "a quote opens here and never closes on its line"),
        ('variable a { type discrete [ 1 ] { "x\n" }; }', 1, "a quote opens here"),
        ("network a {\n property x = 1\n}\n" + RAIN, 2, "a property opens here and does not end with ';'"),
        ("network a {\n property x", 2, "a property opens here and does not end with ';'"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, line: int, said: str) -> None:
    message = refusal(text)
    assert message.startswith(f"weather.bif: line {line}: ")
    assert said in message


@pytest.mark.parametrize(("end", "line"), [("\n", 7), ("\r\n", 7), ("\r", 7)])
def test_lines_are_counted_as_an_editor_does(end: str, line: int) -> None:
    assert f": line {line}: " in refusal(given_both("(yes, storm) 1, 0;").replace("\n", end))


def test_a_text_that_is_cut_off_is_refused_wherever_it_is() -> None:
    whole = "network weather {\n}\n" + WET + given_both(rows()).replace(WET, "")
    assert parse_bif(whole, "x").table("wet").tolist() == TABLE
    for length in range(1, len(whole.rstrip())):
        assert refusal(whole[:length])
    line = refusal(whole[: whole.index("breeze) 0.25")])
    assert line.startswith("weather.bif: line 13: expected a state or ')', but the file ends: ")
    assert line.endswith("it is cut off in the block that begins on line 8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n\t\n", "is empty"),
        ("// nothing\n", "has no node"),
        ("network weather { }", "has no node"),
        ("network x {}\0", "it holds binary data"),
        ('variable "" { type discrete [ 1 ] { x }; } probability ( "" ) { table 1; }', "a node is called ''"),
    ],
)
def test_a_text_without_a_network_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_cycle_is_named() -> None:
    text = RAIN + WET + "probability (rain | wet) { default 1 0; } probability (wet | rain) { default 1 0; }"
    assert refusal(text) == "weather.bif: weather has a cycle: rain -> wet -> rain"


# Hostile texts: each would take hours, or all memory, if what it asks for were done


def chain(number: int, states: str = "y, n", numbers: str = "1 0") -> str:
    """Return roots x0, x1, ... with these states."""
    kind = f"type discrete [ {states.count(',') + 1} ] {{ {states} }};"
    return "".join(f"variable x{i} {{ {kind} }} probability (x{i}) {{ table {numbers}; }}\n" for i in range(number))


def family(name: str, number: int) -> str:
    parents = ", ".join(f"x{place}" for place in range(number))
    return f"{WET.replace('wet {', f'{name} {{')}probability ( {name} | {parents} ) {{ default 1 0; }}\n"


def test_a_table_that_is_too_large_is_refused_before_it_is_made() -> None:
    for parents in (20, 40):
        line = refusal(chain(parents) + family("wet", parents))
        assert (
            f"line {parents + 2}: node 'wet' with {parents} parents needs a table of more numbers than 1,048,576"
            in line
        )
    assert "has 5,000 parents: at most 60 are possible" in refusal(chain(5000) + family("wet", 5000))
    assert "has 64 parents" in refusal(chain(64, "y", "1") + family("wet", 64))
    assert parse_bif(chain(60, "y", "1") + family("wet", 60), "x").table("wet").size == 2


def test_all_tables_together_may_be_too_large() -> None:
    text = chain(19) + "".join(family(f"n{number}", 19) for number in range(1000))
    assert "the tables up to that of 'n3' need more than 4,194,304 numbers" in refusal(text)


def test_lists_may_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bif_tokens, "MOST_ITEMS", 10)
    for text in (
        RAIN + "\nprobability ( rain ) { table 0 0\n0 0 0 0 0 0 0 0 0 0; }",
        "\nvariable a { type discrete [ 11 ] {\n a b c d e f g h i j k }; }",
        RAIN + "\nprobability ( rain | a b c\nd e f g h i ) {",
    ):
        assert "line 3" in (line := refusal(text)) or "line 4" in line
        assert "more than 10 states, parents and probabilities" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{" * 10**6, "line 1: expected 'network'"),
        ("x" * 10**6, "longer than 1000 characters"),
        ("network " + "x" * 10**6, "'xxxxxxxxxxxxxxxxxxxxxxxxxxx...' is longer than 1000 characters"),
        (RAIN + "probability ( rain ) { table " + "9" * 10**6 + " 0; }", "line 2: '999999999999999999999999999...' is"),
        ("network x { property " + '"a' * 500_001, "does not end"),
        ("network x { property " + "/*" * 500_000, "does not end"),
        ("/* " * 500_000, "comment opens here"),
        ('"' * 1_000_001, "found '\"\"'"),
        ("//" * 500_000, "no node"),
        ("/**/" * 250_000 + "/", "found '/'"),
        ("variable x { type discrete [ 1 ] { " + "a " * 500_000, "but the file ends"),
        ("probability ( " + "( " * 500_000, "expected the name of a variable, found '('"),
    ],
)
def test_long_nonsense_is_refused_at_once(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_name_is_compared_with_a_bounded_number_of_others() -> None:
    names = ["".join(letters) + "a" * 990 for letters in product("abcdefghij", repeat=3)]
    states = f"variable a {{ type discrete [ 1000 ] {{ {', '.join(names)} }}; }}"
    text = f"{states}\nprobability ( a ) {{ default 1; }}\n{WET}probability ( wet | a ) {{ ({'b' * 999}) 1 0; }}"
    text = text.replace("default 1;", "table 1" + " 0" * 999 + ";")
    line = refusal(text)
    assert line.startswith("weather.bif: line 4: no state of 'a': 'bbbb")
    assert "there is" not in line


# Files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weather.bif"


def file_refusal(path: Path) -> str:
    with pytest.raises(UserError) as raised:
        read_bif(path)
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert str(path) in line
    return line


@pytest.mark.parametrize("name", ["weather.bif", "weather.bif.gz"])
def test_a_file_is_written_and_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = parse_bif(given_both(rows()), name)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_bif(network, f"~/{name}")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_bif(f"~/{name}") == read_bif(tmp_path / name) == network
    content = (tmp_path / name).read_bytes()
    assert (gzip.decompress(content) if name.endswith("gz") else content).decode() == format_bif(network)


def test_a_mark_of_byte_order_is_fine(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + given_both(rows()).encode())
    assert read_bif(file).nodes == ("rain", "wind", "wet")


def test_a_file_that_cannot_be_read_is_refused_in_one_line(file: Path) -> None:
    assert "No such file" in file_refusal(file)
    assert "directory" in file_refusal(file.parent)
    for content, said in [
        (b"", "is empty"),
        (b"\0" * 100, "it holds binary data"),
        (bytes(range(1, 256)), "is not text in UTF-8"),
        (b"network x {}\n// \xe9", "is not text in UTF-8: line 2 is not; save it as UTF-8"),
    ]:
        file.write_bytes(content)
        assert said in file_refusal(file)
    packed = file.with_suffix(".bif.gz")
    packed.write_bytes(RAIN.encode())
    assert "gzip" in file_refusal(packed)
    whole = gzip.compress(given_both(rows()).encode())
    for length in (5, 15, len(whole) - 9, len(whole) - 1):
        packed.write_bytes(whole[:length])
        assert "cannot read" in file_refusal(packed)
    packed.write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    assert "cannot read" in file_refusal(packed)


@pytest.mark.parametrize("name", ["weather.bif", "weather.bif.gz"])
def test_a_file_may_be_too_large(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bif, "MOST_BYTES", 2**20)
    for size, said in [(2**20, "is empty"), (2**20 + 1, "holds more than 1 MiB")]:
        content = b" " * size
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert said in file_refusal(tmp_path / name)


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    network = parse_bif(ROOTS, "x")
    with pytest.raises(UserError, match="cannot write"):
        write_bif(network, tmp_path / "no" / "weather.bif")
    with pytest.raises(UserError, match="cannot be written"):
        write_bif(Network.of('a"b', [Node("a", ["x"], [], [1.0])]), tmp_path / "weather.bif")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\r", "a\x0bb", "a\u2028b", "a\x85b", "a\0b", "\ud800", "x" * 999])
@pytest.mark.parametrize("where", ["network", "node", "state"])
def test_a_name_that_cannot_be_written_is_refused(name: str, where: str) -> None:
    names = {"network": "n", "node": "x", "state": "s"} | {where: name}
    network = Network.of(names["network"], [Node(names["node"], [names["state"]], [], [1.0])])
    with pytest.raises(UserError) as raised:
        format_bif(network)
    line = str(raised.value)
    assert line.splitlines() == [line]
    assert "cannot be written as BIF: a name is text of at most 998 characters" in line


def test_importing_the_reader_loads_nothing_heavy() -> None:
    code = "import sys, latentzoo.models.readers.bif; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "jax", "pandas", "scipy"} & set(loaded)


# Round trips

# Of these, all but those that `test_a_name_that_cannot_be_written_is_refused` has can be written.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters='"\0\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029')
PLAIN = st.text("ab<+/*-.é'=:;(){}[],| \t\\#", max_size=6)
NAMES = st.one_of(PLAIN, st.text(LETTERS, max_size=6), st.sampled_from(["x" * 998, "table", "//", "/*", "0.5"]))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Return a network with odd names whose probabilities are sixteenths, so that their sums are exact."""
    node_names = draw(st.lists(NAMES.filter(str.strip), min_size=1, max_size=5, unique=True))
    nodes: list[Node] = []
    for name in node_names:
        states = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
        parents = draw(st.permutations(nodes))[: draw(st.integers(0, 3))]
        shape = [len(parent.states) for parent in parents]
        rng = np.random.default_rng(draw(st.integers(0, 1000)))
        table = rng.multinomial(16, np.full(len(states), 1.0 / len(states)), size=shape) / 16.0
        nodes.append(Node(name, states, [parent.name for parent in parents], table))
    name = draw(NAMES.filter(lambda name: name not in ("", "unknown")))
    return Network.of(name, draw(st.permutations(nodes)))


@given(networks())
def test_what_is_written_is_read_back(network: Network) -> None:
    assert parse_bif(format_bif(network), "file.bif") == network


@given(networks())
def test_rows_and_table_say_the_same(network: Network) -> None:
    """The blocks of a node as one table, in the order that the definition of the format gives it."""
    text = format_bif(network).split("\nprobability (")
    blocks = []
    for node, block in zip(network.nodes, text[1:], strict=True):
        numbers = np.moveaxis(network.table(node), -1, 0).ravel().tolist()
        blocks.append(f"\nprobability ({block.splitlines()[0]}\n table {' '.join(map(repr, numbers))}; }}")
    assert parse_bif(text[0] + "".join(blocks), "file.bif") == network


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_numbers_are_kept(num_states: int, seed: int) -> None:
    table = np.random.default_rng(seed).dirichlet(np.full(num_states, 0.3), size=3)
    nodes = [Node("a", "xyz", [], [0.25, 0.5, 0.25]), Node("b", [f"s{i}" for i in range(num_states)], ["a"], table)]
    network = Network.of("net", nodes)
    assert parse_bif(format_bif(network), "x") == network


def test_a_negative_zero_and_a_small_number_are_kept() -> None:
    network = Network.of("net", [Node("a", ["x", "y", "z"], [], [-0.0, 1.0, 5e-324])])
    assert "table 0.0, 1.0, 5e-324;" in format_bif(network)
    assert parse_bif(format_bif(network), "x") == network


def read_or_refused(text: str) -> Network | None:
    """Return the network, if the text has one; that it has none is said in one line."""
    try:
        return parse_bif(text, "x.bif")
    except UserError as error:
        line = str(error)
    assert line.splitlines() == [line]
    assert line.startswith("x.bif")
    return None


WORDS = st.sampled_from([*'{}()[],;|:"/* \n.0', "network", "variable", "type discrete", "probability", " a ", "1"])


@given(st.lists(WORDS).map("".join))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    assert read_or_refused(text) is None


@given(st.data())
def test_a_text_with_one_fault_is_read_or_refused_in_one_line(data: st.DataObject) -> None:
    whole = given_both(rows())
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(start + 8, len(whole))))
    text = whole[:start] + data.draw(st.text('{}()[],;|:"/*ax.05-\n', max_size=3)) + whole[stop:]
    network = read_or_refused(text)
    assert network is None or all(network.table(node).shape == network.shape(node) for node in network.nodes)


# A real network


def test_asia(data_folder: Path) -> None:
    path = data_folder / "asia.bif"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is missing (name another folder with LATENTZOO_DATA)")
    network = read_bif(path)
    assert repr(network) == "<Network asia: 8 nodes, 8 arcs>"
    assert network.nodes == ("asia", "tub", "smoke", "lung", "bronc", "either", "xray", "dysp")
    assert set(network.states) == {("yes", "no")}
    assert network.parents_of("either") == ("lung", "tub")
    either = network.table("either")
    assert either[network.state("lung", "no"), network.state("tub", "yes")].tolist() == [1.0, 0.0]
    assert either[1, 1].tolist() == [0.0, 1.0]
    assert network.table("dysp")[network.state("bronc", "no"), network.state("either", "yes")].tolist() == [0.7, 0.3]
    assert network.table("dysp")[network.state("bronc", "yes"), network.state("either", "no")].tolist() == [0.8, 0.2]
    assert format_bif(network) == path.read_text().replace("network unknown", "network asia")
