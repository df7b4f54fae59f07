"""Hand-derived and automatic inference, and the proofs that they agree."""

if not __name__.startswith("latentzoo."):
    raise ImportError(f"import latentzoo.{__name__}, not {__name__}")
