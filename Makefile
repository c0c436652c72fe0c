# The two commands of the README, and little else. Everything runs from .venv; nothing is installed by hand.
PYTHON ?= python3
CONFIG ?= config/config.yaml
CORES ?= $(shell nproc 2>/dev/null || echo 2)
STUDY = $(shell sed -n 's/^study: *//p' $(CONFIG))
REPORT = results/$(STUDY)/report.html
BIN := .venv/bin
READY := .venv/.ready

.PHONY: phase-diagram test lint benchmarks environment lock clean

phase-diagram: environment
	$(BIN)/snakemake --cores $(CORES) --configfile $(CONFIG)
	@if [ ! -f $(REPORT) ] || [ -n "$$(find results/$(STUDY) -name '*.csv' -newer $(REPORT) | head -n 1)" ]; then \
		$(BIN)/snakemake --cores 1 --configfile $(CONFIG) --report $(REPORT); fi
	@echo "report:  $(REPORT)"
	@echo "diagram: $$(ls results/$(STUDY)/figures/phase_diagram_[!d]*.png)"

test: environment
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations 12

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

# Alone on the machine. The peer that is not a dependency (smol) is left out where it cannot be installed.
benchmarks: environment
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[benchmarks]'
	$(BIN)/python benchmarks/monte_carlo.py --write --json benchmarks/monte_carlo.json

environment: $(READY)

$(READY): pyproject.toml envs/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: segalflow needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; install its venv package (Debian: python3-venv)" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 || \
		{ echo "error: no C++ compiler found (icet is compiled at installation); install g++ or clang++, or set CXX" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

lock: environment
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev,slurm]'
	@{ echo "# Every package of the environment, pinned: the set the tests pass with. Made by \`make lock\`."; \
		$(BIN)/python -m pip freeze --exclude-editable --exclude pip --exclude wheel | sed 's/+cpu$$//'; } > envs/requirements.lock

clean:
	rm -rf .venv .snakemake results/*/ logs work
