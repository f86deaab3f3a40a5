# make          set up .venv and install
# make run      run the example jobs and show what came of them
# make demo     play a server, two clients, and a job that is dropped in
# make test     every test, lint and type check
# make quick    the tests without those that take seconds each
# make stress   the tests that take minutes
# make sanitize the compiled engine under the compiler's sanitizers, and a fuzzer, some minutes
# make bench    measure, and write the table in docs/benchmarks.md
# make lint     lint, format, types, import directions, and with clang++ the engine's locking
# make clean    remove what the above has made

PYTHON ?= python3
BIN := .venv/bin
ENGINE := setup.py $(wildcard src/kvs/engine/*.pyx src/kvs/engine/native/*.[hc]pp)

.PHONY: all run demo test quick stress sanitize lint bench clean

all: .venv/installed

.venv/installed: pyproject.toml src/kvs/_version.py $(ENGINE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "kvs needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@rm -f src/kvs/engine/*.so
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/kvs --version
	@touch $@

run: .venv/installed
	@examples/show $(BIN)/kvs

demo: .venv/installed
	@examples/demo $(BIN)/kvs

test: lint
	$(BIN)/pytest --numprocesses 3

quick: .venv/installed
	$(BIN)/pytest --numprocesses 3 -m 'not stress and not slow'

stress: .venv/installed
	$(BIN)/pytest -m stress --timeout 1800

sanitize: .venv/installed
	tests/engine/native/sanitize $(BIN)/python

lint: .venv/installed
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-cache > .venv/imports.log || { cat .venv/imports.log; exit 1; }
	@if command -v clang++ > /dev/null; then \
		clang++ -fsyntax-only -std=c++17 -Wall -Wextra -Wthread-safety -Werror \
			-Isrc/kvs/engine/native tests/engine/native/driver.cpp; \
	fi

bench: .venv/installed
	@bench/get-redis
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f examples/jobs/*.out examples/jobs/*.bck src/kvs/engine/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
