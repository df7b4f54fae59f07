"""The command line: what it writes can be read back, its options reach the model, and mistakes are one line."""

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import click
import numpy as np
import pytest

import latentzoo as lz
from latentzoo.benchmarks import runner
from latentzoo.benchmarks.results import Row
from latentzoo.cli import main, root
from latentzoo.inference.checks import Check, Report
from latentzoo.models.language import contract
from latentzoo.options import keywords, options, sentence

CATALOGUE = """time,long,lat,stations
1,10.0,50.0,4
2,10.5,50.5,7
3,170.0,-20.0,30
4,-179.0,-21.0,28
5,171.0,none,25
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulated catalogue, `data.csv`, and its fit, `fit/`."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "foreign.csv").write_text(CATALOGUE)
    assert main(["simulate", "earthquakes", "-o", str(folder / "data.csv"), "--num-rows", "60", "--seed", "3"]) == 0
    options = ["--num-components", "2", "--noise", "shared", "--prior", "noise_shape=4", "--num-restarts", "2"]
    assert main(["fit", "earthquakes", "--data", str(folder / "data.csv"), *options, "-o", str(folder / "fit")]) == 0
    return folder


# --- looking ---------------------------------------------------------------------------------------------------------


def test_list_and_help_load_no_library() -> None:
    code = (
        "import sys; from latentzoo.cli import main; main(['list']); main(['fit', 'earthquakes', '-h']);"
        "print(*{'torch', 'jax', 'arviz', 'pandas', 'matplotlib', 'scipy.stats'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.strip() == ""
    assert done.stdout.startswith(lz.names()[0])


def test_the_module_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "latentzoo", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "latentzoo", "")


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "latentzoo", "show", "earthquakes"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


@pytest.mark.parametrize("name", lz.names())
def test_list_has_the_first_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    story = " ".join(str(lz.get(name).model_room.__doc__).split())
    listed = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"(?<!\w){name} {re.escape(story[:40])}", listed)


@pytest.mark.parametrize("name", lz.names())
def test_show_names_everything_that_can_be_chosen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", name]) == 0
    shown, zoo = capsys.readouterr().out, lz.get(name)
    fields = [*vars(zoo.spec), *zoo.Data._fields, *zoo.Prior._fields, *zoo.methods]
    assert [field for field in fields if field not in shown.replace("-", "_")] == []
    assert str(zoo.model_room.__doc__).splitlines()[0] in shown


@pytest.mark.parametrize("command", ["fit", "simulate"])
@pytest.mark.parametrize("name", lz.names())
def test_help_has_an_option_for_every_field_of_the_spec(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, name, "--help"]) == 0
    shown = capsys.readouterr().out
    # But for those that cannot be written on a command line, such as networks of one's own.
    written = [field.name for field in keywords(lz.get(name).model_room.Spec) if field.option]
    assert written
    assert [field for field in written if f"--{field.replace('_', '-')} " not in shown] == []


@pytest.mark.parametrize(
    "argv", [[], ["--help"], ["fit", "--help"], ["simulate", "-h"], ["verify", "--help"], ["bench", "-h"]]
)
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("Usage: latentzoo")


# --- simulate and fit ------------------------------------------------------------------------------------------------


def test_a_simulated_file_holds_what_the_model_draws(folder: Path) -> None:
    data, _ = lz.get("earthquakes").simulate(seed=3, num_rows=60)
    read = lz.get("earthquakes").read(folder / "data.csv")
    np.testing.assert_array_equal(read.location, data.location)
    np.testing.assert_array_equal(read.strength, data.strength)


def test_a_fit_can_be_read_back(folder: Path) -> None:
    import arviz as az

    fit = lz.load(folder / "fit" / "fit.npz")
    numbers = json.loads((folder / "fit" / "fit.json").read_text())
    posterior = az.from_netcdf(folder / "fit" / "posterior.nc")
    assert numbers["elbo"] == fit.elbo
    assert numbers["prior"]["noise_shape"] == 4.0
    assert numbers["metrics"]["num_rows"] == 60
    assert "60 of 60" in numbers["data"]
    assert posterior.posterior["loc"].shape[2:] == (2, 2)
    assert posterior.log_likelihood["obs"].shape[2:] == (60,)


def test_a_fit_leaves_pictures_and_no_temporary_files(folder: Path) -> None:
    names = {path.name for path in (folder / "fit").iterdir()}
    assert names >= {"fit.npz", "fit.json", "posterior.nc", "elbo.png"}
    assert {path for path in names if path.startswith(".")} == set()


def test_options_reach_the_spec_the_prior_and_the_method(folder: Path) -> None:
    fit = lz.load(folder / "fit" / "fit.npz")
    assert (fit.entry.spec.num_components, fit.entry.spec.noise) == (2, "shared")
    assert float(fit.prior.noise_shape) == 4.0
    assert len(fit.restarts) == 2


def test_the_command_line_and_python_give_the_same_fit_to_the_bit(folder: Path) -> None:
    zoo = lz.get("earthquakes", num_components=2, noise="shared")
    data = zoo.read(folder / "data.csv")
    fit = lz.fit(zoo, data, prior=zoo.prior(data, noise_shape=4.0), num_restarts=2, progress=False)
    found = contract.leaves(lz.load(folder / "fit" / "fit.npz").params)
    wanted = contract.leaves(fit.params)
    assert {name: leaf.tobytes() for name, leaf in found.items()} == {
        name: leaf.tobytes() for name, leaf in wanted.items()
    }


def test_the_reader_is_told_and_tells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name may come after options; one number fills a field of the prior; a note is a line on stderr."""
    out = folder / "foreign"
    columns = ["--longitude", "long", "--latitude", "lat", "--count", "stations", "--on-bad", "skip"]
    method = [
        "--num-steps",
        "2",
        "--centre-longitude",
        "180",
        "--weights",
        "dirichlet",
        "--prior",
        "weights-concentration=0.5",
    ]
    argv = ["--data", str(folder / "foreign.csv"), *columns, *method]
    assert main(["fit", "--num-components", "2", "earthquakes", *argv, "-o", str(out)]) == 0
    told = capsys.readouterr()
    assert "4 of 5" in told.out
    assert "converged  no: num_steps = 2 came first" in told.out
    assert f"wrote {out / 'fit.npz'}" in told.out
    assert told.err.strip() == "latentzoo: note: cavi has not converged: num_steps = 2 came first"
    fit = lz.load(out / "fit.npz")
    assert fit.prior.weights_concentration.tolist() == [0.5, 0.5]
    assert 0 < fit.prior.loc_mean[0] < 180  # the antimeridian does not cut the second cluster


