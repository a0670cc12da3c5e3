# PYTHON makes the virtual environments, and runs test-gpu without one.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Which versions of everything are installed.
CONSTRAINTS ?= constraints.txt

.PHONY: bench bench-full test test-all test-oldest test-newest pytest test-gpu docs build format clean

# Benchmark: fastrnn against torch.nn, on the GPU if there is one, else on the CPU with a report on the GPU kernels.
bench: $(VENV)/ready
	$(BIN)/python -m bench run --quick

# Every row that is reported of a GPU, into bench/results/, and the tables of it; interrupted, it goes on where it was.
bench-full: $(VENV)/ready
	mkdir -p bench/results
	$(BIN)/python -m bench run --full --resume --json bench/results; code=$$?; \
	$(BIN)/python -m bench report bench/results/*.jsonl; exit $$code

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
	$(PYTHON) -m pytest -m gpu

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
	rm -rf .venv .venv-oldest .venv-newest build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
