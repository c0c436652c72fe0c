rule fit_expansion:
    input:
        dataset=of_calculation("dataset.extxyz"),
    output:
        model=update("results/{study}/expansion/{expansion}/model.json"),
        metrics=update("results/{study}/expansion/{expansion}/metrics.json"),
        hull=update("results/{study}/expansion/{expansion}/hull.csv"),
        predictions=update("results/{study}/expansion/{expansion}/predictions.csv"),
        curve=update("results/{study}/expansion/{expansion}/learning_curve.csv"),
    log:
        "logs/{study}/fit_expansion/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/fit_expansion/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(FITTED) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("fit_expansion.py"),
        lattice=block("lattice"),
        expansion=expansion_settings("basis", "fit", "learning_curve"),
        seed=seed("fit_expansion"),
    script:
        "../../scripts/fit_expansion.py"


rule import_expansion:
    input:
        published=lambda wildcards: CONFIG["expansions"][wildcards.expansion][
            "published"
        ],
        dataset=if_named("dataset.extxyz"),
    output:
        model=update("results/{study}/expansion/{expansion}/model.json"),
        metrics=update("results/{study}/expansion/{expansion}/metrics.json"),
        hull=update("results/{study}/expansion/{expansion}/hull.csv"),
        predictions=update("results/{study}/expansion/{expansion}/predictions.csv"),
    log:
        "logs/{study}/import_expansion/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/import_expansion/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(PUBLISHED) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("import_expansion.py"),
        lattice=block("lattice"),
        expansion=expansion_settings(
            "published", "published_sha256", "published_zero", "ground_states"
        ),
        seed=seed("search_ground_states"),
    script:
        "../../scripts/import_expansion.py"


rule write_model:
    output:
        model=update("results/{study}/expansion/{expansion}/model.json"),
    log:
        "logs/{study}/write_model/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/write_model/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(GIVEN) or NOTHING,
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("write_model.py"),
        lattice=block("lattice"),
        expansion=expansion_settings("model", "parameters"),
    script:
        "../../scripts/write_model.py"


rule train_crystal_graph:
    input:
        dataset=of_calculation("dataset.extxyz"),
    output:
        model=update("results/{study}/expansion/{expansion}/model.json"),
        weights=update("results/{study}/expansion/{expansion}/weights.safetensors"),
        metrics=update("results/{study}/expansion/{expansion}/metrics.json"),
        hull=update("results/{study}/expansion/{expansion}/hull.csv"),
        predictions=update("results/{study}/expansion/{expansion}/predictions.csv"),
        history=update("results/{study}/expansion/{expansion}/history.csv"),
    log:
        "logs/{study}/train_crystal_graph/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/train_crystal_graph/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(GRAPHS) or NOTHING,
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        code=code("train_crystal_graph.py"),
        lattice=block("lattice"),
        graph=block("expansions", "{expansion}", "graph"),
        seed=seed("train_crystal_graph"),
    script:
        "../../scripts/train_crystal_graph.py"


rule search_ground_states:
    input:
        model="results/{study}/expansion/{expansion}/model.json",
        dataset=if_named("dataset.extxyz"),
        excluded=if_named("excluded.csv"),
    output:
        table="results/{study}/expansion/{expansion}/found_states.csv",
        structures="results/{study}/expansion/{expansion}/found_states.extxyz",
    log:
        "logs/{study}/search_ground_states/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/search_ground_states/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(EXPANSIONS) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("search_ground_states.py"),
        ground_states=block("expansions", "{expansion}", "ground_states"),
        seed=seed("search_ground_states"),
    script:
        "../../scripts/search_ground_states.py"


# The next generation's calculations, from a fit: on demand.
rule propose_structures:
    input:
        model="results/{study}/expansion/{expansion}/model.json",
        metrics="results/{study}/expansion/{expansion}/metrics.json",
        dataset=of_calculation("dataset.extxyz"),
        excluded=of_calculation("excluded.csv"),
    output:
        table="results/{study}/expansion/{expansion}/proposed.csv",
        structures="results/{study}/expansion/{expansion}/proposed.extxyz",
    log:
        "logs/{study}/propose_structures/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/propose_structures/{expansion}.tsv"
    wildcard_constraints:
        expansion="|".join(FITTED) or NOTHING,
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("propose_structures.py"),
        ground_states=block("expansions", "{expansion}", "ground_states"),
        proposals=some(
            "number", "max_atoms", of=["expansions", "{expansion}", "proposals"]
        ),
        seed=seed("search_ground_states"),
    script:
        "../../scripts/propose_structures.py"
