# make train             train on the embedded default; ARGS="--arch wrn16_8 --epochs 200" trains CIFAR-10
# make test              run the tests (the environment is created when it is not there)
# make gpu-check         everything that needs an NVIDIA GPU, nine minutes; installs nothing; CHECK="--only tests,ops"
# make check             ruff, mypy, import-linter
.DEFAULT_GOAL := train
VENV ?= .venv
PYTHON ?= python3
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet
CONSTRAINTS ?= constraints.txt
ARGS ?= --recipe quickstart
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

.PHONY: train test test-slow test-latest gpu-check check format bench docs clean

train: $(VENV)/.installed
	$(VENV)/bin/python -m cifarfast.train $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -n auto -m "not slow and not gpu" tests

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -n auto -m "slow and not alone and not gpu" tests
	$(PYTEST) -m "slow and alone and not gpu" tests
	$(VENV)/bin/python -m pytest --benchmark-enable bench/test_overhead.py

# the newest torch that pyproject.toml admits, in an environment of its own
test-latest:
	$(MAKE) test VENV=.venv-latest CONSTRAINTS=constraints-latest.txt

# without an environment in $(VENV) it takes the machine's own Python, and the package from the checkout
gpu-check:
	$(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(PYTHON)) -m bench.gpu_check $(CHECK)

check: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy cifarfast
	$(VENV)/bin/mypy kernels
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python bench/render.py --check

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest --benchmark-enable bench

docs: $(VENV)/.installed-dev
	$(VENV)/bin/python bench/render.py

clean:
	rm -rf .venv .venv-latest build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(CONSTRAINTS)
	@echo "installing into $(VENV) (PyTorch is large: a few minutes on a slow line)"
	$(PIP) --constraint $(CONSTRAINTS) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint $(CONSTRAINTS) --editable '.[dev]'
	@touch $@
