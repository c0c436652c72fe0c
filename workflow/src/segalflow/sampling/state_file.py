"""State files of samplers: an interrupted run goes on where it was, and a run asked for more from what is there.

A state holds everything the rest of a run depends on, so a resumed run gives the bytes of one that was never stopped.
Its name and its header carry a fingerprint of the model, the conditions, the settings and the code that made it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segalflow.artefacts import read_state, write_state
from segalflow.energy.base import EnergyModel
from segalflow.energy.polynomial import model_fingerprint
from segalflow.errors import SamplingError
from segalflow.provenance import code_fingerprint, content_hash

SAVE_SECONDS = 30.0
"""Time between writings of a state file; longer where one takes more than a second."""

Arrays = dict[str, np.ndarray]


class Resumable(Protocol):
    """Chains of any kind that can be written and restored as plain arrays."""

    def state(self) -> Arrays:
        """Return everything a continued run needs."""
        ...

    def restore(self, state: Arrays) -> None:
        """Continue from `state`."""
        ...


@dataclass(frozen=True)
class Doubling:
    """How long a run goes on: a first length, doubled until the standard error of the composition is small enough.

    Attributes:
        target: largest standard error of the composition at any condition; None is content with the first length.
        first: the first length, in whatever the sampler counts.
        most: no length beyond this is begun.
    """

    target: float | None
    first: int
    most: int

    def length(self, errors: Sequence[float]) -> int:
        """Return the length to do after these errors of the shorter ones."""
        return self.first * 2 ** len(errors)

    def enough(self, errors: Sequence[float]) -> bool:
        """Whether a run may stop whose lengths so far had these errors."""
        return self.target is None or errors[-1] <= self.target or self.length(errors) > self.most

    def would_have_stopped(self, errors: Sequence[float]) -> bool:
        """Whether a run that has gone beyond the lengths with these errors is longer than asked for."""
        return any(self.enough(errors[: n + 1]) for n in range(len(errors)))


class StateFile:
    """The state of one run of a sampler on disk, if a folder for it is named.

    Arrays that the run changes in place are named once (`array`); `tick` writes them every now and then.

    Args:
        work: folder of the file; None keeps no state.
        name: first part of the file's name.
        model: the energy.
        inputs: whatever else defines the run, made of plain built-ins; a state of other inputs is not continued.
        source: the sampler's module (``__file__``): states of other code are not continued.
        chains: lock-step chains that belong to the state, or None.
        rng: a generator that belongs to the state, or None.
    """

    def __init__(
        self,
        work: str | Path | None,
        name: str,
        model: EnergyModel,
        inputs: object,
        source: str,
        chains: Resumable | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.chains, self.rng = chains, rng
        self.path, self.fingerprint = None, ""
        self.arrays: Arrays = {}
        self.held: Arrays = {}
        self._saved, self._cost = time.monotonic(), 0.0
        if work is not None:
            described = [model_fingerprint(model), inputs, code_fingerprint(source)]
            self.fingerprint = content_hash(_finite(described))
            self.path = Path(work) / f"{name}-{self.fingerprint[:12]}.safetensors"

    def load(self, path: Path | None = None, unless: Callable[[Arrays], bool] | None = None) -> Arrays | None:
        """Return the arrays of the state, with chains and generator set to it; None without one.

        Args:
            path: another file to read than the run's own.
            unless: says of the arrays whether the run must not go on from them (it is asked for less than they hold):
                then it starts anew, and leaves the file alone.

        Raises:
            SamplingError: if the state belongs to another model, grid, seed or schedule.
            ArtefactError: if the file is damaged.
        """
        path = self.path if path is None else path
        if path is None or not path.exists():
            return None
        arrays, extra = read_state(path)
        if extra.get("fingerprint") != self.fingerprint:
            raise SamplingError(f"{path}: this chain state belongs to another model, grid, seed or schedule")
        if unless is not None and unless(arrays):
            self.path = None
            return None
        if self.chains is not None:
            own = [name for name in arrays if name.startswith("chains.")]
            self.chains.restore({name.removeprefix("chains."): arrays.pop(name) for name in own})
        if self.rng is not None:
            self.rng.bit_generator.state = extra["rng"]
        self.held = arrays
        return arrays

    def resume(self, budget: Doubling) -> list[float]:
        """Load the state, unless it is that of a longer run than `budget` asks for; return the errors of past lengths.

        Raises:
            SamplingError, ArtefactError: as `load`.
        """
        self.load(unless=lambda arrays: budget.would_have_stopped(arrays["errors"].tolist()))
        return self.array("errors", np.zeros(0)).tolist()

    def array(self, name: str, start: np.ndarray) -> np.ndarray:
        """Return the array by that name, at first that of the loaded state or else `start`: a part of the state."""
        if name not in self.arrays:
            self.arrays[name] = self.held.get(name, start)
        return self.arrays[name]

    def save(self, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Write the state with `arrays` (default: those named by `array`)."""
        if self.path is None:
            return
        content = {name: np.asarray(array) for name, array in (self.arrays if arrays is None else arrays).items()}
        began = time.monotonic()
        extra: dict[str, Any] = {"fingerprint": self.fingerprint}
        if self.chains is not None:
            content |= {f"chains.{name}": np.asarray(value) for name, value in self.chains.state().items()}
        if self.rng is not None:
            extra["rng"] = self.rng.bit_generator.state
        write_state(self.path, content, extra)
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def tick(self, arrays: Callable[[], Mapping[str, np.ndarray]] | None = None) -> None:
        """Write the state (with what `arrays` returns, if given) unless that was done a short while ago."""
        if self.path is not None and time.monotonic() > self._saved + SAVE_SECONDS * max(1.0, self._cost):
            self.save(None if arrays is None else arrays())

    def begin_next(self, errors: Sequence[float]) -> None:
        """Note the errors of the lengths done: the next, longer one begins."""
        self.arrays["errors"] = np.array(errors, dtype=float)


def _finite(value: object) -> object:
    """JSON has no infinite numbers, temperatures may be."""
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return repr(value) if isinstance(value, float) and not np.isfinite(value) else value
