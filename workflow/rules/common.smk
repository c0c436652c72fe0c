# The only helper functions of the workflow; rules hold no logic.
import json
import os
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError

ROOT = Path(workflow.basedir)
# Scripts find the library also in environments made by `--sdm conda`, where it is not installed.
os.environ.update(
    PYTHONPATH=os.pathsep.join(
        filter(
            None, [str(ROOT / "workflow" / "src"), dict(os.environ).get("PYTHONPATH")]
        )
    )
)
sys.path.insert(0, str(ROOT / "workflow" / "src"))

from segalflow.errors import SegalflowError
from segalflow.provenance import SourceIndex, code_fingerprint, derive_seed
from segalflow.study import (
    cell_settings,
    energy_unit,
    kinds_of,
    prepare_study,
    proposers_of,
    refined_criteria,
)

try:
    CONFIG = prepare_study(
        config,
        yaml.load(
            (ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text(),
            Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader),  # ten times as fast
        ),
    )
except SegalflowError as error:
    raise WorkflowError(f"config: {error}") from None

STUDY = CONFIG["study"]
SOURCES = SourceIndex(Path(".snakemake") / "segalflow-sources.json")


wildcard_constraints:
    study=STUDY,
    calculation="|".join(CONFIG["calculations"]),
    expansion="|".join(CONFIG["expansions"]),
    cell="|".join(CONFIG["cells"]),
    structure="[0-9a-f]+",
    criterion="|".join(CONFIG["phases"]["criteria"]),
    generation="[1-9][0-9]*",
    round="[1-9]",


def results(path):
    """A path inside the study's results folder."""
    return f"results/{STUDY}/{path}"


def code(script):
    """Fingerprint of a script and of the library modules it imports."""
    return code_fingerprint(ROOT / "scripts" / script, index=SOURCES)


def block(*keys):
    """A block of the config by its keys; a key in braces is filled from the wildcards."""

    def of(wildcards):
        value = CONFIG
        for key in keys:
            value = value[key.format(**dict(wildcards.items()))]
        return value

    return of


def calculation(wildcards):
    """Settings of one calculation, without those that concern only the dataset or the convergence study."""
    return {
        k: v
        for k, v in CONFIG["calculations"][wildcards.calculation].items()
        if k not in ("minimum_fraction", "convergence")
    }


def some(*keys, of):
    """Some entries of a block of the config, so that others of it concern other rules alone."""
    whole = block(*of)
    return lambda wildcards: {k: whole(wildcards)[k] for k in keys}


def for_cell(name):
    """A block of the config with the overrides of the wildcard's cell put in."""
    return lambda wildcards: cell_settings(CONFIG, wildcards.cell, name)


def seed(rule_name):
    """The job's own seed, made from the study's seed, the rule and its wildcards."""
    return lambda wildcards: derive_seed(
        CONFIG["seed"], rule_name, dict(wildcards.items())
    )


def some_for_cell(name, only=None, without=()):
    """Some entries of a block of the config with the overrides of the wildcard's cell put in."""
    whole = for_cell(name)
    return lambda wildcards: {
        key: value
        for key, value in whole(wildcards).items()
        if (only is None or key in only) and key not in without
    }


def cells_with(*methods):
    """Cells on which one of the methods runs."""
    return [
        name
        for name, cell in CONFIG["cells"].items()
        if set(methods) & set(cell["methods"])
    ]


def starting_sampler(wildcards):
    """Cell, description and weights of the trained cell that the wildcard's cell starts from, if any."""
    other = cell_settings(CONFIG, wildcards.cell, "segal")["start_from"]
    if other is None:
        return []
    return [
        results(f"cells/{other}.json"),
        results(f"segal/{other}/model.json"),
        results(f"segal/{other}/weights.safetensors"),
    ]


def of_expansion(path):
    """A file of the expansion that belongs to the wildcard's cell."""
    return lambda wildcards: results(
        f"expansion/{CONFIG['cells'][wildcards.cell]['expansion']}/{path}"
    )


