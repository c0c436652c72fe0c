"""Find phase boundaries by one criterion in every method's ensemble table."""

from segalflow.artefacts import write_json
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import write_boundaries
from segalflow.phases.criteria import NOTES_SCHEMA, find_boundaries
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    boundaries, notes = find_boundaries(
        snakemake.wildcards.criterion,
        [read_ensemble(path) for path in snakemake.input.tables],
        snakemake.params.settings,
    )
    for sentence in notes:
        log.info(sentence)
    write_boundaries(snakemake.output.boundaries, boundaries)
    write_json(snakemake.output.notes, {"criterion": snakemake.wildcards.criterion, "notes": notes}, NOTES_SCHEMA)
