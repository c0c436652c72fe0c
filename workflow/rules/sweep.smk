rule sample_snis:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
        segal="results/{study}/segal/{cell}/model.json",
        weights="results/{study}/segal/{cell}/weights.safetensors",
    output:
        table="results/{study}/ensemble/{cell}/snis.nc",
        samples="results/{study}/ensemble/{cell}/snis_samples.nc",
    log:
        "logs/{study}/sample_snis/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_snis/{cell}.tsv"
    wildcard_constraints:
        study=TWO_SPECIES,
    priority: 50
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_snis.py"),
        settings=for_cell("snis"),
        seed=seed("sample_snis"),
    script:
        "../../scripts/sample_snis.py"
