# make demo: environment, install, data, the whole job. make test: the tests, as CI runs them.
PYTHON ?= python3
VENV ?= .venv
DATA ?= datasets
RUN := $(VENV)/bin
export KDCOMPRESS_DATA ?= $(DATA)

.PHONY: demo full test slow lint install data clean

demo: install data
	$(RUN)/kdcompress run fashion-mnist-demo

full: install data
	$(RUN)/kdcompress run pipelines/recipes/fashion-mnist.yaml

test: install data lint
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

slow: install data
	$(RUN)/python -m pytest -q -m slow

lint: install
	$(RUN)/ruff check .
	$(RUN)/ruff format --check --quiet .
	$(RUN)/mypy kdcompress

install: $(VENV)/.installed

# The tested versions; setup.py itself allows a range.
$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[dev,tensorrt-rtx,cluster]'
	touch $@

data: install
	$(RUN)/python -m kdcompress.data.fetch fashion-mnist --root $(DATA)

clean:
	rm -rf $(VENV) build dist *.egg-info
