"""Calculate one structure with the engine of the config and write its status record.

A failed, unconverged or collapsed calculation is data: the record says what happened, and the job succeeds.
"""

from segalflow.artefacts import read_structures, write_json
from segalflow.dft.calculation import SCHEMA, run_calculation
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    settings = dict(snakemake.params.calculation)
    record = run_calculation(
        read_structures(snakemake.input.structure)[0],
        lattice_from_settings(snakemake.params.lattice),
        settings.pop("engine"),
        settings,
    )
    log.info("%s: %s %s", record["structure"], record["status"], record["reason"])
    write_json(snakemake.output.record, record, SCHEMA)
