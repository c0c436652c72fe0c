"""Physical constants and the units every artefact states.

Energies are eV, temperatures K, lengths Angstrom. Ising and toy systems set J = k_B = 1: their models carry
``boltzmann = 1.0`` and ``energy_unit = "J"``.
"""

from ase import units as _ase_units

BOLTZMANN_EV_PER_K: float = float(_ase_units.kB)
"""Boltzmann constant in eV/K (CODATA, as shipped by ASE)."""
