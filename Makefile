# `make demo` and `make test` work on a fresh clone: they make .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
BASE := .venv/.base
READY := .venv/.ready

.PHONY: demo test test-slow lint format docs clean

# What the demo needs; what tests need comes on top.
$(BASE): pyproject.toml constraints.txt
	@echo "Installing into .venv, 1.8 GB: 2 to 8 minutes, most of them after the last download."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $(BASE)

$(READY): $(BASE)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

demo: $(BASE)
	$(BIN)/diffzero demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One process per core, each with one thread: two threads a process are slower than one.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: lint
	$(TESTS)

test-slow: $(READY)
	$(TESTS) -m "slow or not slow"

# The site, in build/site; no page of it asks another host for anything.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
