rule calculate_structure:
    input:
        structure="results/{study}/structures/items/{structure}.extxyz",
    output:
        record="results/{study}/dft/{calculation}/records/{structure}.json",
    log:
        "logs/{study}/calculate_structure/{calculation}/{structure}.log",
    benchmark:
        "results/{study}/benchmarks/calculate_structure/{calculation}/{structure}.tsv"
    conda:
        "../../envs/dft.yaml"
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


rule build_dataset:
    input:
        pool="results/{study}/structures/pool.extxyz",
        records=lambda wildcards: expand(
            "results/{study}/dft/{calculation}/records/{structure}.json",
            structure=structure_ids(),
            study=wildcards.study,
            calculation=wildcards.calculation,
        ),
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
