"""Calculate one structure with the engine of the config and write its status record.

A failed, unconverged or collapsed calculation is data: the record says what happened, and the job succeeds.
"""

from segalflow.artefacts import read_structures, write_json
from segalflow.dft.calculation import SCHEMA, run_calculation
from segalflow.lattice import parent_lattice
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    block = snakemake.params.lattice
    settings = dict(snakemake.params.calculation)
    record = run_calculation(
        read_structures(snakemake.input.structure)[0],
        parent_lattice(block["name"], block["constant"], block["species"]),
        settings.pop("engine"),
        settings,
    )
    log.info("%s: %s %s", record["structure"], record["status"], record["reason"])
    write_json(snakemake.output.record, record, SCHEMA)