def test_without_data_the_model_gives_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--num-components",
        "2",
        "--noise",
        "shared",
        "--max-seconds",
        "0.001",
        "--prior",
        "loc_mean=100,40",
        "--prior",
        "loc_variance=9",
        "--seed",
        "5",
    ]
    assert main(["fit", "earthquakes", *argv, "-o", str(tmp_path / "deep" / "out")]) == 0
    assert "simulated data of earthquakes, seed 5" in capsys.readouterr().out
    fit = lz.load(tmp_path / "deep" / "out" / "fit.npz")
    assert fit.prior.loc_mean.tolist() == [100.0, 40.0]
    assert np.abs(fit.params.phi.loc_mean - [100.0, 40.0]).max() < 60.0  # the data were drawn with that prior, too


def test_warnings_of_others_are_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.warn("of a library", FutureWarning, stacklevel=1)
        warnings.warn("of\nours", lz.Note, stacklevel=1)

    monkeypatch.setitem(root.commands, "warn", click.Command("warn", callback=warn))
    assert main(["warn"]) == 0
    assert capsys.readouterr().err == "latentzoo: note: of ours\n"


# --- options from annotations and docstrings --------------------------------------------------------------------------


def described(
    data: object,
    *,
    sizes: tuple[int, ...] = (1, 2),
    method: Literal["a", "b"] = "a",
    limit: float | None = None,
    bar: bool = True,
    init: object = None,
    on: str,
) -> None:
    """Do it. And more.

    sizes, method: two that share a text,
    which goes on.
    on: what has no default.

    limit: the end.
    """  # fmt: skip


def test_options_come_from_annotations_and_docstrings() -> None:
    found = {option.name: option for option in options(described, leave_out=["bar"])}
    assert [*found] == ["sizes", "method", "limit", "on"]  # neither positional, nor what no text can give
    assert found["sizes"].help == "two that share a text, which goes on.  [default: 1,2]"
    assert found["on"].help == "what has no default."
    assert found["sizes"].type.convert("3,4", found["sizes"], None) == (3, 4)
    with pytest.raises(click.BadParameter, match="not numbers separated by commas"):
        found["sizes"].type.convert("3;4", found["sizes"], None)
    assert found["limit"].type is click.FLOAT
    assert sentence(described) == "Do it."


