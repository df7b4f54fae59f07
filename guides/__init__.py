"""Variational families: one file a model, written once for Pyro and NumPyro."""

if not __name__.startswith("latentzoo."):
    raise ImportError(f"import latentzoo.{__name__}, not {__name__}")
