"""Fit the solid solution of one cell and write it for CALPHAD codes, with its misfit."""

from segalflow.artefacts import read_table, write_json
from segalflow.phases.calphad import SCHEMA, describe_fit, fit_redlich_kister, write_tdb
from segalflow.scripting import logged
from segalflow.thermo.free_energy import read_free_energy
from segalflow.thermo.order_parameters import COLUMNS

with logged(snakemake.log[0]) as log:
    fit = fit_redlich_kister(
        read_free_energy(snakemake.input.free_energy),
        read_table(snakemake.input.labels, COLUMNS),
        **snakemake.params.settings,
    )
    if fit.refused:
        log.warning(fit.refused)
    source = {"cell": snakemake.wildcards.cell, "method": snakemake.wildcards.method}
    write_json(snakemake.output.statistics, describe_fit(fit, source), SCHEMA)
    write_tdb(snakemake.output.tdb, fit, snakemake.params.lattice["name"], source)