# --- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "fitt": "did you mean 'fit'?",
    "fit": "name a model: latentzoo fit NAME; there is:",
    "fit eathquakes -o OUT": "did you mean 'earthquakes'?",
    "show eathquakes": "did you mean 'earthquakes'?",
    "verify eathquakes": "did you mean 'earthquakes'?",
    "simulate earthquakes": "Missing option '-o'",
    "fit earthquakes --num-component 3 -o OUT": "'--num-components'",
    "fit earthquakes --num-components 2.5 -o OUT": "'2.5' is not a valid integer",
    "fit earthquakes --num-components -1 -o OUT": "num_components is -1: it must be from 1 to 100,000",
    "fit earthquakes --noise knwon -o OUT": "'known', 'shared', 'per_component'",
    "fit earthquakes --method cvai -o OUT": "'cavi'",
    "fit earthquakes --data DATA --num-steps -5 -o OUT": "num_steps is -5: it must be",
    "fit earthquakes --seed -1 -o OUT": "'--seed': -1",
    "fit earthquakes --prior weight=1 -o OUT": "did you mean 'weights'?",
    "fit earthquakes --prior weights=a -o OUT": "--prior weights=a: write weights=number",
    "fit earthquakes --prior weights -o OUT": "--prior weights: write weights=number",
    "fit earthquakes --prior loc_mean=1,2,3 --data DATA -o OUT": "prior.loc_mean has shape (3,)",
    "fit earthquakes --prior noise_variance=-4 --data DATA -o OUT": "prior.noise_variance is -4: it must be positive",
    "fit earthquakes --prior noise_shape=4 --data DATA -o OUT": "prior.noise_shape has no place",
    "fit earthquakes --longitude long -o OUT": "--longitude is for a file: name one with --data",
    "fit earthquakes --data NOWHERE/x.csv -o OUT": "does not exist",
    "fit earthquakes --data DATA --longitude long -o OUT": "'long'",
    "fit earthquakes --data FOREIGN --longitude long --latitude lat --count stations -o OUT": "line 6",
    "fit earthquakes --data DATA -o DATA": "is a file",
    "fit earthquakes --data DATA -o DATA/below": "is not a folder that can be written to",
    "simulate earthquakes --num-rows 0 -o OUT": "'--num-rows': 0",
    "simulate earthquakes -o HERE": "is a directory",
    "simulate earthquakes -o NOWHERE/x.csv": "is not a folder that can be written to",
    "simulate earthquakes -o EMPTY": "it is empty",
    "simulate --seed 3": "name a model: latentzoo simulate NAME; there is:",
    "simulate --seed 3 eathquakes -o OUT": "name a model: latentzoo simulate NAME; there is:",
    "simulate earthquakes --num-rows 99999999999999999999 -o OUT": "is not in the range",
    "simulate earthquakes --num-components 99999999999999999999 -o OUT": "it must be from 1 to 100,000",
    "simulate earthquakes --prior loc_mean=nan -o OUT": "prior.loc_mean[0] is nan: it must be finite",
    "simulate earthquakes more -o OUT": "unexpected extra argument",
    "fit earthquakes -o EMPTY": "it is empty",
    "fit earthquakes --data HERE -o OUT": "Is a directory",
    "fit earthquakes --data EMPTY -o OUT": "Path '' does not exist",
    "fit earthquakes --data DATA --data FOREIGN -o OUT": "--data is given 2 times: a fit is of one file",
    "fit earthquakes --prior =1 -o OUT": "no field of the prior ''",
    "fit earthquakes --prior noise_variance=1 --prior noise-variance=2 -o OUT": "--prior gives noise_variance twice",
    "fit earthquakes --data DATA --num-restarts 99999999999999999999 -o OUT": "latentzoo: ",
    "fit earthquakes --data DATA --tol nan -o OUT": "tol is nan",
    "fit earthquakes --data DATA --max-seconds nan -o OUT": "max_seconds is nan",
    "fit earthquakes --data DATA --centre-longitude nan -o OUT": "centre_longitude is nan",
    "list more": "unexpected extra argument",
    "show": "Missing argument 'NAME'",
    "show EMPTY": "no model ''",
    "verify EMPTY": "no model ''",
    "verify earthquakes --num-points 0": "'--num-points': 0",
    "verify earthquakes --seed nan": "'--seed': 'nan'",
    "bench": "Missing option '-o'",
    "bench closed_form -o EMPTY": "it is empty",
    "bench closed_form -o DATA": "is a file",
    "bench closed_form -o OUT --data EMPTY": "write NAME=FILE",
    "bench closed_form -o OUT --data earthquakes=HERE": "there is no file",
    "bench closed_form -o OUT --data earthquakes=DATA,": "write NAME=FILE",
    "bench closed_form -o OUT --data earthquakes=DATA,num-components=0": "num_components is 0: it must be from 1",
    "bench closed_form -o OUT --data earthquakes=DATA,noise=x": "'known', 'shared', 'per_component'",
    "bench closed_form -o OUT --data earthquakes=DATA,count=a,count=b": "--data gives count twice",
    "bench closed_form -o OUT --data earthquakes=DATA --data earthquakes=FOREIGN": "--data gives earthquakes twice",
    "bench agrement -o OUT": "did you mean 'agreement'?",
    "bench -o OUT --data earthquakes": "write NAME=FILE",
    "bench -o OUT --data eathquakes=DATA": "did you mean 'earthquakes'?",
    "bench -o OUT --data earthquakes=NOWHERE/x.csv": "there is no file",
    "bench -o OUT --data earthquakes=DATA,longitud=x": "did you mean 'longitude'?",
    "bench -o OUT --data earthquakes=DATA,centre-longitude=x": "'x' is not a valid float",
    "fit earthquakes --method svi --estimator pth -o OUT": "no estimator 'pth'; did you mean 'path'?",
    "fit two_modes --method alpha --alpha 1 -o OUT": "alpha is 1.0: it must be a number above 0 and below 1",
    "conformance -o DATA": "is a file",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"OUT": "never", "NOWHERE": "nowhere", "HERE": "", "DATA": "data.csv", "FOREIGN": "foreign.csv"}
    argv = ["" if word == "EMPTY" else word for word in line.split()]
    for word, place in places.items():
        argv = [part.replace(word, str(folder / place)) for part in argv]
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert told.startswith("latentzoo: ")
    assert MISTAKES[line] in told
    assert told.count("\n") == 1
    assert not (folder / "never").exists()


