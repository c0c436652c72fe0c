"""Compare every pair of methods on their common conditions: differences, combined errors, z-scores, costs."""

import pandas as pd

from segalflow.artefacts import write_table
from segalflow.ensemble import read_ensembles
from segalflow.scripting import logged
from segalflow.thermo.comparison import compare_methods, summarise_comparison

with logged(snakemake.log[0]) as log:
    tables = read_ensembles(snakemake.input)
    comparison = pd.concat([compare_methods(methods, cell) for cell, methods in tables.items()], ignore_index=True)
    write_table(snakemake.output.comparison, comparison)
    write_table(snakemake.output.summary, summarise_comparison(comparison))
