"""Wang-Landau densities of states of spin polynomials, in energy or in energy and composition.

Independent walkers with the 1/t schedule (Wang & Landau, Phys. Rev. Lett. 86, 2050 (2001); Belardinelli & Pereyra,
Phys. Rev. E 75, 046701 (2007)): log f is halved whenever every known bin was visited, until it would fall below 1/t,
t = steps per bin; from then on log f = 1/t, so the error falls as t^(-1/2) instead of saturating. What all walkers have
learnt alike at large f fades only as 1/t, and no spread of walkers shows it; so a production run with the walkers' mean
density as fixed weights follows, and all estimates come from its visits alone. Mean and variance of the energy inside
every bin remove the binning error to second order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import gammaln

from segalflow.compilation import numba
from segalflow.energy.polynomial import SpinPolynomial
from segalflow.energy.surroundings import doubled_field, surroundings
from segalflow.ensemble import ensemble_table
from segalflow.errors import SamplingError
from segalflow.progress import bar
from segalflow.sampling.composition import condition_times, estimate_with_errors, observables_by_composition
from segalflow.sampling.density_of_states import DensityOfStates
from segalflow.sampling.inputs import check_grid
from segalflow.sampling.state_file import Doubling, StateFile

MAX_CELLS = 20_000_000
"""Histogram cells, all walkers together, above which a run is refused: about 1 GB."""
MAX_INCOMPLETE = 0.01
"""Share of Z in bins that some walker never visited in production above which a condition is unreliable."""
_CHUNK = 1_000_000
_SEARCH_SWEEPS = 2000

_SEARCH, _LEARN, _PRODUCE = range(3)
# Places in a walker's integers and floats.
_N_PLUS, _STEPS, _KNOWN, _UNVISITED, _ONE_OVER_T = range(5)
_ENERGY, _LOG_F = range(2)


@numba.njit(cache=True, fastmath=False)
def _random_word(state):  # pragma: no cover - compiled
    """Advance a xoshiro256++ generator, ``state`` uint64 (4,), and return its output (Blackman & Vigna 2021)."""
    a, b, c, d = state[0], state[1], state[2], state[3]
    total = a + d
    word = ((total << np.uint64(23)) | (total >> np.uint64(41))) + a
    shifted = b << np.uint64(17)
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    state[0], state[1], state[2], state[3] = a, b, c, (d << np.uint64(45)) | (d >> np.uint64(19))
    return word


@numba.njit(cache=True, fastmath=False)
def _walk(
    n_steps, mode, final_log_f, origin, width, stride, near, words, negative, integers, floats, random, log_g, visits,
    known, sums,
):  # pragma: no cover - compiled  # fmt: skip
    """Do up to `n_steps` trial flips of one walker and return how many; stops once 1/t has reached `final_log_f`.

    Histograms are flat: bin ``n_plus * stride + floor((U - origin) / width)``. The search keeps log f as it is,
    production adds nothing.
    """
    kind, neighbours, start, n_others, first, position, factor, base, masks, windows, look_up = near
    n_sites = negative.shape[0] - 1
    energy, log_f = floats[_ENERGY], floats[_LOG_F]
    n_plus, steps, n_known, unvisited = integers[_N_PLUS], integers[_STEPS], integers[_KNOWN], integers[_UNVISITED]
    tail = integers[_ONE_OVER_T] == 1
    inverse = 1.0 / width
    column = int((energy - origin) * inverse)
    here = n_plus * stride + column
    if not known[here]:
        known[here] = True
        n_known += 1
        unvisited += 1
    done = 0
    while done < n_steps:
        word = _random_word(random)
        # 24 bits choose the site, 40 decide; sites differ by n_sites / 2^24, but a flip and its reverse do not.
        site = np.int64(((word >> np.uint64(40)) * np.uint64(n_sites)) >> np.uint64(24))
        spin = 1 - 2 * np.int64(negative[site])
        field = doubled_field(
            negative, site, words, kind, neighbours, start, n_others, first, position, factor, base, masks, windows,
            look_up,
        )  # fmt: skip
        moved = energy - spin * field
        to_column = int((moved - origin) * inverse)
        to = (n_plus - spin) * stride + to_column
        if not known[to]:
            # A bin met late starts at the least known density: at zero it would hold the walker for ages.
            least = np.inf
            for k in range(log_g.shape[0]):
                if known[k] and log_g[k] < least:
                    least = log_g[k]
            known[to] = True
            log_g[to] = least
            n_known += 1
            unvisited += 1
        gain = log_g[here] - log_g[to]
        if gain >= 0.0 or (np.float64(word & np.uint64(0xFFFFFFFFFF)) + 0.5) * 2.0**-40 < np.exp(gain):
            negative[site] ^= np.uint8(1)
            energy, n_plus, here, column = moved, n_plus - spin, to, to_column
        done += 1
        steps += 1
        if mode == _PRODUCE:
            above = energy - (origin + (column + 0.5) * width)
            sums[0, here] += 1.0
            sums[1, here] += above
            sums[2, here] += above * above
            continue
        if tail:
            log_f = n_known / steps
        log_g[here] += log_f
        if mode == _SEARCH:
            continue
        if tail:
            if log_f <= final_log_f:
                break
            continue
        if visits[here] == 0:
            unvisited -= 1
        visits[here] += 1
        if unvisited == 0:
            visits[:] = 0
            unvisited = n_known
            log_f *= 0.5
            tail = log_f <= n_known / steps
    floats[_ENERGY], floats[_LOG_F] = energy, log_f
    integers[_N_PLUS], integers[_STEPS], integers[_KNOWN], integers[_UNVISITED] = n_plus, steps, n_known, unvisited
    integers[_ONE_OVER_T] = 1 if tail else 0
    return done


class _Walkers:
    """State of all walkers."""

    def __init__(
        self, model: SpinPolynomial, seed: int, walkers: int, width: float, by_composition: bool, file: StateFile
    ) -> None:
        self.model, self.near, self.width = model, surroundings(model), width
        # No energy lies outside c -+ sum |J|; one bin more on either side takes the rounding.
        reach = sum(float(np.abs(c).sum()) for c in model.coefficients)
        self.origin = model.constant - reach - width
        self.n_bins = int(np.ceil(2 * (reach + width) / width)) + 1
        self.n_rows = model.n_sites + 1 if by_composition else 1
        self.stride = self.n_bins if by_composition else 0
        size = self.n_rows * self.n_bins
        if walkers * size > MAX_CELLS:
            raise SamplingError(
                f"Wang-Landau: {walkers} walkers of {size} bins each do not fit; use fewer walkers or a wider bin"
            )
        sources = np.random.SeedSequence(seed).spawn(walkers)
        self.random = file.array("random", np.array([source.generate_state(4, np.uint64) for source in sources]))
        draws = (np.random.default_rng(source).integers(0, 2, model.n_sites) for source in sources)
        self.negative = file.array("negative", np.array([[*(1 - draw), 0] for draw in draws], dtype=np.uint8))
        self.words = self.near.work_space()
        shape = (walkers, size)
        new = "known" not in file.held
        self.known = file.array("known", np.zeros(shape, dtype=bool))
        self.log_g, self.visits = file.array("log_g", np.zeros(shape)), file.array("visits", np.zeros(shape, np.int64))
        self.sums = file.array("sums", np.zeros((walkers, 3, size)))
        self.integers = file.array("integers", np.zeros((walkers, 5), np.int64))
        self.floats = file.array("floats", np.ones((walkers, 2)))
        # Flips of each walker's search, of them until the last new bin, bins known then, whether the search is over.
        self.search = file.array("search", np.zeros(4, np.int64))
        self.learnt = file.array("learnt", np.zeros(walkers, np.int64))  # flips, once a walker is done with it
        self.produced = file.array("produced", np.zeros(walkers, np.int64))
        if new:
            self.reset()

    def reset(self) -> None:
        """Start the densities at zero in the bins that any walker knows, at log f = 1."""
        self.known[:] = self.known.any(axis=0)
        self.log_g[:], self.visits[:], self.sums[:], self.integers[:], self.floats[:] = 0, 0, 0, 0, 1
        self.integers[:, _N_PLUS] = np.sum(self.negative[:, :-1] == 0, axis=1)
        self.integers[:, _KNOWN] = self.integers[:, _UNVISITED] = self.known.sum(axis=1)

    def fix_bias(self) -> None:
        """Give all walkers the mean of their log densities; bins that nobody knows get the least of them."""
        common = self.known.all(axis=0)
        aligned = self.log_g - self.log_g[:, common].mean(axis=1, keepdims=True)
        mean = np.where(self.known, aligned, 0.0).sum(axis=0) / np.maximum(self.known.sum(axis=0), 1)
        known = self.known.any(axis=0)
        self.log_g[:] = np.where(known, mean, mean[known].min())
        self.known[:] = True

    def advance(self, walker: int, n_steps: int, mode: int, final_log_f: float = 0.0) -> int:
        """Do up to `n_steps` trial flips of one walker and return how many; energies restart from an exact one."""
        negative = self.negative[walker]
        self.floats[walker, _ENERGY] = self.model.energy(1 - negative[None, :-1])[0]
        return _walk(
            n_steps, mode, final_log_f, self.origin, self.width, self.stride, self.near, self.words, negative,
            self.integers[walker], self.floats[walker], self.random[walker], self.log_g[walker],
            self.visits[walker], self.known[walker], self.sums[walker],
        )  # fmt: skip


def density_of_states(
    model: SpinPolynomial,
    *,
    seed: int,
    bin_width: float,
    walkers: int = 16,
    final_log_f: float = 1e-5,
    max_sweeps: int = 1_000_000,
    production_sweeps: int | None = None,
    by_composition: bool = True,
    work: Path | None = None,
    budget: Doubling | None = None,
    error: Callable[[DensityOfStates], float] | None = None,
) -> DensityOfStates:
    """Return Wang-Landau densities of states by energy, for each number of +1 spins or for all of them together.

    Single flips of random sites. A search at constant log f = 1 finds the bins that hold states (they count for all
    walkers); it ends when its second half met no new one. Bins met later join with the least known density.

    Args:
        model: the energy.
        seed: seed of all random draws.
        bin_width: eV (or J), of the total energy of the cell.
        walkers: independent walkers, at least 4.
        final_log_f: a walker is done when its log f = 1/t has fallen to this.
        max_sweeps: most sweeps (trial flips per site) in which a walker learns.
        production_sweeps: sweeps of a walker with the weights fixed; default as many as the longest walker learnt.
        by_composition: resolve the number of +1 spins too.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        budget: lengths of production, in its first ones (`production_sweeps`): goes on until `error` is small enough.
        error: see `budget`.

    Raises:
        SamplingError: for settings that make no sense or histograms that do not fit into memory.
    """
    if walkers < 4:
        raise SamplingError(f"walkers: expected at least 4 for an error estimate, found {walkers}")
    if not 0 < bin_width < np.inf or not 0 < final_log_f < 1:
        raise SamplingError(f"expected bin_width > 0 and 0 < final_log_f < 1, found {bin_width} and {final_log_f}")
    if max_sweeps < 1 or (production_sweeps is not None and production_sweeps < 1):
        raise SamplingError("Wang-Landau: max_sweeps and production_sweeps must be at least 1")
    inputs = [seed, float(bin_width), walkers, final_log_f, max_sweeps, production_sweeps, by_composition]
    file = StateFile(work, "wang_landau", model, inputs, __file__)
    budget = Doubling(None, 1, 1) if budget is None else budget
    past = file.resume(budget)
    run = _Walkers(model, seed, walkers, float(bin_width), by_composition, file)
    most = int(max_sweeps) * model.n_sites
    if not run.search[3]:
        _search(run, most, file)
        run.reset()
        run.search[3] = 1
    _learn(run, most, final_log_f, file)
    first = int(run.learnt.max()) if production_sweeps is None else production_sweeps * model.n_sites
    while True:
        _produce(run, first * budget.length(past) // budget.first, file)
        states = _collect(run)
        past.append(np.inf if error is None else error(states))
        if budget.enough(past):
            return states
        file.begin_next(past)


def _learn(run: _Walkers, most: int, final_log_f: float, file: StateFile) -> None:
    """Let every walker learn its density, and then give all of them the mean one as fixed weights."""
    walkers, log_f, tail = len(run.negative), run.floats[:, _LOG_F], run.integers[:, _ONE_OVER_T]
    expected = min(most, int(np.ceil(run.integers[0, _KNOWN] / final_log_f)))
    if run.learnt.all():
        return
    with bar(walkers * expected, "Wang-Landau", "flip") as shown:
        shown.update(int(run.integers[:, _STEPS].sum()))
        while not run.learnt.all():
            for walker in np.flatnonzero(run.learnt == 0).tolist():
                left = most - int(run.integers[walker, _STEPS])
                done = run.advance(walker, min(_CHUNK, left), _LEARN, final_log_f)
                if done == left or (tail[walker] and log_f[walker] <= final_log_f):
                    run.learnt[walker] = run.integers[walker, _STEPS]
                shown.update(done)
            shown.set_postfix(log_f=f"{log_f.max():.1e}", one_over_t=f"{tail.sum()}/{walkers}", refresh=False)
            if run.learnt.all():
                run.fix_bias()  # before the state is written: what is done and the weights belong together
            file.tick()


def _produce(run: _Walkers, flips: int, file: StateFile) -> None:
    """Go on with fixed weights until every walker has done `flips`."""
    walkers = len(run.negative)
    with bar(walkers * flips, "Wang-Landau production", "flip") as shown:
        shown.update(int(run.produced.sum()))
        for walker in range(walkers):
            while run.produced[walker] < flips:
                done = run.advance(walker, min(_CHUNK, flips - int(run.produced[walker])), _PRODUCE)
                run.produced[walker] += done
                shown.update(done)
                file.tick()
    file.save()


def _search(run: _Walkers, most: int, file: StateFile) -> None:
    """Look for bins until the second half of the search met no new one."""
    walkers, at = len(run.negative), run.search
    least = min(_SEARCH_SWEEPS * run.model.n_sites, most)
    with bar(0, "Wang-Landau search", "flip") as shown:
        shown.update(int(walkers * at[0]))
        while at[0] < least or (at[0] < 2 * at[1] and at[0] < most):
            piece = min(_CHUNK, max(least // 4, int(at[0]) // 4, 1))
            for walker in range(walkers):
                shown.update(run.advance(walker, piece, _SEARCH))
            at[0] += piece
            found = int(run.known.any(axis=0).sum())
            if found > at[2]:
                at[1], at[2] = at[0], found
            shown.set_postfix(bins=int(at[2]), refresh=False)
            file.tick()


def _collect(run: _Walkers) -> DensityOfStates:
    """Cut the histograms to the columns that were visited."""
    steps = np.column_stack([np.full(len(run.negative), run.search[0]), run.learnt, run.produced])
    shape, n_sites = (run.n_rows, run.n_bins), run.model.n_sites
    sums = run.sums.reshape(-1, 3, *shape).transpose(1, 0, 2, 3)
    columns = np.flatnonzero(sums[0].any(axis=(0, 1)))
    cut = slice(columns[0], columns[-1] + 1)
    n = np.arange(run.n_rows)
    by_row = gammaln(n_sites + 1) - gammaln(n + 1) - gammaln(n_sites - n + 1)
    return DensityOfStates(
        run.log_g[0].reshape(shape)[:, cut].copy(),
        np.ascontiguousarray(sums[..., cut]),
        run.origin + (np.arange(run.n_bins)[cut] + 0.5) * run.width,
        by_row if run.n_rows > 1 else np.array([n_sites * np.log(2.0)]),
        run.integers[:, _ONE_OVER_T].astype(bool),
        run.floats[:, _LOG_F].copy(),
        steps,
    )


def sample_wang_landau(
    model: SpinPolynomial,
    species: Sequence[str],
    temperature: np.ndarray,
    delta_mu: np.ndarray,
    *,
    seed: int,
    walkers: int = 16,
    bin_width: float | None = None,
    final_log_f: float = 1e-5,
    max_sweeps: int = 1_000_000,
    production_sweeps: int | None = None,
    target_error: float | None = None,
    max_doublings: int = 4,
    work: Path | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Return the ensemble table (method ``wang_landau``) from the density of states in energy and composition.

    One run gives all conditions by reweighting; log Z is absolute because the number of states of every composition
    is known. Errors are jackknife errors over walkers. A condition is reliable if all walkers reached the 1/t stage
    and bins that not all of them visited in production hold at most `MAX_INCOMPLETE` of its weight.

    Args:
        model: the energy.
        species: the two species; index 0 is the reference of delta_mu.
        temperature: increasing, K (or J/k_B), shape (n_temperatures,).
        delta_mu: increasing, eV (or J), shape (n_delta_mu,).
        seed: seed of all random draws.
        walkers: independent walkers, at least 4.
        bin_width: of the total energy, eV (or J); default half of kT at the lowest temperature.
        final_log_f: a walker is done when its log f = 1/t has fallen to this.
        max_sweeps: most sweeps (trial flips per site) in which a walker learns.
        production_sweeps: sweeps of a walker with the weights fixed; default as many as the longest walker learnt.
        target_error: production is doubled until the standard error of the composition is at most this at every
            condition, or was doubled `max_doublings` times; None does the first length.
        max_doublings: see `target_error`.
        work: folder of the state: an interrupted run is continued, a longer one goes on from a shorter one.
        attributes: extra attributes of the table.

    Raises:
        SamplingError: for settings that make no sense or histograms that do not fit into memory.
    """
    temperature, delta_mu = check_grid(temperature, delta_mu)
    beta = 1.0 / (model.boltzmann * temperature)
    width = 0.5 / beta[0] if bin_width is None else bin_width

    def with_errors(states: DensityOfStates) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        def estimate(chosen: np.ndarray) -> dict[str, np.ndarray]:
            return observables_by_composition(*states.by_row(beta, chosen), beta, delta_mu)

        visits = np.broadcast_to(states.sums[0].sum(axis=(0, 2)), (len(beta), model.n_sites + 1))
        return estimate_with_errors(model, beta, estimate, walkers, visits)

    def worst(states: DensityOfStates) -> float:
        return float(np.max(with_errors(states)[1]["composition"]))

    states = density_of_states(
        model, seed=seed, bin_width=width, walkers=walkers, final_log_f=final_log_f, max_sweeps=max_sweeps,
        production_sweeps=production_sweeps, work=work, budget=Doubling(target_error, 1, 2**max_doublings),
        error=None if target_error is None else worst,
    )  # fmt: skip
    values, errors = with_errors(states)
    incomplete = (np.exp(values["composition_log_weight"]) * states.incomplete(beta)[:, None, :]).sum(axis=2)
    reliable = (incomplete <= MAX_INCOMPLETE) & bool(states.one_over_t.all())
    searched, _, produced = (states.steps[0] // model.n_sites).tolist()
    settings = {"seed": seed, "walkers": walkers, "bin_width": float(width), "final_log_f": final_log_f}
    settings |= {"max_sweeps": max_sweeps, "production_sweeps": produced, "target_error": target_error}
    return ensemble_table(
        "wang_landau",
        temperature,
        delta_mu,
        species,
        {
            **values,
            **{f"{name}_stderr": value for name, value in errors.items()},
            "n_samples": np.full(incomplete.shape, float(states.sums[0].sum())),
            "energy_evaluations": np.full(incomplete.shape, float(states.steps.sum()) / incomplete.size),
            "autocorrelation_time": condition_times(values, errors, beta, states.steps[:, 2].sum() / model.n_sites),
            "reliable": reliable.astype(float),
        },
        {
            "n_sites": model.n_sites,
            "settings": settings,
            "bins": int(states.sums[0].any(axis=0).sum()),
            "one_over_t": int(states.one_over_t.sum()),
            "last_log_f": float(states.log_f.max()),
            "search_sweeps": searched,
            **(attributes or {}),
        },
        model.energy_unit,
    )
