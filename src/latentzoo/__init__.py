"""Latent-variable models written once for Pyro and NumPyro, with a proof for every hand-derived number.

`import latentzoo as lz` is fast: what each name needs is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentzoo.inference import deep, divergences, estimators, importance, samplers
    from latentzoo.inference.compare import compare
    from latentzoo.inference.fit import fit
    from latentzoo.inference.registry import get, names
    from latentzoo.inference.result import Fit
    from latentzoo.inference.storage import load
    from latentzoo.inference.verify import verify
    from latentzoo.models.language.contract import Params
    from latentzoo.models.language.errors import Note, UserError
    from latentzoo.models.language.graph import Network

_HOMES = {
    "compare": "inference.compare",
    "Fit": "inference.result",
    "Network": "models.language.graph",
    "Note": "models.language.errors",
    "Params": "models.language.contract",
    "UserError": "models.language.errors",
    "fit": "inference.fit",
    "get": "inference.registry",
    "load": "inference.storage",
    "names": "inference.registry",
    "verify": "inference.verify",
}

# Modules that users take functions from: `lz.estimators.Score`, `lz.importance.evidence`.
_MODULES = ("deep", "divergences", "estimators", "importance", "samplers")

__all__ = [
    "Fit",
    "Network",
    "Note",
    "Params",
    "UserError",
    "compare",
    "deep",
    "divergences",
    "estimators",
    "fit",
    "get",
    "importance",
    "load",
    "names",
    "samplers",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"latentzoo.inference.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"latentzoo.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, *_MODULES])
