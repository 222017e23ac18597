# make demo: environment, install, data, the whole job. make test: the tests, as CI runs them, with every runtime.
PYTHON ?= python3
VENV ?= .venv
DATA ?= datasets
# Processes of the tests: one more than cores, as tests wait for browsers, devices and other processes.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, 1 + os.cpu_count()))")
RUN := $(VENV)/bin
# The tested versions are those of Python 3.11 and later; with 3.10 pip takes what fits setup.py.
TESTED := $(shell $(PYTHON) -c "import sys; print('--constraint constraints.txt' * (sys.version_info >= (3, 11)))")
export KDCOMPRESS_DATA ?= $(DATA)

.PHONY: demo full test slow reference lint docs install runtimes hashes data clean

demo: install
	$(RUN)/python -m kdcompress.demo

full: install data
	$(RUN)/kdcompress run pipelines/recipes/fashion-mnist.yaml

test: runtimes data lint
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile

slow: runtimes data
	$(RUN)/python -m pytest -q -m slow

# The records of all formats in tests/reference, by the versions that are installed; what changed is printed.
# With SPEED=--speed also how fast each file is on this kind of machine.
reference: runtimes data
	OMP_NUM_THREADS=1 $(RUN)/python tests/reference/renew.py $(SPEED)

lint: runtimes
	$(RUN)/ruff check .
	$(RUN)/ruff format --check --quiet .
	$(RUN)/mypy kdcompress

# The site, in site/. The variable silences the theme's notice of its end of life (May 2027), on each build.
docs: runtimes
	NO_MKDOCS_2_WARNING=1 $(RUN)/python -m mkdocs build --strict

install: $(VENV)/.installed

# The tested versions; setup.py itself allows a range. With HASHES=FILE, which `make hashes` wrote, what is not as it is
# there is not installed; PyTorch's own packages are not in it.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet $(TESTED) torch torchvision
	$(if $(HASHES),$(RUN)/pip install --quiet --require-hashes --requirement $(HASHES))
	$(RUN)/pip install --quiet $(TESTED) --editable '.[tensorrt-rtx]'
	touch $@

runtimes: $(VENV)/.installed-all

# Every runtime beside every other, and what the tests themselves need.
$(VENV)/.installed-all: $(VENV)/.installed
	$(RUN)/pip install --quiet $(TESTED) --editable '.[dev,docs,all]'
	$(RUN)/pip check
	touch $@

hashes: install
	$(RUN)/pip install --quiet --dry-run --ignore-installed $(TESTED) \
		--report $(VENV)/report.json '.[dev,docs,all]'
	$(RUN)/python .ci/hashes.py $(VENV)/report.json >constraints-hashed.txt

data: install
	$(RUN)/python -m kdcompress.data.fetch fashion-mnist --root $(DATA)

clean:
	rm -rf $(VENV) build dist *.egg-info
