"""`latentzoo compare`: its tables, pictures and fits, and the mistakes that it answers in a line."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import latentzoo as lz
from latentzoo.cli import main

SHORT = "--num-steps 40 --num-warmup 40 --num-chains 2 --num-starts 3 --no-progress"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of CAVI and NUTS on 60 rows."""
    folder = tmp_path_factory.mktemp("compare")
    assert main(shlex.split(f"simulate earthquakes --num-rows 60 --seed 2 -o {folder / 'events.csv'}")) == 0
    line = f"compare earthquakes --data {folder / 'events.csv'} --methods nuts,cavi --held-out 0.2 --num-components 2"
    assert main([*shlex.split(f"{line} {SHORT}"), "-o", str(folder / "out")]) == 0
    return folder


def test_it_leaves_a_table_a_picture_and_every_fit(compared: Path) -> None:
    out = compared / "out"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    general = {"comparison.txt", "comparison.csv", "coordinates.csv", "comparison.png"}
    each = {"fit.npz", "fit.json", "posterior.nc", "map.png"}
    cavi, nuts = ({f"{label}/{name}" for name in each} for label in ("cavi", "nuts-numpyro"))
    assert names == general | cavi | nuts | {"cavi/elbo.png", "nuts-numpyro/trace.png"}
    text = (out / "comparison.txt").read_text(encoding="utf-8")
    assert "The reference is nuts-numpyro" in text
    assert "of held-out rows" in text


def test_its_numbers_are_those_of_the_fits(compared: Path) -> None:
    table = pd.read_csv(compared / "out" / "comparison.csv", index_col=0)
    assert list(table.index) == ["nuts-numpyro", "cavi"]
    fits = {label: lz.load(compared / "out" / label / "fit.npz") for label in table.index}
    assert table.loc["cavi", "elbo"] == pytest.approx(fits["cavi"].elbo)
    assert np.isnan(table.loc["nuts-numpyro", "elbo"])
    assert fits["nuts-numpyro"].chains.draws["loc"].shape == (2, 40, 2, 2)  # the settings reached their method
    coordinates = pd.read_csv(compared / "out" / "coordinates.csv")
    assert set(coordinates["site"]) == {"loc", "rate"}
    assert len(coordinates) == 2 * (4 + 2)


def test_all_methods_start_at_the_best_of_the_starts(compared: Path) -> None:
    """CAVI from it ends as high as the best of CAVI's own runs from those starts."""
    from latentzoo.inference.fit import best_seed

    zoo = lz.get("earthquakes", num_components=2)
    data = zoo.read(compared / "events.csv")
    prior = zoo.prior(data)
    start = zoo.init(data, prior, best_seed(zoo, data, prior, 5, seed=1))
    best = lz.fit(zoo, data, prior=prior, init=start, progress=False).elbo
    assert best == max(
        run.elbo for run in lz.fit(zoo, data, prior=prior, num_restarts=5, seed=1, progress=False).restarts
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--methods cavi,nutz", "no method 'nutz'"),
        ("--methods ,", "--methods names none"),
        ("--methods cavi --reference nuts", "no reference among --methods 'nuts-numpyro'"),
        ("--methods svi-numpy", "did you mean 'svi-numpyro'"),
        ("--methods cavi --held-out 1.5", "--held-out"),
        ("--methods svi --schedule never", "--schedule"),
        ("--methods svi --batch-rows 100", "batch_rows is 100: the data have"),
        ("--methods nuts --target-accept 2", "target_accept is 2.0"),
    ],
)
def test_a_mistake_is_one_line(options: str, words: str, compared: Path, capsys: Any) -> None:
    line = f"compare earthquakes --data {compared / 'events.csv'} --num-starts 1 {options} -o {compared / 'bad'}"
    assert main(shlex.split(line)) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("latentzoo: ")
    assert told.count("\n") == 1
    assert not (compared / "bad").exists()
