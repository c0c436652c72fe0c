checkpoint enumerate_structures:
    output:
        pool="results/{study}/structures/pool.extxyz",
        manifest="results/{study}/structures/manifest.csv",
        folder=directory("results/{study}/structures/items"),
    log:
        "logs/{study}/enumerate_structures.log",
    benchmark:
        "results/{study}/benchmarks/enumerate_structures.tsv"
    conda:
        "../../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("enumerate_structures.py"),
        lattice=block("lattice"),
        structures=some(
            "max_atoms", "max_structures", "selection", "only", of=["structures"]
        ),
    script:
        "../../scripts/enumerate_structures.py"
