# `make test` and `make demo` work from a fresh clone: each builds .venv and installs what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VERSION := $(call version,$(PYTHON))
# "anew" where the environment of another Python stands, which this one must not be tested in.
anew = $(if $(wildcard $(1)),$(if $(filter $(VERSION),$(call version,$(1)/bin/python)),,anew))
environment = $(PYTHON) -m venv $(if $(call anew,$(1)),--clear )$(1)
# Tested versions where this Python has a lock, the ranges of pyproject.toml elsewhere.
LOCK := $(wildcard requirements/py$(subst .,,$(VERSION)).txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q $(if $(LOCK),-c $(LOCK))
# The compiler of TPUs, of the version that jax 0.10.2 wants.
LIBTPU := 0.0.42.1

.PHONY: anew demo test lint format lock plan plan-gpu clean

$(VENV)/.core: pyproject.toml setup.py $(LOCK) $(call anew,$(VENV))
	$(call environment,$(VENV))
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) -e '.[test]'
	@touch $@

demo: $(VENV)/.core
	$(BIN)/python -m dmphn_jax demo

# That compiler for tests/planning, 0.7 GB, where no Python finds it: JAX would take it for a TPU.
.libtpu/$(LIBTPU): | $(VENV)/.core
	@rm -rf .libtpu
	@$(PIP) --retries 1 --no-deps --target .libtpu libtpu==$(LIBTPU) && touch $@ || echo \
	  'libtpu cannot be had: the tests that compile for a TPU will be skipped'

test: lint .libtpu/$(LIBTPU)
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/shellcheck -x launch/*.sh launch/*.sbatch
	$(BIN)/hadolint launch/docker/*.Dockerfile

# The project with the compilers of TPUs and of NVIDIA GPUs. They print the tables of docs/plan.md; no
# device is needed.
.venv-plan/.done: pyproject.toml $(LOCK) $(call anew,.venv-plan)
	$(call environment,.venv-plan)
	$(subst $(VENV),.venv-plan,$(PIP)) -e . libtpu==$(LIBTPU)
	@touch $@

.venv-plan-gpu/.done: pyproject.toml $(LOCK) $(call anew,.venv-plan-gpu)
	$(call environment,.venv-plan-gpu)
	$(subst $(VENV),.venv-plan-gpu,$(PIP)) -e . 'jax[cuda13]'
	@touch $@

plan: .venv-plan/.done
	.venv-plan/bin/python tools/plan_table.py --rows TPU

plan-gpu: .venv-plan-gpu/.done
	.venv-plan-gpu/bin/python tools/plan_table.py --rows GPU

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pins what the newest packages within pyproject's ranges are: make lock PYTHON=python3.13
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install -q -e '.[test]'
	build/lock/bin/python -m pip freeze --exclude-editable \
	  > requirements/py$(subst .,,$(VERSION)).txt

clean:
	rm -rf $(VENV) .venv-plan .venv-plan-gpu .libtpu build dist *.egg-info
