# The two commands to know:
#   make demo    install into .venv, predict the example structures, show the table
#   make test    install into .venv, run the tests
# Each starts from a bare Debian with Python 3.11 and make. `make help` lists the others.
#
# PyTorch's default build for Linux brings several gigabytes of CUDA libraries. For the small CPU build, pass pip the
# address of PyTorch's CPU index (see docs/how_to/install.md):   make demo PIP_FLAGS="--extra-index-url ADDRESS"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
DATA ?= ../shared/data
# in this order: others start from the first
ZOO ?= formation-energy-per-atom electronic elastic alignn vacancy-formation-energy defect-detection defect-sites

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
ENGINES_INSTALLED := $(VENV)/.installed-engines
RECIPES := pyproject.toml constraints.txt scripts/bootstrap.sh

.PHONY: help install install-dev engines demo test test-long test-slow test-services coverage names lint format types architecture imports docs examples benchmarks zoo wheel wheel-test clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | while IFS='|' read -r name text; do printf '%-20s %s\n' "$$name" "$$text"; done

$(INSTALLED): $(RECIPES)
	PYTHON=$(PYTHON) bash scripts/bootstrap.sh $(VENV) all,test $(PIP_FLAGS)
	@touch $@

$(DEV_INSTALLED): $(INSTALLED)
	PYTHON=$(PYTHON) bash scripts/bootstrap.sh $(VENV) all,test,docs,dev $(PIP_FLAGS)
	@touch $@

$(ENGINES_INSTALLED): $(INSTALLED) scripts/install_engines.sh scripts/gpaw_siteconfig.py
	bash scripts/install_engines.sh $(VENV) $(PIP_FLAGS)
	@touch $@

install: $(INSTALLED) ## make .venv with the package and everything that running and testing it needs
engines: $(ENGINES_INSTALLED) ## install the DFT codes: GPAW into .venv; Quantum ESPRESSO, CP2K, Graphviz as Debian packages
install-dev: $(DEV_INSTALLED) ## the same, with the tools for docs, lint, types and wheels

demo: $(INSTALLED) ## predict the example structures, on the command line and from Python
	$(BIN)/cgcnn-ase predict examples/structures --output demo.csv
	@$(BIN)/python -c "import pandas; print(pandas.read_csv('demo.csv').to_string(index=False, max_colwidth=40))"
	$(BIN)/python examples/first_prediction.py

# Some images of containers forbid Python to keep what it compiles: each of the many processes of the tests would
# compile this package, and pytest rewrite all assertions, anew.
test test-long test-slow coverage: export PYTHONDONTWRITEBYTECODE :=

# One thread for each worker: workers with several threads each would fight for the cores.
test: $(ENGINES_INSTALLED) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not long and not services" $(PYTEST_ARGS)

test-long: $(ENGINES_INSTALLED) ## run the whole of the checks that `make test` has in short
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m long $(PYTEST_ARGS)

test-slow: $(ENGINES_INSTALLED) ## run the slow tests, one after the other
	$(BIN)/python -m pytest -m "slow and not services" $(PYTEST_ARGS)

test-services: $(INSTALLED) ## install PostgreSQL, RabbitMQ and SLURM, and run the daemon's tests on them
	bash scripts/test_services.sh $(VENV) $(PYTEST_ARGS)

# About twice as long as the tests alone, so CI does not run it at every change.
coverage: $(ENGINES_INSTALLED) ## run the tests and count the lines and branches they reach; the table lands in build/coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not slow and not long and not services" --cov \
	    --cov-report=term --cov-report=html:build/coverage --cov-fail-under=90 $(PYTEST_ARGS)

names: $(INSTALLED) ## check that the code keeps to the words of the glossary
	$(BIN)/python scripts/check_names.py

lint: $(DEV_INSTALLED) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV_INSTALLED) ## put style and formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(DEV_INSTALLED) ## check the types (mypy, strict)
	$(BIN)/mypy

architecture: $(DEV_INSTALLED) ## draw the rooms of the two packages and what they import, into docs/development/architecture.md
	$(BIN)/python scripts/draw_architecture.py

imports: $(DEV_INSTALLED) ## check that imports go one way, and that the page on architecture matches them
	$(BIN)/lint-imports --no-cache
	$(BIN)/python scripts/draw_architecture.py --check

docs: $(DEV_INSTALLED) ## build the documentation into build/docs; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -j auto -b html docs build/docs
	@echo "open build/docs/index.html"

# Run from another folder, so that an example depends on nothing but itself, and what it writes lands in build/examples.
examples: $(ENGINES_INSTALLED) ## run every example
	@mkdir -p build/examples
	@for example in examples/*.py; do \
	    echo "== $$example"; \
	    case $$example in \
	        */aiida_*) run="bash ../../scripts/run_aiida_example.sh $(abspath $(BIN))" ;; \
	        *) run="$(abspath $(BIN))/python" ;; \
	    esac; \
	    (cd build/examples && $$run "../../$$example"); \
	done
	@for example in examples/*.yaml; do \
	    echo "== $$example"; \
	    rm -rf "build/examples/$$(basename $$example .yaml)"; \
	    $(BIN)/cgcnn-ase optimize $$example --output "build/examples/$$(basename $$example .yaml)"; \
	done

benchmarks: $(INSTALLED) ## run every benchmark; each prints a table
	@for benchmark in benchmarks/[a-z]*.py; do echo "== $$benchmark"; $(BIN)/python "$$benchmark"; done

zoo: $(INSTALLED) ## train the pretrained models again from DATA, or those of ZOO (hours on two cores)
	$(BIN)/python scripts/label_vacancies.py --data $(DATA) --output runs/chgnet_vacancies
	@for name in $(ZOO); do $(BIN)/python -m cgcnn_ase.zoo.train $$name --data $(DATA); done

wheel: $(DEV_INSTALLED) ## build the wheel, with the pretrained models in it, into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel --outdir dist

wheel-test: wheel ## install the wheel alone and predict from another folder, without a network
	bash scripts/wheel_test.sh $(VENV) dist/*.whl

clean: ## remove what was built, not .venv
	rm -rf build dist demo.csv .pytest_cache .mypy_cache .ruff_cache .hypothesis
