"""Fit the cluster expansion: CLEASE basis, regularised regression with cross-validation, hulls of data and model,
learning curve."""

from segalflow.artefacts import write_json, write_table
from segalflow.dft.dataset import read_dataset
from segalflow.expansion.fit import METRICS_SCHEMA, fit_expansion
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    lattice = lattice_from_settings(snakemake.params.lattice)
    fitted = fit_expansion(
        read_dataset(snakemake.input.dataset, lattice),
        lattice,
        snakemake.params.expansion["basis"],
        snakemake.params.expansion["fit"],
        snakemake.params.seed,
        key=f"expansions.{snakemake.wildcards.expansion}",
        curve_settings=snakemake.params.expansion["learning_curve"],
    )
    log.info("metrics: %s", fitted.metrics)
    fitted.expansion.write(snakemake.output.model)
    write_json(snakemake.output.metrics, fitted.metrics, METRICS_SCHEMA)
    write_table(snakemake.output.hull, fitted.hull)
    write_table(snakemake.output.predictions, fitted.predictions)
    write_table(snakemake.output.curve, fitted.curve)
