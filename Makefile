# make demo: install, score the models that come with the package on the sample, draw the figures.   make test: tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Every target finds the tools of the environment first, also the kernels that papermill starts.
export PATH := $(abspath $(BIN)):$(PATH)

# Triton's kernels run in its interpreter where there is no GPU.
export TRITON_INTERPRET ?= $(if $(shell command -v nvidia-smi),0,1)

# analyses/organism.ipynb trains for ten minutes; pytest runs it with little effort, `make test-full` with all of it.
NBDEV_TEST := OMP_NUM_THREADS=1 nbdev-test --skip-file-re '^([_.]|organism)'
# Two processes with one thread each: with two threads each they wait for each other. One of them may need 8 GB.
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal

.PHONY: help venv install demo test test-slow test-full test-lowest check notebooks bench bench-full bench-gpu lab sample organism readme constraints clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

venv: $(VENV)/.installed

install: $(VENV)/.developer  ## make .venv with the package in editable form and the tools to develop it

# Debian keeps venv's ensurepip in a package of its own; root gets it installed, others are told.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo 'psych201 needs Python 3.10 to 3.13; name one: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq python3-venv; } || \
	  { echo 'This Python cannot make environments; install its venv package (Debian: apt-get install python3-venv).'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: venv  ## score the models that come with the package on the sample and draw the figures
	psych201 demo

test: check  ## the checks, all notebooks, and all tests but the slow ones
	$(NBDEV_TEST)
	$(PYTEST) -m "not slow"

test-slow: install  ## golden values of real models, installation, kills, compiled layers, simulations
	$(PYTEST) -m slow

test-full: check  ## all tests in one process, kills, fuzzing and simulations in full; takes several times as long
	$(NBDEV_TEST)
	PSYCH201_FULL=1 python -m pytest

test-lowest: install  ## the tests but the slow ones with the lowest versions that pyproject.toml allows, in .venv-lowest (needs 8 GB of disk)
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet uv
	.venv-lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra dev pyproject.toml -o .venv-lowest/lowest.txt
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet -r .venv-lowest/lowest.txt
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet --no-deps -e .
	PATH=$(abspath .venv-lowest/bin):$$PATH OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m "not slow"

check: install  ## export and clean change nothing, README is current, style limits, lint
	python tools/check_export.py
	python tools/rooms.py
	python tools/readme.py --check
	python tools/style.py
	ruff check --quiet psych201 tests tools bench

notebooks: install  ## export, run the method notebooks with their outputs, clean, write README.md
	nbdev-export
	python tools/run_notebooks.py
	nbdev-clean
	python tools/rooms.py --write
	python tools/readme.py

bench: install  ## measure speed and memory, write bench/RESULTS.md; up to 25 minutes
	python bench/run.py

bench-full: install  ## the same with more repeats and every request of the other tools
	python bench/run.py --full

bench-gpu: install  ## measure speed and memory on a GPU (seven minutes), then write bench/RESULTS.md
	python bench/gpu.py
	python bench/run.py --only

lab: install  ## JupyterLab on the start notebook
	jupyter lab nbs/index.ipynb

sample: install  ## write the built-in sample again
	papermill --log-level ERROR --no-progress-bar -k python3 nbs/analyses/make_sample.ipynb /dev/null -p output psych201/assets/sample

organism: install  ## train the model organism again (ten minutes), score it, and put its three models into the package
	mkdir -p runs/organism
	papermill --log-level ERROR --no-progress-bar -k python3 nbs/analyses/organism.ipynb runs/organism/organism.ipynb -p output runs/organism
	rm -rf psych201/assets/shipped/organism-*
	cp -r runs/organism/models/* psych201/assets/shipped/

readme: install  ## write the table of rooms, and README.md from nbs/index.ipynb
	python tools/rooms.py --write
	python tools/readme.py

constraints:  ## resolve the newest versions into constraints.txt (torch stays as pinned)
	grep '^torch==' constraints.txt > .torch.txt
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --upgrade -c .torch.txt --no-header --no-annotate -o constraints.txt
	rm .torch.txt
	sed -i '1i # The tested set, for Python 3.10 to 3.13: `make constraints` updates it (needs uv). Used by the Makefile and CI.' constraints.txt

clean:  ## remove the environment and what builds left; results in runs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
