"""Mutants that no test can notice, each with its reason."""

EQUIVALENT: dict[tuple[str, str, str], str] = {}  # (file, old, new) as the run names them: reason
