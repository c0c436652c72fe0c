# Active learning, unrolled: a fit to all generations before chooses the structures of the next one. The generation
# after the last is chosen too, as the judgement of the last fit; its structures are calculated when there are more.
checkpoint propose_generation:
    input:
        structures=known_structures,
        records=known_records,
        earlier=status_before,
    output:
        status="results/{study}/expansion/{expansion}/generations/{generation}/status.json",
        table="results/{study}/expansion/{expansion}/generations/{generation}/proposed.csv",
        structures="results/{study}/expansion/{expansion}/generations/{generation}/proposed.extxyz",
        folder=directory(
            "results/{study}/expansion/{expansion}/generations/{generation}/items"
        ),
    log:
        "logs/{study}/propose_generation/{expansion}_{generation}.log",
    benchmark:
        "results/{study}/benchmarks/propose_generation/{expansion}_{generation}.tsv"
    wildcard_constraints:
        expansion="|".join(PROPOSING) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        code=code("propose_generation.py"),
        lattice=block("lattice"),
        minimum_fraction=usable_fraction,
        expansion=expansion_settings("basis", "fit", "ground_states", "proposals"),
        seed_of_fit=seed_of_fit,
        seed=seed("propose_generation"),
    script:
        "../../scripts/propose_generation.py"


rule gather_generations:
    input:
        structures=structure_files,
        choices=choices_of,
    output:
        pool=update("results/{study}/dft/{calculation}/pool.extxyz"),
        table=update("results/{study}/dft/{calculation}/generations.csv"),
    log:
        "logs/{study}/gather_generations/{calculation}.log",
    benchmark:
        "results/{study}/benchmarks/gather_generations/{calculation}.tsv"
    wildcard_constraints:
        calculation="|".join(PROPOSERS) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("gather_generations.py"),
    script:
        "../../scripts/gather_generations.py"


rule tabulate_generations:
    input:
        statuses=lambda wildcards: statuses(wildcards.expansion, GENERATIONS + 1),
    output:
        table="results/{study}/expansion/{expansion}/generations.csv",
    log:
        "logs/{study}/tabulate_generations/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/tabulate_generations/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(PROPOSING) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("tabulate_generations.py"),
    script:
        "../../scripts/tabulate_generations.py"
