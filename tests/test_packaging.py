"""The package is what the tree holds: its list, its wheel, its pins and its imports."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Where each package begins in the tree.
PLACES = {
    "latentzoo": "src/latentzoo",
    "latentzoo.models": "models",
    "latentzoo.guides": "guides",
    "latentzoo.inference": "inference",
    "latentzoo.benchmarks": "benchmarks",
}
ROOMS = [place for place in PLACES.values() if "/" not in place]
HEAVY = ["torch", "jax", "arviz", "pandas", "matplotlib", "scipy"]


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # PYTHONSAFEPATH would hide the folder that the command runs in.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def files() -> list[str]:
    """The repository's files, tracked or untracked but not ignored, as paths from the root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, stdout=-1
    )
    # A file deleted but not yet committed is still listed.
    return [name for name in os.fsdecode(listed.stdout).split("\0") if name and (ROOT / name).is_file()]


def modules(place: str) -> list[Path]:
    return sorted((ROOT / place).rglob("*.py"))


def test_the_list_of_packages_is_the_tree() -> None:
    tree = set()
    for package, place in PLACES.items():
        for init in (ROOT / place).rglob("__init__.py"):
            tree.add(".".join([package, *init.parent.relative_to(ROOT / place).parts]))
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == PLACES
    assert sorted(setuptools["packages"]) == sorted(tree)


def test_the_wheel_holds_the_rooms_and_nothing_else(files: list[str], tmp_path: Path) -> None:
    # A copy, since setuptools leaves build/ where it builds.
    for name in files:
        target = tmp_path / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    wheels = tmp_path / "wheels"
    built = python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), cwd=tmp_path / "tree")
    assert built.returncode == 0, built.stdout + built.stderr

    expected = {"latentzoo/py.typed"}
    for package, place in PLACES.items():
        inside = [name.removeprefix(place + "/") for name in files if name.startswith(place + "/")]
        expected |= {package.replace(".", "/") + "/" + name for name in inside if name.endswith(".py")}
    (wheel,) = wheels.iterdir()
    info = f"latentzoo-{PROJECT['project']['version']}.dist-info/"
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith(info)}
    assert held == expected


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_imported_by_its_full_name_only(room: str) -> None:
    bare = python("-c", f"import {room}", cwd=ROOT)
    assert bare.returncode != 0
    assert bare.stderr.splitlines()[-1].startswith(f"ImportError: import latentzoo.{room}")


def test_importing_latentzoo_loads_nothing_heavy(tmp_path: Path) -> None:
    # A list of modules, not a stopwatch: what makes an import slow is what it loads.
    loaded = python("-c", "import sys, latentzoo; print(*sys.modules)", cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    assert not set(HEAVY) & set(loaded.stdout.split())


def test_the_pins_are_exact_and_cover_what_is_required() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line)
            assert re.fullmatch(r"==[^*+,]+", str(pin.specifier)), f"{line} is no exact public version"
            assert not pin.extras
            assert pin.url is None
            assert pin.marker is None
            pins[canonicalize_name(pin.name)] = str(pin.specifier)[2:]

    project = PROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras]:
        wanted = Requirement(line)
        if wanted.name != "latentzoo":
            version = pins.get(canonicalize_name(wanted.name))
            assert version, f"constraints.txt does not pin {wanted.name}"
            assert wanted.specifier.contains(version, prereleases=True), f"{line} excludes its pin {version}"


def test_no_file_names_a_machine_or_a_registry(files: list[str]) -> None:
    # The strings are split, so that this file passes too.
    folders = "|".join(["wo" + "rk", "ro" + "ot", "op" + "t/wheels", "op" + "t/pypi"])
    hosts = "|".join(["py" + r"pi\.org", "python" + "hosted", "download.py" + r"torch\.org"])
    forbidden = re.compile(rf"(?<![\w.])/(?:{folders})/|{hosts}".encode())
    named = {name: hit[0] for name in files if (hit := forbidden.search((ROOT / name).read_bytes()))}
    assert not named


@pytest.mark.parametrize("place", PLACES.values())
def test_no_import_is_relative(place: str) -> None:
    assert modules(place)
    for path in modules(place):
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.relative_to(ROOT)}:{node.lineno}: write the full name"
