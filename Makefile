# Everything a newcomer needs: each target makes the environment in .venv when it must (about a minute).

# The first interpreter that runs and will do: pyenv leaves commands behind for versions that are not installed.
PYTHON ?= $(or $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c $(VERSION) >/dev/null 2>&1 && "$$p" -c $(VENV) >/dev/null 2>&1 && echo "$$p" && break; done),python3)
# PyTorch's CPU index, for those who want it: make test TORCH_INDEX=https://...
TORCH_INDEX ?=
BENCH_ARGS ?= --quick -o out/bench
# At most so many test processes, since each one loads both torch and jax.
WORKERS ?= 2

VERSION = 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
VENV = 'import ensurepip, venv'
BIN = .venv/bin
DONE = .venv/.done
ROOMS = models guides inference benchmarks
# Python compiles what it loads anyway: compiling the whole of torch here would double the wait.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# One thread per process, or the processes fight for the cores.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses $(WORKERS) --dist worksteal

.DEFAULT_GOAL = help
.PHONY: help test test-all bench lint format types clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | while IFS='	' read -r name text; do \
		printf 'make %-10s %s\n' "$$name" "$$text"; done

test: $(DONE) ## run the tests, all but those marked slow
	$(PYTEST) -m "not slow"

test-all: $(DONE) ## run every test, the slow ones too
	$(PYTEST)

bench: $(DONE) ## run the quick benchmarks into out/bench (others: BENCH_ARGS="...")
	$(BIN)/latentzoo bench $(BENCH_ARGS)

lint: $(DONE) ## check the style with ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(DONE) ## put the style right with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# mypy does not follow the editable install's mapping: it reads the package through this tree of links.
types: $(DONE) ## check the types with mypy
	@rm -rf .venv/types && mkdir -p .venv/types/latentzoo
	@cd .venv/types/latentzoo && ln -s ../../../src/latentzoo/*.py ../../../src/latentzoo/py.typed \
		$(addprefix ../../../,$(ROOMS)) .
	$(BIN)/mypy

clean: ## remove the environment, caches and build leftovers (out/ stays)
	rm -rf .venv build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src $(ROOMS) tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last, so that an interrupted set-up is taken up again.
# torch goes first and alone, from its pin: resolved with the rest, pip could fetch gigabytes of another build.
# Constraints do not reach isolated builds, hence the pinned setuptools and --no-build-isolation.
$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c $(VERSION) 2>/dev/null || \
		{ echo 'latentzoo needs Python 3.11, 3.12 or 3.13, and "$(PYTHON)" runs none: name one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c $(VENV) 2>/dev/null || \
		{ echo '"$(PYTHON)" lacks the venv module (Debian: package python3-venv), or name another with PYTHON=...' >&2; exit 1; }
	@rm -f $@
	@echo 'Making the environment in .venv with $(PYTHON), about a minute ...'
	@$(PYTHON) -m venv .venv
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --no-deps -c constraints.txt setuptools
	@$(PIP) -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@