def hull_if_any(wildcards):
    """The hull of the Hamiltonian of the wildcard's cell; a model given by its parameters has none."""
    named = CONFIG["cells"][wildcards.cell]["expansion"] in WITH_HULL
    return of_expansion("hull.csv")(wildcards) if named else []


def pool_if_any(wildcards):
    """The pool of structures, where the wildcard's cell has a hull to find in it."""
    name = CONFIG["cells"][wildcards.cell]["expansion"]
    if name in WITH_HULL and name not in PUBLISHED and PROPOSERS:
        return results(f"dft/{CONFIG['expansions'][name]['calculation']}/pool.extxyz")
    return results("structures/pool.extxyz") if hull_if_any(wildcards) else []


def of_calculation(path):
    """A file of the calculation that belongs to the wildcard's expansion."""
    return lambda wildcards: results(
        f"dft/{CONFIG['expansions'][wildcards.expansion]['calculation']}/{path}"
    )


def expansion_settings(*keys):
    """Settings of the wildcard's expansion that a rule uses."""
    return lambda wildcards: {
        k: v for k, v in CONFIG["expansions"][wildcards.expansion].items() if k in keys
    }


def if_named(path):
    """A file of the calculation of the wildcard's expansion; a published one may have none."""
    return lambda wildcards: (
        of_calculation(path)(wildcards)
        if "calculation" in CONFIG["expansions"][wildcards.expansion]
        else []
    )


def ensembles(cells):
    """Ensemble tables of some cells."""
    return [
        results(f"ensemble/{cell}/{method}.nc")
        for cell in cells
        for method in CONFIG["cells"][cell]["methods"]
    ]


def with_samples(wildcards):
    """An ensemble table, and the samples beside it where the method keeps them."""
    table = results(f"ensemble/{wildcards.cell}/{wildcards.method}.nc")
    samples = table.replace(".nc", "_samples.nc")
    sampled = wildcards.method in SAMPLED
    return {"table": table, "samples": samples} if sampled else {"table": table}


def labels(cells, suffix="csv"):
    """Tables of the phases that the samples of some cells are in, or (`nc`) the weights of these phases."""
    return [
        results(f"phases/labels/{cell}/{method}.{suffix}")
        for cell in cells
        for method in SAMPLED
        if method in CONFIG["cells"][cell]["methods"]
    ]


def first_sampled(cell):
    """The first method of a cell that keeps samples."""
    return next(m for m in SAMPLED if m in CONFIG["cells"][cell]["methods"])


def free_energies(cells):
    """Free energies of some cells, of the methods that resolve composition."""
    return [
        results(f"free_energy/{cell}/{method}.nc")
        for cell in cells
        for method in CONFIG["cells"][cell]["methods"]
        if method in RESOLVED
    ]


def boundary_sources(wildcards):
    """Free energies, weights of the phases or ensemble tables, whichever the criterion reads."""
    if wildcards.criterion == "order_parameter":
        return labels(LABELLED_CELLS, "nc")
    if wildcards.criterion not in FROM_FREE_ENERGY:
        return ensembles(DIAGRAM_CELLS)
    return free_energies(DIAGRAM_CELLS)


def swept_so_far(wildcards):
    """Table and samples of the SNIS sweep before a round of refinement."""
    before = int(wildcards.round) - 1
    stem = f"ensemble/{wildcards.cell}/snis" + (f"_refined_{before}" if before else "")
    return {"table": results(f"{stem}.nc"), "samples": results(f"{stem}_samples.nc")}


def points_so_far(wildcards):
    """Boundary tables that a round of refinement starts from."""
    before = int(wildcards.round) - 1
    if before:
        return [results(f"phases/refined/{wildcards.cell}_{before}.csv")]
    return expand(results("phases/{criterion}.csv"), criterion=REFINED_CRITERIA)


def last_refined(suffix):
    """Files of the last round of refinement of every refined cell."""
    rounds = CONFIG["refinement"]["rounds"]
    return [
        results(f"phases/refined/{cell}_{rounds}.{suffix}") for cell in REFINED_CELLS
    ]


