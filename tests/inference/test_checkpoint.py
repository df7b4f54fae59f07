"""Checkpoints: a run that is killed at any moment ends as it would have ended, to the bit."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentzoo as lz
from latentzoo.inference import checkpoint as checkpoints
from latentzoo.models.language.contract import leaves
from latentzoo.models.language.ppl import LIBRARIES

pytestmark = pytest.mark.filterwarnings("ignore::latentzoo.Note")
STEPS = 200


class Stopped(Exception):
    """What stands for a kill: it comes when some checkpoints are written."""


def fit(path: Path | None, **options: Any) -> Any:
    zoo = lz.get("vae", hidden=(5,))
    data, _ = zoo.simulate(seed=0, num_rows=80)
    rows, watched = zoo.Data(data.x[:60]), zoo.Data(data.x[60:])
    given = {"batch_rows": 16, "num_steps": STEPS, "warm_up": 70, "validation": watched, "seed": 3, **options}
    return lz.fit(zoo, rows, "svi", checkpoint=path, progress=False, **given)


@contextmanager
def stopping_after(number: int) -> Iterator[None]:
    """Write a checkpoint at every look, and stop the run right after so many of them."""
    write, left = checkpoints.Checkpoint.write_now, [number]

    def stopping(self: Any, *args: Any) -> None:
        write(self, *args)
        left[0] -= 1
        if not left[0]:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "SECONDS", 0.0)
        patch.setattr(checkpoints, "SHARE", np.inf)
        patch.setattr(checkpoints.Checkpoint, "write_now", stopping)
        yield


def equal(one: Any, other: Any) -> None:
    for name, leaf in leaves(one.params).items():
        np.testing.assert_array_equal(leaves(other.params)[name], leaf)
    np.testing.assert_array_equal(one.elbo_trace, other.elbo_trace)
    assert (one.elbo, one.reason, one.restarts[0].validation) == (
        other.elbo,
        other.reason,
        other.restarts[0].validation,
    )


@pytest.fixture(scope="module", params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(library: str) -> Any:
    return fit(None, library=library)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_run_goes_on_to_the_bit(whole: Any, library: str, number: int, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    with stopping_after(number), pytest.raises(Stopped):
        fit(path, library=library)
    equal(whole, fit(path, library=library))
    equal(whole, fit(path, library=library))  # of a run that has ended, too


def test_it_goes_on_with_more_time(whole: Any, library: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    short = fit(path, library=library, max_seconds=1e-9)
    assert "max_seconds" in short.reason
    assert short.num_steps < STEPS
    equal(whole, fit(path, library=library))


def test_states_of_other_estimators_go_on_too(tmp_path: Path) -> None:
    zoo = lz.get("discrete_vae", hidden=(5,), num_states=3)
    data, _ = zoo.simulate(seed=0, num_rows=40)
    options = {"estimator": "relaxed", "temperature": 1.0, "final_temperature": 0.2, "num_steps": 150}
    for library in LIBRARIES:
        path = tmp_path / f"{library}.npz"
        run: dict[str, Any] = {"library": library, "progress": False, **options}
        with stopping_after(2), pytest.raises(Stopped):
            lz.fit(zoo, data, "svi", checkpoint=path, **run)
        equal(lz.fit(zoo, data, "svi", **run), lz.fit(zoo, data, "svi", checkpoint=path, **run))


@pytest.mark.slow
def test_it_outlives_kill_9(tmp_path: Path) -> None:
    """Ten times, at random moments, of a process that writes checkpoints as fast as it can."""
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_checkpoint as t;"
        "t.checkpoints.SECONDS = 0.0; t.checkpoints.SHARE = 1e9; t.fit(Path(sys.argv[1]), num_steps=20_000, tol=0.0)"
    )
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "big"))
    for name, kills in {"whole": 0, "killed": 10}.items():
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            program,
            str(tmp_path / f"{name}.npz"),
            str(Path(__file__).parent),
        ]
        for _ in range(kills):
            process = subprocess.Popen(command)
            time.sleep(rng.uniform(2.0, 12.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True)
    with np.load(tmp_path / "whole.npz") as one, np.load(tmp_path / "killed.npz") as other:
        assert set(one.files) == set(other.files)
        for array in set(one.files) - {"columns", "summary"}:
            np.testing.assert_array_equal(one[array], other[array])
        np.testing.assert_array_equal(one["columns"][:, [0, 1, 3]], other["columns"][:, [0, 1, 3]])  # all but seconds


# --- what cannot be gone on from --------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run of two checkpoints."""
    path = tmp_path / "run.npz"
    with stopping_after(2), pytest.raises(Stopped):
        fit(path)
    return path


