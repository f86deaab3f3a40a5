# make            create .venv and install kvs with what running it needs
# make run        run the example jobs and print what they wrote
# make demo       play a server, two clients, and a job added while the server runs
# make dev        also install what the targets below need
# make test       run lint and every test except the stress tests
# make test-fast  run the tests that are marked neither slow nor stress: under a minute on 2 cores
# make stress     run the stress tests, which take minutes
# make coverage   run `make test`'s tests and print which lines of src/kvs they leave out
# make lint       check style, format, types, the direction of imports and, with clang++, locking
# make sanitize   fuzz the compiled engine under the compiler's sanitizers, for some minutes
# make bench      measure every section, and write docs/benchmarks.json and docs/benchmarks.md
# make clean      remove everything that the targets above created
# make help       print this list

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
ENGINE := setup.py $(wildcard src/kvs/engine/*.pyx src/kvs/engine/native/*.[hc]pp)
DEV := import tomllib; \
	print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")

.PHONY: all run demo dev test test-fast stress coverage lint sanitize bench clean help

all: .venv/installed
dev: .venv/dev

.venv/installed: pyproject.toml src/kvs/_version.py $(ENGINE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kvs needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv
	@rm -f src/kvs/engine/*.so
	@echo "building and installing kvs: about 20 seconds on a new machine"
	@$(PIP) install --editable .
	@$(BIN)/kvs --version
	@touch $@

# The requirements are read from pyproject.toml: `pip install .[dev]` would build kvs once more.
.venv/dev: .venv/installed
	@echo "installing the tools for tests, lint and benchmarks"
	@$(BIN)/python -c '$(DEV)' > .venv/dev.txt
	@$(PIP) install --requirement .venv/dev.txt
	@touch $@

run: .venv/installed
	@examples/show $(BIN)/kvs

demo: .venv/installed
	@examples/demo $(BIN)/kvs

test: lint
	$(BIN)/pytest --numprocesses 3

test-fast: .venv/dev
	$(BIN)/pytest --numprocesses 3 -m 'not stress and not slow' --hypothesis-profile fast

stress: .venv/dev
	$(BIN)/pytest -m stress --timeout 1800

coverage: .venv/dev
	$(BIN)/pytest --numprocesses 3 --cov --cov-report term-missing:skip-covered

lint: .venv/dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; exit 1; }
	@if command -v clang++ > /dev/null; then \
		clang++ -fsyntax-only -std=c++17 -Wall -Wextra -Wthread-safety -Werror \
			-Isrc/kvs/engine/native tests/engine/native/driver.cpp \
			tests/engine/native/storage.cpp; \
	fi

sanitize: .venv/dev
	tests/engine/native/sanitize $(BIN)/python

bench: .venv/dev
	@bench/get-servers
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f .coverage .coverage.* examples/jobs/*.out examples/jobs/*.bck src/kvs/engine/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n '/^# make/s/^# //p' Makefile