# A pattern that matches nothing where there is none.
NOTHING = "(?!)"
# Rules of the same files for two species and for more: each matches the studies of its own.
BINARY = len(CONFIG["lattice"]["species"]) == 2
TWO_SPECIES, MORE_SPECIES = (STUDY, NOTHING) if BINARY else (NOTHING, STUDY)
ENSEMBLES = ensembles(CONFIG["cells"])
# Phases are bounded between two species only.
DIAGRAM_CELLS = [
    name for name, cell in CONFIG["cells"].items() if cell["phases"] and BINARY
]
# Methods that write samples, those whose tables or samples resolve composition, and the criteria that need that.
SAMPLED = ["snis", "metropolis", "tempering"]
RESOLVED = [*SAMPLED, "metadynamics", "canonical", "vcsgc", "wang_landau", "exact"]
FROM_FREE_ENERGY = ["common_tangent", "equal_weight", "critical_point"]
PUBLISHED = [
    name for name, expansion in CONFIG["expansions"].items() if "published" in expansion
]
# The kind of every Hamiltonian: models given by their parameters, and those with a hull of structures.
KINDS = kinds_of(CONFIG)
GIVEN = [name for name, kind in KINDS.items() if not kind.fitted]
WITH_HULL = [name for name in CONFIG["expansions"] if name not in GIVEN]
GRAPHS = [
    name
    for name, expansion in CONFIG["expansions"].items()
    if expansion.get("model") == "crystal_graph"
]
FITTED = [name for name in WITH_HULL if name not in PUBLISHED + GRAPHS]
EXPANSIONS = PUBLISHED + FITTED
SEARCHED = FITTED if BINARY else []
# The fits that propose structures, by calculation, where the study has generations.
GENERATIONS = CONFIG["structures"]["generations"]
PROPOSERS = proposers_of(CONFIG)
PROPOSING = sorted(name for names in PROPOSERS.values() for name in names)
DIAGRAM_HULLS = sorted(
    {CONFIG["cells"][cell]["expansion"] for cell in DIAGRAM_CELLS} & set(WITH_HULL)
)
# Cells whose samples can be told apart by the ground states.
LABELLED_CELLS = [
    cell
    for cell in DIAGRAM_CELLS
    if set(SAMPLED) & set(CONFIG["cells"][cell]["methods"])
    and CONFIG["cells"][cell]["expansion"] in WITH_HULL
]
# Cells whose sweep gets more conditions where boundaries are uncertain, and the criteria that these are for.
REFINED_CELLS = CONFIG["refinement"]["cells"]
REFINED_CRITERIA = refined_criteria(CONFIG)
# Cells whose samples are reweighted to drawn interactions, with the method they are from: a fit has a covariance.
MODEL_ERROR_CELLS = {
    cell: first_sampled(cell)
    for cell in DIAGRAM_CELLS
    if set(SAMPLED) & set(CONFIG["cells"][cell]["methods"])
    and CONFIG["cells"][cell]["expansion"] in FITTED
}
# Cells of one Hamiltonian: of several sizes, or there is nothing to extrapolate and that is said.
SHARED = [CONFIG["cells"][cell]["expansion"] for cell in DIAGRAM_CELLS]
SIZES = [results("phases/finite_size.csv")] if len(set(SHARED)) < len(SHARED) else []
MODEL_ERRORS = [results("phases/model_error.csv")] if MODEL_ERROR_CELLS else []
# Tables of the phases, with their notes.
LISTED = ["boundaries", "invariants", "consistency"] if BINARY else []
PHASE_TABLES = expand(results("phases/{table}.csv"), table=LISTED)
# Solid solutions for CALPHAD codes: cells whose ordered samples can be told apart, each with one method.
SOLUTIONS = [results(f"phases/{cell}_{first_sampled(cell)}") for cell in LABELLED_CELLS]
# Cells whose free energies are drawn with their tangents, with the method they are from.
TANGENT_CELLS = {
    cell: next(m for m in RESOLVED if m in CONFIG["cells"][cell]["methods"])
    for cell in DIAGRAM_CELLS
    if set(RESOLVED) & set(CONFIG["cells"][cell]["methods"])
    and "common_tangent" in CONFIG["phases"]["criteria"]
}