def test_what_cannot_be_allocated_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def grab() -> None:
        np.empty(2**60)

    monkeypatch.setitem(root.commands, "grab", click.Command("grab", callback=grab))
    assert main(["grab"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("latentzoo: not enough memory")
    assert told.count("\n") == 1


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(root.commands, "stop", click.Command("stop", callback=stop))
    assert main(["stop"]) == 130
    assert capsys.readouterr().err.strip() == "latentzoo: interrupted; the files that were written are whole"


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> None:
        raise RuntimeError("ours")

    monkeypatch.setitem(root.commands, "fault", click.Command("fault", callback=fault))
    with pytest.raises(RuntimeError, match="ours"):
        main(["fault"])


# --- verify and bench ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ok", [True, False])
def test_the_exit_status_of_verify_says_whether_the_proofs_hold(
    ok: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def verify(name: str, **options: int) -> Report:
        asked.append((name, options))
        error = 0.0 if ok else 1.0
        return Report((Check(name, "no options", "pyro", "a point", "elbo", "by a toy", 1.0, 1.0, error, 0.5, ok, ""),))

    monkeypatch.setattr("latentzoo.inference.verify.verify", verify)
    assert main(["verify", "earthquakes", "--num-points", "1", "--seed", "7"]) == (0 if ok else 1)
    assert asked == [("earthquakes", {"num_points": 1, "seed": 7})]
    assert f"{int(ok)} of 1 comparisons hold" in capsys.readouterr().out


@pytest.mark.parametrize("ok", [True, False])
def test_the_exit_status_of_bench_says_whether_the_claims_hold(
    ok: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def units(context: runner.Context) -> Iterator[runner.Unit]:
        yield runner.Unit("toy", lambda: [Row("closed_form", "toy", entry="toy", data="toy", ok=ok)])

    monkeypatch.setattr("latentzoo.benchmarks.closed_form.units", units)
    assert main(["bench", "--quick", "closed_form", "-o", str(tmp_path / "bench")]) == (0 if ok else 1)
    assert (tmp_path / "bench" / "results.md").exists()


@pytest.mark.slow
def test_verify_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "earthquakes"]) == 0
    assert "comparisons hold" in capsys.readouterr().out


@pytest.mark.slow
def test_bench_fits_the_data_that_are_named(folder: Path, tmp_path: Path) -> None:
    data = f"earthquakes={folder / 'data.csv'},num-components=2"
    assert main(["bench", "--quick", "closed_form", "-o", str(tmp_path / "bench"), "--data", data]) == 0
    results = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert "num_components=2" in json.dumps(results)
    assert "data.csv" in (tmp_path / "bench" / "results.md").read_text()
