"""Check the boundaries against thermodynamics and each other, and the free energies by thermodynamic integration."""

from segalflow.artefacts import write_json, write_table
from segalflow.ensemble import read_ensemble
from segalflow.phases.boundaries import read_boundaries
from segalflow.phases.consistency import NOTES_SCHEMA, check_consistency
from segalflow.scripting import logged
from segalflow.thermo.free_energy import read_free_energy

with logged(snakemake.log[0]) as log:
    table, notes = check_consistency(
        read_boundaries(snakemake.input.boundaries),
        map(read_free_energy, snakemake.input.free_energies),
        map(read_ensemble, snakemake.input.tables),
    )
    for sentence in notes:
        log.info(sentence)
    write_table(snakemake.output.table, table)
    write_json(snakemake.output.notes, {"notes": notes}, NOTES_SCHEMA)
