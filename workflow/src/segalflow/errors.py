"""The errors a user can cause, each of which prints as one clear sentence.

Every message says what was found, what was expected, and names the key or the file. `script_context` and the command
line turn a `SegalflowError` into that sentence and exit status 1; anything else is a defect and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SegalflowError(Exception):
    """Base of every error that bad input can cause."""


class SettingsError(SegalflowError):
    """A config key or its value is wrong."""


class LatticeError(SegalflowError):
    """An unknown lattice or element, or a supercell that cannot be built."""


class EngineError(SegalflowError):
    """An energy engine is unknown, missing, or cannot treat the requested elements."""


class DatasetError(SegalflowError):
    """Too few usable calculations, or data that contradicts itself."""


class ExpansionError(SegalflowError):
    """A cluster expansion cannot be fitted, read or placed on a cell."""


class SamplingError(SegalflowError):
    """A sampler was asked for something it cannot do."""


class TrainingError(SegalflowError):
    """Training diverged or a checkpoint does not belong to the run."""


class BoundaryError(SegalflowError):
    """A phase boundary was asked from a table that cannot give one."""


class ArtefactError(SegalflowError):
    """A file written by an earlier stage is missing, corrupted or of another schema."""


def suggest(name: str, choices: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the choice nearest to `name`, or an empty string if none is near."""
    near = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
