# PYTHON makes the virtual environments. test-gpu and gpu-hour run with it and without one, and so do the benchmarks where
# it is given, as in `make bench PYTHON=python3`: a machine with a GPU may have its own torch, and no registry.
GIVEN := $(if $(filter undefined,$(origin PYTHON)),,yes)
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
BENCH = $(if $(GIVEN),$(PYTHON),$(BIN)/python) -m bench
BENCH_NEEDS = $(if $(GIVEN),,$(VENV)/ready)
# Which versions of everything are installed.
CONSTRAINTS ?= constraints.txt

# Of gpu-hour: where results go, which parts are to run if not all, how long one call may take in seconds, and which commit
# it is where git cannot say.
OUT ?= gpu-hour
PARTS ?=
LIMIT ?=
COMMIT ?=

.PHONY: bench bench-full model test test-all test-oldest test-newest pytest test-gpu gpu-hour docs build format clean

# Benchmark: fastrnn against torch.nn, on the GPU if there is one, else on the CPU with a report on the GPU kernels.
bench: $(BENCH_NEEDS)
	$(BENCH) run --quick

# Every row that is reported of a GPU, into bench/results/, and the tables of it; interrupted, it goes on where it was.
bench-full: $(BENCH_NEEDS)
	mkdir -p bench/results
	$(BENCH) run --full --resume --json bench/results $(if $(COMMIT),--commit $(COMMIT)); code=$$?; \
	$(BENCH) report bench/results/*.jsonl; exit $$code

# What the cost models say of LSTMs and GRUs: the table in bench/model/, and the pages that have parts of it.
model: $(BENCH_NEEDS)
	$(BENCH) model --table --json bench/model/sm_90.jsonl \
	  --page docs/inside/model.md --page docs/guide/drop-in.md --page bench/NOTES.md

# Lint, type-check, and every test that needs no GPU.
test: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/python -m pytest -n 2

# The slow tests as well.
test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 -m "not gpu"

# The tests alone, under the oldest torch and Triton there are kernels for and under the newest, each in an environment
# of its own: PYTHON is to be one that this torch has.
test-oldest:
	$(MAKE) pytest VENV=.venv-oldest CONSTRAINTS=.github/constraints-oldest.txt

test-newest:
	$(MAKE) pytest VENV=.venv-newest CONSTRAINTS=.github/constraints-newest.txt

pytest: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

# The tests that need a GPU, with the Python at hand: torch, triton, numpy and pytest are all they use.
test-gpu:
	$(PYTHON) -m pytest -m gpu --tb=short

# All that a GPU is borrowed for, with the Python at hand: kernels compiled on all cores, each kernel that waits tried, the
# GPU tests, the benchmarks, the cost model's constants. Parts are bounded, kept as they come, and go on at the next call.
gpu-hour:
	$(PYTHON) -m bench hour --out '$(OUT)' $(PARTS:%=--part %) $(if $(LIMIT),--seconds $(LIMIT)) $(if $(COMMIT),--commit $(COMMIT))

# The documentation, into build/site; a warning is an error.
docs: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[docs]'
	$(BIN)/mkdocs build --strict

# The source distribution, and the wheel built from it, into dist/; checked as a package index will.
build: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[test,bench]'
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-newest build dist gpu-hour *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
