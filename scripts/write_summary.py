"""Write the summary page of the study: data, fit, cells, sweeps, agreement, boundaries, and every warning."""

from segalflow.reporting.page import write_summary
from segalflow.reporting.sections import describe_study
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    lattice = snakemake.params.lattice
    sections = describe_study(
        dict(snakemake.input.items()),
        lattice["species"],
        snakemake.params.calculations,
        snakemake.params.expansions,
        snakemake.params.seed,
    )
    write_summary(
        snakemake.output.page,
        snakemake.input.template,
        snakemake.wildcards.study,
        lattice["name"],
        lattice["species"],
        sections,
    )
