"""The documentation is run: its examples work, its commands end well, its names and links exist, its figures hold."""

import importlib
import importlib.util
import inspect
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import latentzoo as lz
from latentzoo.cli import main
from latentzoo.models.language.contract import fields, shared
from latentzoo.models.language.ppl import LIBRARIES

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.md"))}
README, CONTRIBUTING, NOTATION = PAGES["README.md"], PAGES["CONTRIBUTING.md"], PAGES["NOTATION.md"]
MINUTES = ("latentzoo verify", "latentzoo bench", "latentzoo conformance")
SKELETON = "poisson_mixture"


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page where it begins."""

    language: str
    text: str
    line: int


def blocks(page: str, *languages: str) -> list[Block]:
    found = re.finditer(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    made = [Block(match[1], match[2], page[: match.start(2)].count("\n")) for match in found]
    return [block for block in made if block.language in languages]


def commands(page: str, *languages: str) -> list[str]:
    lines = [line for block in blocks(page, *languages) for line in block.text.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.strip()]


SHELL = {name: commands(page, "bash", "console") for name, page in PAGES.items()}
LONG = sorted({line for lines in SHELL.values() for line in lines if line.startswith(MINUTES)})


def test_every_block_has_a_language_that_is_known() -> None:
    for name, page in PAGES.items():
        fences = re.findall(r"^```(.*)$", page, re.MULTILINE)
        assert set(fences[::2]) <= {"python", "bash", "console", "text"}, name
        assert set(fences[1::2]) <= {""}, name


# --- README -----------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    examples = blocks(README, "python")
    assert examples
    for block in examples:
        padded = "\n" * block.line + block.text  # so that a traceback names the line of the page
        exec(compile(padded, "README.md", "exec"), namespace)
    found = re.search(
        r"ends at a bound of (-[\d,]+) nats; coordinate ascent, `fit.elbo` above, reached (-[\d,]+)", README
    )
    assert found
    by_svi, by_cavi = (float(number.replace(",", "")) for number in found.groups())
    assert float(namespace["bound"]) == pytest.approx(by_svi, abs=1.5)  # JAX in float32
    assert namespace["fit"].elbo == pytest.approx(by_cavi, abs=0.5)


def quick(line: str) -> bool:
    return line.startswith("latentzoo ") and not line.startswith(MINUTES)


@pytest.mark.parametrize("name", [name for name, lines in SHELL.items() if any(map(quick, lines))])
def test_the_commands_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in filter(quick, SHELL[name]):
        assert main(shlex.split(line)[1:]) == 0, line


@pytest.mark.slow
@pytest.mark.parametrize("line", LONG)
def test_the_commands_that_take_minutes_run(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    for _, compared in re.findall(r"(\d+) of (\d+) comparisons hold", capsys.readouterr().out):
        assert f"All {compared} comparisons hold" in " ".join(README.split())


def test_every_other_command_is_a_target_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for name, lines in SHELL.items():
        for line in lines:
            if not line.startswith("latentzoo "):
                program, target, *_ = shlex.split(line)
                assert (program, target in targets) == ("make", True), f"{name}: {line}"
    for name, page in PAGES.items():
        assert {*re.findall(r"`make ([a-z-]+)", page)} <= targets, name


def test_the_readme_has_every_model_and_method() -> None:
    for name in lz.names():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{method}`" in row for method in lz.get(name).methods)


def told(name: str) -> str:
    """Return the command of the README on files that are not part of the repository, for a model."""
    (line,) = [line for line in commands(README, "text") if line.startswith(f"latentzoo fit {name} ")]
    return line


def test_the_maxima_of_old_faithful_are_those_of_its_command(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(data_folder / "faithful.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    found = {}
    for covariance in ("full", "tied", "diag"):
        assert main([*shlex.split(told("gaussian_mixture"))[1:], "--covariance-type", covariance]) == 0
        found[covariance] = json.loads((tmp_path / "out" / "faithful" / "fit.json").read_text())["elbo"]
    full, tied, diag = (f"{number:.3f}" for number in found.values())
    words = f"{full} nats, with `--covariance-type tied` {tied} and with `diag` {diag}"
    assert words in " ".join(README.split())


def test_the_perplexities_of_the_readme_are_those_of_its_command(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (data_folder / "tinyshakespeare.txt").read_text(encoding="utf-8")
    lines = [f"{line}\n" for line in text.split("\n") if line.strip()]
    ends = [0, int(0.8 * len(lines)), int(0.9 * len(lines)), len(lines)]
    for name, start, end in zip(("train", "valid", "test"), ends, ends[1:], strict=False):
        (tmp_path / f"{name}.txt").write_text("".join(lines[start:end]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    test = {}
    for method in ("em", "map"):
        assert main([*shlex.split(told("aggregate_markov"))[1:], "--method", method]) == 0
        test[method] = json.loads((tmp_path / "out" / "shakespeare" / "fit.json").read_text())["test"]
    either = test["map"]
    cells = (
        either["unigram_perplexity"],
        test["em"]["perplexity"],
        either["perplexity"],
        either["interpolated_perplexity"],
        either["smoothed_bigram_perplexity"],
    )
    assert f"| {' | '.join(f'{cell:.1f}' for cell in cells)} |" in README
    tokens, unknown = either["tokens"], 100.0 * either["out_of_vocabulary_rate"]
    assert f"{tokens:,.0f} test tokens, of which {unknown:.1f} % are out of vocabulary" in " ".join(README.split())


def test_the_figures_of_the_readme_are_those_of_its_command(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = told("earthquakes")
    shutil.copy(data_folder / "quakes.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(line)[1:], "--num-restarts", "20"]) == 0
    found = json.loads((tmp_path / "out" / "quakes" / "fit.json").read_text())
    ends = [run["elbo"] for run in found["restarts"]]
    at_best = sum(end > max(ends) - 0.01 for end in ends)
    words = " ".join(README.split())
    assert f"reaches an ELBO of {ends[0]:,.2f} nats after {found['restarts'][0]['num_steps']} steps" in words
    assert f"Of {len(ends)} starts (`--num-restarts {len(ends)}`, seed 0), {at_best} end at that bound" in words
    lower = sorted({f"{end:,.0f}" for end in ends if end <= max(ends) - 0.01})
    assert f"and {len(ends) - at_best} in other optima, at {' and '.join(lower)}" in words


# --- CONTRIBUTING -----------------------------------------------------------------------------------------------------


@pytest.fixture
def skeleton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Path]]:
    """The files of the skeleton, put where the zoo finds them."""
    named = re.findall(r"^`([\w/]+\.py)`[^`]*\n\n```python\n(.*?)^```$", CONTRIBUTING, re.MULTILINE | re.DOTALL)
    files = {name: tmp_path / name for name, _ in named}
    for name, text in named:
        files[name].parent.mkdir(parents=True)
        files[name].write_text(text, encoding="utf-8")
    assert len(files) == len(blocks(CONTRIBUTING, "python"))
    for room in ("models", "guides", "inference/closed_form"):
        package = importlib.import_module(f"latentzoo.{room.replace('/', '.')}")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / room)])
    importlib.invalidate_caches()
    yield files
    for module in [name for name in sys.modules if name.startswith("latentzoo.") and name.endswith(f".{SKELETON}")]:
        parent, _, name = module.rpartition(".")
        vars(sys.modules[parent]).pop(name, None)
        del sys.modules[module]


def load(path: Path) -> dict[str, object]:
    """Return what a file of tests holds."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


