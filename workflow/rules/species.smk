# More than two species: the rules that take the place of those for two, with one chemical potential an exchange.
rule choose_species_grid:
    input:
        cell="results/{study}/cells/{cell}.json",
    output:
        grid=update("results/{study}/grids/{cell}.json"),
    log:
        "logs/{study}/choose_species_grid/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/choose_species_grid/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("choose_species_grid.py"),
        grid=for_cell("grid"),
        energy_unit=lambda wildcards: energy_unit(CONFIG, wildcards.cell),
    script:
        "../../scripts/choose_species_grid.py"


rule train_species:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        model=update("results/{study}/segal/{cell}/model.json"),
        weights=update("results/{study}/segal/{cell}/weights.safetensors"),
        history=update("results/{study}/segal/{cell}/history.parquet"),
    log:
        "logs/{study}/train_species/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/train_species/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    # The longest single job: everything else fits beside it.
    priority: 100
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        code=code("train_species.py"),
        settings=some_for_cell("segal", without=("start_from",)),
        seed=seed("train_species"),
    script:
        "../../scripts/train_species.py"


rule sample_species_snis:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
        segal="results/{study}/segal/{cell}/model.json",
        weights="results/{study}/segal/{cell}/weights.safetensors",
    output:
        table="results/{study}/ensemble/{cell}/snis.nc",
    log:
        "logs/{study}/sample_species_snis/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_species_snis/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    priority: 50
    conda:
        "../../envs/segal.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_species_snis.py"),
        settings=some_for_cell("snis", without=("network_derivatives", "keep_samples")),
        seed=seed("sample_species_snis"),
    script:
        "../../scripts/sample_species_snis.py"


rule sample_species_metropolis:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/metropolis.nc",
    log:
        "logs/{study}/sample_species_metropolis/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/sample_species_metropolis/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("sample_species_metropolis.py"),
        settings=some_for_cell(
            "metropolis",
            only=("sweeps", "equilibration", "chains_per_condition", "measure_every"),
        ),
        seed=seed("sample_species_metropolis"),
    script:
        "../../scripts/sample_species_metropolis.py"


rule enumerate_species:
    input:
        model=of_expansion("model.json"),
        cell="results/{study}/cells/{cell}.json",
        grid="results/{study}/grids/{cell}.json",
    output:
        table="results/{study}/ensemble/{cell}/exact.nc",
    log:
        "logs/{study}/enumerate_species/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/enumerate_species/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/sampling.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        code=code("enumerate_species.py"),
    script:
        "../../scripts/enumerate_species.py"


rule compare_species:
    input:
        ENSEMBLES,
    output:
        comparison="results/{study}/comparison.csv",
        summary="results/{study}/comparison_summary.csv",
    log:
        "logs/{study}/compare_species.log",
    benchmark:
        "results/{study}/benchmarks/compare_species.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        code=code("compare_species.py"),
    script:
        "../../scripts/compare_species.py"


rule plot_species_ensembles:
    input:
        tables=lambda wildcards: ensembles([wildcards.cell]),
    output:
        isotherms=report(
            "results/{study}/figures/isotherms_{cell}.svg",
            caption="../report/species_isotherms.rst",
            category="3 Ensembles",
            labels={"figure": "compositions by chemical potential", "cell": "{cell}"},
        ),
        maps=report(
            "results/{study}/figures/composition_maps_{cell}.svg",
            caption="../report/composition_maps.rst",
            category="3 Ensembles",
            labels={"figure": "maps of the composition", "cell": "{cell}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{cell}}.{suffix}",
            figure=["isotherms", "composition_maps"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_species_ensembles/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_species_ensembles/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_species_ensembles.py"),
        figures=some("isotherms", of=("figures",)),
    script:
        "../../scripts/plot_species_ensembles.py"


rule plot_species_ness:
    input:
        table="results/{study}/ensemble/{cell}/snis.nc",
    output:
        ness=report(
            "results/{study}/figures/ness_{cell}.svg",
            caption="../report/ness.rst",
            category="3 Ensembles",
            labels={"figure": "effective sample size", "cell": "{cell}"},
        ),
        beside=multiext("results/{study}/figures/ness_{cell}", ".png", ".pdf", ".csv"),
    log:
        "logs/{study}/plot_species_ness/{cell}.log",
    benchmark:
        "results/{study}/benchmarks/plot_species_ness/{cell}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_species_ness.py"),
    script:
        "../../scripts/plot_species_ness.py"


rule plot_species_expansion:
    input:
        model="results/{study}/expansion/{expansion}/model.json",
        metrics="results/{study}/expansion/{expansion}/metrics.json",
        hull="results/{study}/expansion/{expansion}/hull.csv",
        predictions="results/{study}/expansion/{expansion}/predictions.csv",
    output:
        hull=report(
            "results/{study}/figures/hull_{expansion}.svg",
            caption="../report/species_hull.rst",
            category="2 Energies and expansion",
            labels={"figure": "formation energies", "expansion": "{expansion}"},
        ),
        parity=report(
            "results/{study}/figures/parity_{expansion}.svg",
            caption="../report/parity.rst",
            category="2 Energies and expansion",
            labels={"figure": "parity", "expansion": "{expansion}"},
        ),
        ecis=report(
            "results/{study}/figures/ecis_{expansion}.svg",
            caption="../report/ecis.rst",
            category="2 Energies and expansion",
            labels={"figure": "ECIs", "expansion": "{expansion}"},
        ),
        beside=expand(
            "results/{{study}}/figures/{figure}_{{expansion}}.{suffix}",
            figure=["hull", "parity", "ecis"],
            suffix=["png", "pdf", "csv"],
        ),
    log:
        "logs/{study}/plot_species_expansion/{expansion}.log",
    benchmark:
        "results/{study}/benchmarks/plot_species_expansion/{expansion}.tsv"
    wildcard_constraints:
        study=MORE_SPECIES,
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plot_species_expansion.py"),
    script:
        "../../scripts/plot_species_expansion.py"
