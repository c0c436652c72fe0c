"""segalflow: from first-principles energies to an alloy phase diagram with an exact-probability sampler.

The library is importable and testable without Snakemake; it never imports snakemake and never reads a config file.
Data goes one way: units, errors <- lattice <- structures, dft, expansion, energy <- segal, sampling <- thermo <-
phases <- plotting.
"""

__version__ = "0.1.0"
