"""What users run to compare inference algorithms and to see the proofs."""

if not __name__.startswith("latentzoo."):
    raise ImportError(f"import latentzoo.{__name__}, not {__name__}")
