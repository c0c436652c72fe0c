"""Run VASP on one structure in its kept folder, restart it from CONTCAR while it has not converged, judge the outcome.

A failed, unconverged or collapsed calculation is data: the record says what happened, and the job succeeds.
"""

from pathlib import Path

from segalflow.artefacts import read_structures, write_json
from segalflow.dft.calculation import SCHEMA
from segalflow.dft.vasp_run import run_vasp
from segalflow.lattice import lattice_from_settings
from segalflow.scripting import logged

with logged(snakemake.log[0]) as log:
    record = run_vasp(
        read_structures(snakemake.input.structure)[0],
        lattice_from_settings(snakemake.params.lattice),
        snakemake.params.calculation,
        Path("work") / snakemake.wildcards.study / "vasp" / snakemake.wildcards.calculation,
    )
    log.info("%s: %s %s", record["structure"], record["status"], record["reason"])
    write_json(snakemake.output.record, record, SCHEMA)
