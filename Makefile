# make train             train on the embedded default; ARGS="--arch wrn16_8 --epochs 200" trains CIFAR-10
# make test              run the tests (the environment is created when it is not there)
# make gpu-check         everything that needs an NVIDIA GPU, nine minutes; installs nothing; CHECK="--only tests,ops"
# make check             ruff, mypy, import-linter
# make lock              after a change of pyproject.toml or constraints*.txt; UPGRADE=--upgrade takes what is newest
.DEFAULT_GOAL := train
VENV ?= .venv
PYTHON ?= python3
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet
LOCK ?= requirements.lock
DEV_LOCK ?= requirements-dev.lock
ARGS ?= --recipe quickstart
BUILD_REQUIRES := $(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'
COMPILE := $(BUILD_REQUIRES) | $(VENV)/bin/uv pip compile --quiet --python $(VENV)/bin/python \
	--python-version 3.11 --universal --generate-hashes --annotation-style line --custom-compile-command "make lock" \
	$(UPGRADE) pyproject.toml -
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest

.PHONY: train test test-slow test-long test-latest gpu-check check format bench docs lock clean

train: $(VENV)/.installed
	$(VENV)/bin/python -m cifarfast.train $(ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -n auto -m "not slow and not gpu" tests

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -n auto -m "slow and not long and not alone and not gpu" tests
	$(PYTEST) -m "slow and alone and not gpu" tests
	$(VENV)/bin/python -m pytest --benchmark-enable bench/test_overhead.py

# every case of every op in Triton's interpreter
test-long: $(VENV)/.installed-dev
	$(PYTEST) -m "long and not gpu" tests

# the newest torch that pyproject.toml admits, in an environment of its own
test-latest:
	$(MAKE) test VENV=.venv-latest LOCK=requirements-latest.lock DEV_LOCK=requirements-latest.lock

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

# versions for every platform and every Python from 3.11 on, build requirements among them; they stay unless UPGRADE says so
lock: $(VENV)/bin/uv
	$(COMPILE) --extra dev --constraint constraints.txt --output-file requirements-dev.lock
	$(COMPILE) --constraint requirements-dev.lock --output-file requirements.lock
	$(COMPILE) --extra dev --constraint constraints-latest.txt --output-file requirements-latest.lock

clean:
	rm -rf .venv .venv-latest build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(LOCK)
	@echo "installing into $(VENV) (PyTorch is large: a few minutes on a slow line)"
	$(PIP) --require-hashes --requirement $(LOCK)
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed $(DEV_LOCK)
	$(PIP) --require-hashes --requirement $(DEV_LOCK)
	@touch $@

# no prerequisites: a changed pyproject.toml is locked first and installed afterwards
$(VENV)/bin/uv:
	$(MAKE) $(VENV)/.installed-dev
