# Which rule makes the energies of a calculation follows from its engine and mode.
include: "dft_inputs.smk"
include: "generation_inputs.smk"


rule calculate_structure:
    input:
        structure=structure_file,
    output:
        record="results/{study}/dft/{calculation}/records/{structure}.json",
    log:
        "logs/{study}/calculate_structure/{calculation}/{structure}.log",
    benchmark:
        "results/{study}/benchmarks/calculate_structure/{calculation}/{structure}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "engine"),
    conda:
        lambda wildcards: f"../../envs/{environment_of(CONFIG['calculations'][wildcards.calculation])}.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        code=code("calculate_structure.py"),
        lattice=block("lattice"),
        calculation=calculation,
    script:
        "../../scripts/calculate_structure.py"


rule run_vasp:
    input:
        structure=structure_file,
    output:
        record="results/{study}/dft/{calculation}/records/{structure}.json",
    log:
        "logs/{study}/run_vasp/{calculation}/{structure}.log",
    benchmark:
        "results/{study}/benchmarks/run_vasp/{calculation}/{structure}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "run"),
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=1440,
    params:
        code=code("run_vasp.py"),
        lattice=block("lattice"),
        calculation=calculation,
    script:
        "../../scripts/run_vasp.py"


rule write_vasp_inputs:
    input:
        pool="results/{study}/structures/pool.extxyz",
    output:
        manifest="results/{study}/dft/{calculation}/inputs.csv",
        instructions="results/{study}/dft/{calculation}/INSTRUCTIONS.txt",
    log:
        "logs/{study}/write_vasp_inputs/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/write_vasp_inputs/{calculation}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "write"),
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=20,
    params:
        code=code("write_vasp_inputs.py"),
        lattice=block("lattice"),
        vasp=block("calculations", "{calculation}", "vasp"),
    script:
        "../../scripts/write_vasp_inputs.py"


rule ingest_vasp:
    input:
        manifest=written("inputs.csv"),
        instructions=written("INSTRUCTIONS.txt"),
        pool=wanted_pool,
        runs=existing_runs,
    output:
        pool=update("results/{study}/dft/{calculation}/pool.extxyz"),
        records=update("results/{study}/dft/{calculation}/records.json"),
        rejects=update("results/{study}/dft/{calculation}/rejects.csv"),
        summary=report(
            update("results/{study}/dft/{calculation}/ingestion.csv"),
            caption="../report/ingestion.rst",
            category="2 Energies and expansion",
            labels={"figure": "ingestion", "expansion": "{calculation}"},
        ),
    log:
        "logs/{study}/ingest_vasp/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/ingest_vasp/{calculation}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "write", "ingest"),
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("ingest_vasp.py"),
        lattice=block("lattice"),
        calculation=calculation,
    script:
        "../../scripts/ingest_vasp.py"


# Where the workflow was started: the nodes of a cluster may see no network.
rule fetch_database:
    input:
        url=database_url,
    output:
        database=update("work/{study}/databases/{calculation}/{file}"),
    log:
        "logs/{study}/fetch_database/{calculation}/{file}.log",
    benchmark:
        "results/{study}/benchmarks/fetch_database/{calculation}/{file}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "database"),
        file="[^/]+",
    localrule: True
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        code=code("fetch_database.py"),
        database=fetched_by,
    script:
        "../../scripts/fetch_database.py"


rule ingest_database:
    input:
        pool=wanted_pool,
        files=local_database,
        fetched=fetched_database,
    output:
        pool=update("results/{study}/dft/{calculation}/pool.extxyz"),
        records=update("results/{study}/dft/{calculation}/records.json"),
        rejects=update("results/{study}/dft/{calculation}/rejects.csv"),
        summary=report(
            update("results/{study}/dft/{calculation}/ingestion.csv"),
            caption="../report/ingestion.rst",
            category="2 Energies and expansion",
            labels={"figure": "ingestion", "expansion": "{calculation}"},
        ),
    log:
        "logs/{study}/ingest_database/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/ingest_database/{calculation}.tsv"
    wildcard_constraints:
        calculation=calculations_by(CONFIG["calculations"], "database"),
    conda:
        "../../envs/vasp.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("ingest_database.py"),
        lattice=block("lattice"),
        calculation=calculation,
    script:
        "../../scripts/ingest_database.py"


rule build_dataset:
    input:
        pool=dataset_pool,
        records=dataset_records,
        rejects=dataset_rejects,
    output:
        dataset=update("results/{study}/dft/{calculation}/dataset.extxyz"),
        table=update("results/{study}/dft/{calculation}/dataset.csv"),
        excluded=update("results/{study}/dft/{calculation}/excluded.csv"),
    log:
        "logs/{study}/build_dataset/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/build_dataset/{calculation}.tsv"
    conda:
        "../../envs/dft.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        code=code("build_dataset.py"),
        lattice=block("lattice"),
        minimum_fraction=block("calculations", "{calculation}", "minimum_fraction"),
    script:
        "../../scripts/build_dataset.py"
