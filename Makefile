# Needs only Python 3.11+, git and make. Everything lands below this folder: .uv (the installer), .venv, .lavise (state).
PYTHON ?= python3
UV := .uv/bin/uv
UV_VERSION := 0.13.9
RUN := .venv/bin
TWO := --numprocesses 2 --dist loadfile
NUMERIC := $(addprefix tests/unit/,storage/images/test_geometry.py tasks/numerics tasks/masks tasks/activations \
	tasks/evaluation tasks/words/test_preference.py tasks/words/test_naming_precision.py)
KERNELS ?= Haswell Nehalem
export UV_PYTHON_DOWNLOADS := never
# Two tests at a time: threads of each that wait for the other's cost more than they give.
test fast numeric coverage: export OMP_NUM_THREADS := 1

.PHONY: demo test fast numeric coverage lint types setup stages state settings picture clean

demo: setup  ## set up, then explain every filter of a real ImageNet network on pictures made here
	$(RUN)/lavise demo

test: setup lint types  ## set up, then all tests: the fast ones first, then the slow ones
	$(RUN)/pytest -m "not slow" $(TWO)
	$(MAKE) numeric KERNELS=Haswell
	$(RUN)/pytest -m slow $(TWO) --no-loadscope-reorder

fast: setup  ## only the tests that take seconds
	$(RUN)/pytest -m "not slow" $(TWO)

numeric: setup  ## what is exact, again with the matrix products of two other processors (make test: of the first)
	set -e; for kernel in $(KERNELS); do OPENBLAS_CORETYPE=$$kernel $(RUN)/pytest $(NUMERIC) $(TWO); done

coverage: setup  ## the fast tests again, with their floor of coverage; takes half as long again
	$(RUN)/pytest -m "not slow" $(TWO) --cov=configs --cov=storage --cov=tasks --cov=flows --cov-report= --cov-fail-under=95

lint: setup
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .

types: setup
	$(RUN)/mypy

setup: .venv/.synced .types

.types: Makefile  ## the code under the names that it is imported by, for the type checker and for editors
	rm -rf $@ && mkdir -p $@/lavise
	ln -s $(addprefix ../../,configs storage tasks flows $(wildcard src/lavise/*.py)) $@/lavise

.venv/.synced: $(UV) pyproject.toml uv.lock
	env -u PYTHONDONTWRITEBYTECODE $(UV) sync --locked --compile-bytecode --python $(PYTHON)
	touch $@

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

stages: setup  ## which stages rest on code that changed; SAME="NAME ..." (or all) for those whose results did not
	$(RUN)/python -m tests.stage_sources $(SAME)

state: setup  ## a small state folder of this build, which later builds have to read (tests/kept_states)
	$(RUN)/python -m tests.kept_state

settings: setup  ## docs/settings.md anew, from the schema
	$(RUN)/python -m tests.settings_page

picture: setup  ## the README's picture of the demo's report; AUDIT=.lavise/runs/RUN_ID
	$(RUN)/python -m tests.report_picture $(AUDIT)

clean:  ## remove the environment; keeps .lavise
	rm -rf .venv .uv .types
