"""What every test shares: the real data, and a clean state after each test."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports matplotlib: tests open no windows

# Machines differ in speed, and a run must be repeatable.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data; LATENTZOO_DATA names another one."""
    folder = Path(os.environ.get("LATENTZOO_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (name one with LATENTZOO_DATA)")
    return folder


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Undo what a test leaves behind in the libraries it loaded, and load none of them for it."""
    torch = sys.modules.get("torch")
    dtype = torch.get_default_dtype() if torch else None
    jax = sys.modules.get("jax")
    wide = bool(jax and jax.config.jax_enable_x64)
    yield
    if pyro := sys.modules.get("pyro"):
        pyro.clear_param_store()
    if torch := sys.modules.get("torch"):
        torch.set_default_dtype(dtype or torch.float32)
    jax = sys.modules.get("jax")
    if jax and jax.config.jax_enable_x64 and not wide:
        jax.config.update("jax_enable_x64", False)  # so that only the test that did it fails
        pytest.fail("the test left JAX in 64 bits: use `with jax.enable_x64(True)`, which ends")
