rule write_summary:
    input:
        template=str(ROOT / "workflow" / "report" / "summary.html.j2"),
        datasets=expand(
            "results/{{study}}/dft/{calculation}/dataset.csv",
            calculation=CONFIG["calculations"],
        ),
        missing=expand(
            "results/{{study}}/dft/{calculation}/missing.csv",
            calculation=CONFIG["calculations"],
        ),
        convergence=expand(
            "results/{{study}}/dft/{calculation}/convergence.json", calculation=STUDIED
        ),
        metrics=expand(
            "results/{{study}}/expansion/{expansion}/metrics.json",
            expansion=WITH_HULL,
        ),
        hulls=expand(
            "results/{{study}}/expansion/{expansion}/hull.csv",
            expansion=WITH_HULL,
        ),
        predictions=expand(
            "results/{{study}}/expansion/{expansion}/predictions.csv",
            expansion=WITH_HULL,
        ),
        models=expand(
            "results/{{study}}/expansion/{expansion}/model.json",
            expansion=[name for name in CONFIG["expansions"] if name not in WITH_HULL],
        ),
        curves=expand(
            "results/{{study}}/expansion/{expansion}/learning_curve.csv",
            expansion=FITTED,
        ),
        found_states=expand(
            "results/{{study}}/expansion/{expansion}/found_states.csv",
            expansion=SEARCHED,
        ),
        generations=expand(
            "results/{{study}}/expansion/{expansion}/generations.csv",
            expansion=PROPOSING,
        ),
        cells=expand("results/{{study}}/cells/{cell}.json", cell=CONFIG["cells"]),
        samplers=expand(
            "results/{{study}}/segal/{cell}/model.json", cell=cells_with("snis")
        ),
        tables=ENSEMBLES,
        summary="results/{study}/comparison_summary.csv",
        notes=expand(
            "results/{{study}}/phases/{criterion}.json",
            criterion=CONFIG["phases"]["criteria"] if BINARY else [],
        )
        + last_refined("json"),
        phases=PHASE_TABLES,
        phases_notes=expand(
            "results/{{study}}/phases/{table}.json",
            table=[name for name in LISTED if name != "boundaries"],
        ),
        solutions=expand("{solution}.json", solution=SOLUTIONS),
        sizes=SIZES,
    output:
        page=report(
            "results/{study}/summary.html",
            caption="../report/summary.rst",
            category="0 Summary",
            labels={"page": "summary"},
        ),
    log:
        "logs/{study}/write_summary.log",
    benchmark:
        "results/{study}/benchmarks/write_summary.tsv"
    conda:
        "../../envs/analysis.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("write_summary.py"),
        lattice=block("lattice"),
        calculations=block("calculations"),
        expansions=WITH_HULL,
        seed=CONFIG["seed"],
    script:
        "../../scripts/write_summary.py"


FIGURES = [
    *expand(results("figures/convergence_{calculation}.svg"), calculation=STUDIED),
    *expand(
        results("figures/missing_{calculation}.svg"), calculation=CONFIG["calculations"]
    ),
    *expand(results("figures/hull_{expansion}.svg"), expansion=WITH_HULL),
    *expand(results("figures/learning_curve_{expansion}.svg"), expansion=FITTED),
    *expand(results("figures/generations_{expansion}.svg"), expansion=PROPOSING),
    *expand(
        results("figures/{figure}_{cell}.svg"),
        figure=["training", "ness"],
        cell=cells_with("snis"),
    ),
    *expand(results("figures/isotherms_{cell}.svg"), cell=CONFIG["cells"]),
    *expand(results("figures/phase_diagram_{cell}.svg"), cell=DIAGRAM_CELLS),
    *expand(results("figures/fields_{cell}.svg"), cell=DIAGRAM_CELLS),
    *expand(results("figures/phases_{cell}.svg"), cell=LABELLED_CELLS),
    *expand(results("figures/snapshots_{cell}.svg"), cell=LABELLED_CELLS),
    *expand(results("figures/tangents_{cell}.svg"), cell=TANGENT_CELLS),
    *([results("phases/diagram.html")] if BINARY else []),
    *expand(
        results("figures/composition_maps_{cell}.svg"),
        cell=[] if BINARY else CONFIG["cells"],
    ),
    results("figures/energy_evaluations.svg"),
    results("figures/comparison.svg"),
    *([results("figures/finite_size.svg")] if SIZES else []),
]
