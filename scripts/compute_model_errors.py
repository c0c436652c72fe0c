"""How far the error of the fitted interactions moves each boundary: the sweeps' samples reweighted to drawn ECIs."""

import pandas as pd

from segalflow.artefacts import write_table
from segalflow.cells import read_cell
from segalflow.ensemble import read_ensemble
from segalflow.expansion.hamiltonian import read_expansion
from segalflow.phases.model_error import compute_model_errors
from segalflow.samples import read_samples
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    frames = []
    for name, *paths in zip(*(snakemake.input[k] for k in ("cells", "models", "samples", "tables")), strict=True):
        frame, notes = compute_model_errors(
            read_expansion(paths[0]),
            read_cell(name),
            read_samples(paths[1]),
            read_ensemble(paths[2]),
            criteria=snakemake.params.criteria,
            seed=snakemake.params.seed,
            **snakemake.params.settings,
            **snakemake.params.free_energy,
        )
        for sentence in notes:
            log.info(sentence)
        frames.append(frame)
    write_table(snakemake.output.table, pd.concat(frames, ignore_index=True))