def test_the_skeleton_is_proved(skeleton: dict[str, Path]) -> None:
    for library in LIBRARIES:
        report = lz.verify(SKELETON, library=library, progress=False)
        assert report.ok, str(report)
        assert not any("z-test" in row.way for row in report.rows)


def test_the_skeleton_keeps_the_contract(skeleton: dict[str, Path], tmp_path: Path) -> None:
    assert SKELETON in lz.names()
    given = {"zoo": lz.get(SKELETON), "tmp_path": tmp_path}
    rooms = load(ROOT / "tests" / "contract" / "test_rooms.py")
    ran = 0
    for name, test in rooms.items():
        if name.startswith("test_") and callable(test) and "zoo" in inspect.signature(test).parameters:
            test(**{argument: given[argument] for argument in inspect.signature(test).parameters})
            ran += 1
    assert ran >= 9


def test_the_tests_of_the_skeleton_pass(skeleton: dict[str, Path]) -> None:
    tests = load(skeleton[f"tests/models/test_{SKELETON}.py"])
    chosen = [test for name, test in tests.items() if name.startswith("test_") and callable(test)]
    assert chosen
    for test in chosen:
        test()


def test_the_skeleton_has_commands(skeleton: dict[str, Path], tmp_path: Path) -> None:
    data, out = str(tmp_path / "calls.csv"), tmp_path / "out"
    assert main(["simulate", SKELETON, "--num-rows", "30", "-o", data]) == 0
    assert main(["fit", SKELETON, "--data", data, "-o", str(out)]) == 0
    assert lz.load(out / "fit.npz").converged


