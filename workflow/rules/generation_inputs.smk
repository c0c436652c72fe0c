# Helper functions of active learning: which structures a calculation has, and which files they are in.
from segalflow.artefacts import read_table
from segalflow.structures.initial import initial_structures


def in_folder(folder):
    """Ids of the structures in a folder of single files."""
    return sorted(path.stem for path in Path(folder).glob("*.extxyz"))


def chosen_from(manifest):
    """Ids of the structures of a pool that are calculated first."""
    return initial_structures(
        read_table(manifest), CONFIG["structures"]["initial"], CONFIG["seed"]
    )


def initial_ids():
    """Ids of the structures that are calculated first, known once the pool is made."""
    made = checkpoints.enumerate_structures.get(study=STUDY).output
    return chosen_from(made.manifest) if PROPOSERS else in_folder(made.folder)


# A pool that is there already and too small is said at once: Snakemake adds a traceback to what an input function says.
if PROPOSERS and Path(results("structures/manifest.csv")).exists():
    try:
        chosen_from(results("structures/manifest.csv"))
    except SegalflowError as error:
        raise WorkflowError(f"config: {error}") from None


def proposed_in(expansion, generation):
    """Folder of the structures that a fit asks for, known once it has been asked."""
    return checkpoints.propose_generation.get(
        study=STUDY, expansion=expansion, generation=str(generation)
    ).output.folder


def ids_until(calculation, generation):
    """Ids of the structures of a calculation, of all generations up to this one."""
    names = set(initial_ids())
    for number in range(1, generation + 1):
        for expansion in PROPOSERS.get(calculation, []):
            names.update(in_folder(proposed_in(expansion, number)))
    return sorted(names)


def structure_ids(wildcards):
    """Ids of all structures of the wildcard's calculation."""
    return ids_until(wildcards.calculation, GENERATIONS)


def item_of(calculation, structure):
    """The file of a structure: in the pool, or where the first generation that asks for it has put it."""
    file = f"{structure}.extxyz"
    pooled = results(f"structures/items/{file}")
    if calculation not in PROPOSERS:
        return pooled
    checkpoints.enumerate_structures.get(study=STUDY)
    for generation in range(1, GENERATIONS + 1):
        if Path(pooled).exists():
            break
        for expansion in PROPOSERS[calculation]:
            proposed = Path(proposed_in(expansion, generation)) / file
            if proposed.exists():
                return str(proposed)
    return pooled


def structure_file(wildcards):
    """The file of the wildcard's structure."""
    return item_of(wildcards.calculation, wildcards.structure)


def structure_files(wildcards):
    """The files of all structures of the wildcard's calculation."""
    return [item_of(wildcards.calculation, name) for name in structure_ids(wildcards)]


def calculation_of(wildcards):
    """The calculation that the wildcard's expansion is fitted to."""
    return CONFIG["expansions"][wildcards.expansion]["calculation"]


def known_ids(wildcards):
    """Ids of the structures that are calculated before the wildcard's generation is chosen."""
    return ids_until(calculation_of(wildcards), int(wildcards.generation) - 1)


def known_structures(wildcards):
    """The files of these structures."""
    return [item_of(calculation_of(wildcards), name) for name in known_ids(wildcards)]


def known_records(wildcards):
    """The records of these structures."""
    folder = results(f"dft/{calculation_of(wildcards)}/records")
    return [f"{folder}/{name}.json" for name in known_ids(wildcards)]


def status_before(wildcards):
    """What was said of the fit when the generation before the wildcard's was chosen."""
    before = int(wildcards.generation) - 1
    return statuses(wildcards.expansion, before)[-1:]


def statuses(expansion, last):
    """What was said of a fit whenever a generation was chosen."""
    folder = results(f"expansion/{expansion}/generations")
    return [f"{folder}/{number}/status.json" for number in range(1, last + 1)]


def choices_of(wildcards):
    """Tables of what was asked for, of all fits and generations of the wildcard's calculation."""
    return [
        results(f"expansion/{expansion}/generations/{generation}/proposed.csv")
        for generation in range(1, GENERATIONS + 1)
        for expansion in PROPOSERS[wildcards.calculation]
    ]


def seed_of_fit(wildcards):
    """The seed of the fit of the wildcard's expansion: the same folds in every generation."""
    named = {"study": wildcards.study, "expansion": wildcards.expansion}
    return derive_seed(CONFIG["seed"], "fit_expansion", named)


def usable_fraction(wildcards):
    """Smallest usable fraction of the calculations that the wildcard's expansion is fitted to."""
    return CONFIG["calculations"][calculation_of(wildcards)]["minimum_fraction"]
