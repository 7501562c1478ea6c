PYTHON ?= python3
BIN := .venv/bin
EXPERIMENT ?= stand-in
PORT ?= 5000

.DEFAULT_GOAL := help
.PHONY: help env demo test evidence lint bench fuzz faults ui clean

help: ## What can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

env: .venv/.complete ## The environment in .venv, from requirements.lock

.venv/.complete: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Stand-In needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

demo: env ## The main job on the phantom cohort: slices, a generator, U-Nets, audit, attacks, report
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow run . -e benchmark -P preset=demo --env-manager local --experiment-name $(EXPERIMENT)

test: env lint ## Lint, then every test, two files at a time
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

evidence: env ## The table of preset cpu: five generators, two segmenters, three repeats, hours; stop it and go on at will
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow run . -e benchmark -P preset=cpu --env-manager local --experiment-name $(EXPERIMENT)

lint: env ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: env ## Speed and calibration, side by side in one run (not bench_quality.py, which takes hours)
	@for script in $(filter-out %/bench_quality.py, $(wildcard tests/bench/bench_*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

fuzz: env ## Damaged cohorts, foreign sets and calls: 1,159 of them, each read right or refused
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz

faults: env ## Bad luck, measured: full disk, damaged files, two at once, 100 signals (needs root to mount)
	$(BIN)/python -m tests.fuzz.faults

ui: env ## MLflow's pages on http://127.0.0.1:5000 (PORT=…)
	$(BIN)/mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}

clean: ## Remove what runs made: work/, reports/out/, mlflow.db, mlruns/, mlartifacts/ (asks nothing, keeps .venv)
	rm -rf work mlruns mlartifacts reports/out mlflow.db
