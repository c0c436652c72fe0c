rule fit_expansion:
    input:
        dataset=of_calculation("dataset.extxyz"),
    output:
        model=update("results/{study}/expansion/{expansion}/model.json"),
        metrics=update("results/{study}/expansion/{expansion}/metrics.json"),
        hull=update("results/{study}/expansion/{expansion}/hull.csv"),
        predictions=update("results/{study}/expansion/{expansion}/predictions.csv"),
    log:
        "logs/{study}/fit_expansion/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/fit_expansion/{expansion}.tsv"
    conda:
        "../../envs/expansion.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        code=code("fit_expansion.py"),
        lattice=block("lattice"),
        expansion=block("expansions", "{expansion}"),
        seed=seed("fit_expansion"),
    script:
        "../../scripts/fit_expansion.py"