# --- NOTATION ---------------------------------------------------------------------------------------------------------


def rows(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, without its head."""
    section = page.split(heading, 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


@pytest.mark.parametrize("name", re.findall(r"^## .*`(\w+)`$", NOTATION, re.MULTILINE))
def test_every_symbol_has_a_name_in_the_code_and_every_name_a_symbol(name: str) -> None:
    homes: dict[str, set[str]] = {}
    options = {"weights": "dirichlet", "noise": "per_component"} if name == "earthquakes" else {}
    zoo = lz.get(name, **options)
    trees = [zoo.Data, zoo.Prior, zoo.Theta, zoo.Phi, *([zoo.closed_form.Stats] if zoo.is_exact else [])]
    for tree in trees:
        held_by_all = {name for name, field in fields(tree).items() if shared in field.marks}
        homes[tree.__name__] = set(tree._fields) - held_by_all
    homes["Spec"] = {field for field, value in vars(zoo.spec).items() if type(value) is int}
    homes["site"] = set(zoo.plates()) if name != "bayesian_network" else set()  # they are called as its nodes
    listed: dict[str, set[str]] = {home: set() for home in homes}
    for _, _, code, where in rows(NOTATION, f"`{name}`\n"):
        for home in where.split(", "):
            listed[home].add(code.strip("`"))
    if zoo.is_exact:
        listed["Stats"] |= {"bound", "scale"}  # every such model has them: they are in the other table
    assert listed == homes


def test_every_model_has_its_symbols() -> None:
    assert re.findall(r"^## .*`(\w+)`$", NOTATION, re.MULTILINE) == lz.names()


def test_every_common_word_is_a_name_in_the_code() -> None:
    zoo = lz.get("earthquakes")
    data, _ = zoo.simulate(num_rows=5)
    fit = lz.fit(zoo, data, progress=False)
    homes = {
        "Entry": set(dir(zoo)),
        "Params": set(lz.Params._fields),
        "closed form": {verb for name in lz.names() for verb in dir(lz.get(name).closed_form)},
        "Stats": set(zoo.closed_form.Stats._fields),
        "Fit": set(dir(fit)),
        "evaluate": set(fit.evaluate(num_draws=2)),
    }
    for word, _, where in rows(NOTATION, "## Words that every model shares"):
        assert word.strip("`") in homes[where], word


# --- all pages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", PAGES[name])
    local = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_test_that_is_named_exists(name: str) -> None:
    written = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGES[name])
    assert [test for test in named if f"def {test}(" not in written] == []
