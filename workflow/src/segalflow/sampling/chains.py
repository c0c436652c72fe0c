"""Lock-step chains that are measured on a schedule, written to a state file, resumed and extended.

The schedule (equilibration, measurements, exchanges) depends only on the number of sweeps done, so a run that was
interrupted, or that is asked for more measurements later, gives the bytes of one that was never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from segalflow.energy.batch_chains import Chains
from segalflow.progress import bar
from segalflow.sampling.state_file import StateFile

Move = Callable[[int], np.ndarray]
Exchange = Callable[[int], None]


class ChainRun:
    """A run of lock-step chains with the series of U and N_1 it has measured.

    Args:
        chains: the chains, with their first decorations.
        move: does a number of sweeps and returns the accepted fraction, (n_chains,).
        exchange: does exchange number k (any move that keeps the joint distribution), or None.
        rng: the generator `exchange` draws from; its state is kept.
        equilibration: sweeps before the first measurement.
        measure_every: sweeps between measurements.
        exchange_every: sweeps between exchanges; 0 for none.
        work: folder of the state file; None keeps none.
        inputs: whatever else defines the run; a state of other inputs is not continued.
        keep: most decorations to keep of each chain, evenly spaced over all measurements so far; 0 keeps none.
        kept_chains: only the first so many chains keep decorations; None for all.
        further: arrays that `exchange` changes in place and that belong to the state.
    """

    def __init__(
        self,
        chains: Chains,
        move: Move,
        exchange: Exchange | None,
        rng: np.random.Generator,
        *,
        equilibration: int,
        measure_every: int,
        exchange_every: int,
        work: Path | None = None,
        inputs: object = None,
        keep: int = 0,
        kept_chains: int | None = None,
        further: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.chains, self.move, self.exchange, self.rng = chains, move, exchange, rng
        self.equilibration, self.measure_every = equilibration, measure_every
        self.exchange_every = exchange_every if exchange is not None else 0
        self.done = 0
        self.accepted = np.zeros(chains.n_chains)
        self._energy: list[np.ndarray] = []
        self._n_plus: list[np.ndarray] = []
        self.keep, self.kept_chains = keep, chains.n_chains if kept_chains is None else kept_chains
        self._kept: list[np.ndarray] = []
        self._stride = 1
        self.further = dict(further or {})
        described = [
            chains.temperature.tolist(), chains.delta_mu.tolist(), chains.rule, equilibration, measure_every,
            self.exchange_every, hashlib.sha256(chains.negative.tobytes()).hexdigest(),
            rng.bit_generator.state["state"], inputs, keep, self.kept_chains,
        ]  # fmt: skip
        self.file = StateFile(work, "chains", chains.model, described, __file__, chains, rng)

    @property
    def path(self) -> Path | None:
        """The state file."""
        return self.file.path

    @property
    def n_measured(self) -> int:
        """Measurements made."""
        return len(self._energy)

    def energy(self) -> np.ndarray:
        """Return U of every measurement, eV (or J), shape (n_measured, n_chains)."""
        return np.array(self._energy)

    def n_plus(self) -> np.ndarray:
        """Return the number of species-1 atoms of every measurement, int32 (n_measured, n_chains)."""
        return np.array(self._n_plus)

    def decorations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the kept decorations and the measurements they were taken at.

        Packed occupations as in `segalflow.samples`, uint8 (n_kept, kept_chains, bytes), and the numbers of
        their measurements from 0, shape (n_kept,). They depend only on the number of measurements: where more than
        `keep` would be held, every other one goes.
        """
        n_bytes = -(-self.chains.model.n_sites // 8)
        kept = np.array(self._kept, dtype=np.uint8).reshape(-1, self.kept_chains, n_bytes)
        return kept, np.arange(len(kept)) * self._stride

    def _keep_decorations(self) -> None:
        if not self.keep or (len(self._energy) - 1) % self._stride:
            return
        if len(self._kept) == self.keep:
            self._kept, self._stride = self._kept[::2], 2 * self._stride
            if (len(self._energy) - 1) % self._stride:
                return
        self._kept.append(np.packbits(self.chains.negative[: self.kept_chains] == 0, axis=1, bitorder="little"))

    def acceptance(self) -> np.ndarray:
        """Return the accepted fraction since the equilibration, (n_chains,)."""
        return self.accepted / max(self.done - self.equilibration, 1)

    def run(self, n_measured: int, label: str = "Markov chains") -> None:
        """Go on until there are `n_measured` measurements; the first call continues a state file it finds.

        Raises:
            ArtefactError: if the state file is damaged.
        """
        if self.done == 0:
            self.restore(n_measured=n_measured)
        total = self.equilibration + n_measured * self.measure_every
        if self.done >= total:
            return
        with bar(total, label, "sweep") as shown:
            shown.update(self.done)
            while self.done < total:
                step = self._step()
                fraction = self.move(step)
                self.done += step
                if self.done > self.equilibration:
                    self.accepted += fraction * step
                    if (self.done - self.equilibration) % self.measure_every == 0:
                        self._energy.append(self.chains.energies())
                        self._n_plus.append(self.chains.n_plus().astype(np.int32))
                        self._keep_decorations()
                if self.exchange_every and self.done % self.exchange_every == 0:
                    self.exchange(self.done // self.exchange_every - 1)
                shown.set_postfix(acceptance=f"{fraction.mean():.2f}", refresh=False)
                shown.update(step)
                self.file.tick(self._state)
        self.file.save(self._state())

    def _step(self) -> int:
        """Sweeps to the next event of the schedule."""
        until = [self.measure_every - (self.done - self.equilibration) % self.measure_every]
        if self.done < self.equilibration:
            until = [self.equilibration - self.done]
        if self.exchange_every:
            until.append(self.exchange_every - self.done % self.exchange_every)
        return min(until)

    def _state(self) -> dict[str, np.ndarray]:
        """Arrays of the state."""
        return {
            "accepted": self.accepted, "energy": self.energy(), "n_plus": self.n_plus(),
            "kept": self.decorations()[0], "done": np.array(self.done), "stride": np.array(self._stride),
            **{f"further.{name}": array for name, array in self.further.items()},
        }  # fmt: skip

    def restore(self, path: Path | None = None, n_measured: int | None = None) -> None:
        """Continue from a state file (the run's own by default), if there is one.

        One that holds more than `n_measured` measurements is left alone, and the run starts anew without a file.

        Raises:
            SamplingError: if the state belongs to another model, grid or schedule.
            ArtefactError: if the file is damaged.
        """
        arrays = self.file.load(path, lambda held: n_measured is not None and len(held["energy"]) > n_measured)
        if arrays is None:
            return
        self.accepted = arrays["accepted"]
        self._energy, self._n_plus = list(arrays["energy"]), list(arrays["n_plus"])
        self._kept, self._stride = list(arrays["kept"]), int(arrays["stride"])
        self.done = int(arrays["done"])
        for name, array in self.further.items():
            array[...] = arrays[f"further.{name}"]
