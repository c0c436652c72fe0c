"""Find phase boundaries by one criterion in every method's ensemble table, or in its free energies."""

from segalflow.artefacts import write_json
from segalflow.phases.boundaries import write_boundaries
from segalflow.phases.criteria import NOTES_SCHEMA, find_boundaries, read_sources
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries, notes = find_boundaries(
        snakemake.wildcards.criterion,
        read_sources(snakemake.wildcards.criterion, snakemake.input.tables),
        snakemake.params.settings,
    )
    for sentence in notes:
        log.info(sentence)
    write_boundaries(snakemake.output.boundaries, boundaries)
    write_json(snakemake.output.notes, {"criterion": snakemake.wildcards.criterion, "notes": notes}, NOTES_SCHEMA)
