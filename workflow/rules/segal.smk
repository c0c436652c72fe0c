rule build_cell:
    input:
        hull=hull_if_any,
        pool=pool_if_any,
    output:
        cell=update("results/{study}/cells/{cell}.json"),
    log:
        "logs/{study}/build_cell/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/build_cell/{cell}.tsv"
    conda:
        "../../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("build_cell.py"),
        lattice=block("lattice"),
        repeat=block("cells", "{cell}", "repeat"),
    script:
        "../../scripts/build_cell.py"


rule choose_grid:
    input:
        hull=hull_if_any,
    output:
        grid=update("results/{study}/grids/{cell}.json"),
    log:
        "logs/{study}/choose_grid/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/choose_grid/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    conda:
        "../../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("choose_grid.py"),
        grid=for_cell("grid"),
        energy_unit=lambda wildcards: energy_unit(CONFIG, wildcards.cell),
    script:
        "../../scripts/choose_grid.py"


rule train_segal:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
        start=starting_sampler,
    output:
        model=update("results/{study}/segal/{cell}/model.json"),
        weights=update("results/{study}/segal/{cell}/weights.safetensors"),
        history=update("results/{study}/segal/{cell}/history.parquet"),
    log:
        "logs/{study}/train_segal/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/train_segal/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    # The longest single job: everything else fits beside it.
    priority: 100
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        code=code("train_segal.py"),
        settings=some_for_cell("segal", without=("start_from",)),
        seed=seed("train_segal"),
    script:
        "../../scripts/train_segal.py"
