# dicom-router: everything a developer or a build server needs. `make demo` and `make test` set up what they use.

.DEFAULT_GOAL := help
.PHONY: help install demo test bench lint peers packages clean

# The tests start the program a thousand times: without bytecode each start would compile all of it again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
LANGUAGE_SERVER := tests/editor/node_modules/.installed
WORKERS ?= 2
# What fails beside other tests, on a machine that is not ours alone, is run once more by itself; both failures are
# printed, and what fails again has failed. Only after tests that failed (1), not after a crash or a wrong argument.
# Where the run failed because of tests that were skipped there is nothing to run again, and so it stays failed.
ALONE = { test $$? -eq 1 && $(PYTHON) -m pytest --last-failed --lfnf none --maxfail 1 --forbid-skips; }

help:
	@echo "make install   set up $(VENV) with the project and its tools"
	@echo "make demo      the main job on an embedded simulator"
	@echo "make test      lint and all tests, against real peers too"
	@echo "make bench     benchmarks beside real peers"
	@echo "make lint      style, types, architecture"
	@echo "make peers     what the tests talk to: peers from Debian's packages, the language server of editors from npm"
	@echo "make clean     remove what the above made"

$(INSTALLED): pyproject.toml constraints.txt scripts/venv.sh
	./scripts/venv.sh
	@touch $@

install: $(INSTALLED)

packages:
	./scripts/peers.sh

$(LANGUAGE_SERVER): tests/editor/package.json tests/editor/package-lock.json | packages
	cd tests/editor && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

peers: packages $(LANGUAGE_SERVER)

demo: install
	$(VENV)/bin/dicom-router demo

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: install peers lint
	$(PYTHON) -m pytest --numprocesses $(WORKERS) --dist worksteal --forbid-skips || $(ALONE)

bench: install peers
	$(PYTHON) -m bench

clean:
	rm -rf $(VENV) tests/editor/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
