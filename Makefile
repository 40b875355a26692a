# Every target sets up what it needs first (a few milliseconds when nothing changed).
SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
export VENV

.PHONY: setup demo test check bench serve clean

setup:
	@tools/bootstrap.sh dev

demo: setup                     ## the main job on the embedded default; SIZE=nano for a minute's worth
	@$(BIN)/moontide demo $(if $(SIZE),--size $(SIZE)) $(ARGS)

serve: setup                    ## the page of the last demo
	@$(BIN)/moontide serve $(if $(RUN),$(RUN),runs/demo) $(ARGS)

test: setup                     ## all tests that need no GPU and no network; the slow ones: ARGS="-m slow"
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

check: setup                    ## formatting, lint, types, order of rooms, docs, file lengths
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/ty check
	@$(BIN)/python tools/check_house.py

bench: setup                    ## side-by-side ratios; prints tables
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