def without(path: Path, member: str, text: bytes | None = None) -> None:
    """Write the archive anew, with this member left out or replaced."""
    with zipfile.ZipFile(path) as file:
        kept = {each.filename: file.read(each) for each in file.infolist() if each.filename != member}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (kept | ({} if text is None else {member: text})).items():
            file.writestr(name, content)


def summary(path: Path, **changes: Any) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays["summary"] = np.array(json.dumps({**json.loads(str(arrays["summary"])), **changes}))
    np.savez(path, **arrays)


def pickled(path: Path) -> None:
    np.savez(path, summary=np.array([{"a": 1}], dtype=object))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("summary.npy", bytes(2**28))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "noise": lambda path: path.write_bytes(os.urandom(5000)),
    "changed": lambda path: path.write_bytes(path.read_bytes().replace(b"theta.", b"thetb.")),
    "a member is missing": lambda path: without(path, "columns.npy"),
    "a member is no array": lambda path: without(path, "columns.npy", b"spam"),
    "no JSON": lambda path: without(path, "summary.npy", b"{"),
    "no numbers": lambda path: summary(path, best={"worth": "x", "elbo": 1, "number": 1, "gradients": 1}),
    "no dict": lambda path: summary(path, identity=3),
    "pickle": pickled,
    "bomb": bomb,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_one_is_told_and_the_one_before_goes_on(saved: Path, how: str) -> None:
    DAMAGE[how](saved)
    before = checkpoints.previous(saved).read_bytes()
    with pytest.raises(
        lz.UserError, match=r"is no checkpoint of latentzoo, or it is damaged: remove it to go on"
    ) as told:
        fit(saved)
    assert "\n" not in str(told.value)
    assert str(checkpoints.previous(saved)) in str(told.value)
    assert checkpoints.previous(saved).read_bytes() == before
    saved.unlink()
    equal(fit(None), fit(saved))


def test_a_state_of_other_shapes_is_refused(saved: Path) -> None:
    with np.load(saved) as file:
        arrays = {name: array[..., None] if name == "state.numpyro.3" else array for name, array in file.items()}
    np.savez(saved, **arrays)
    with pytest.raises(lz.UserError, match=r"numpyro\.3 has shape"):
        fit(saved)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 4}, "its seed is 3, and not 4"),
        ({"learning_rate": 0.1}, "its learning_rate is 0.003, and not 0.1"),
        ({"num_steps": 100}, "its num_steps is 200, and not 100"),
        ({"library": "pyro"}, "its library is 'numpyro', and not 'pyro'"),
        ({"validation": None}, "its validation is"),
    ],
)
def test_that_of_another_run_is_refused(saved: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lz.UserError, match=message):
        fit(saved, **options)


def test_it_is_for_one_run_of_svi(tmp_path: Path) -> None:
    with pytest.raises(lz.UserError, match="checkpoint= is for method='svi'"):
        fit(tmp_path / "run.npz", num_restarts=2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(lz.UserError, match=r"cannot make the folder .*file"):
        fit(tmp_path / "file" / "run.npz")


def test_what_is_left_is_removed(saved: Path) -> None:
    (saved.parent / f".{saved.name}.left").write_bytes(b"")
    checkpoints.remove(saved)
    assert list(saved.parent.iterdir()) == []
