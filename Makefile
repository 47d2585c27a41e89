# What a machine with Python 3.10+ and make needs: `make demo`, `make test`, `make docs`.
PYTHON ?= python3
BIN := .venv/bin
# Whose examples train, build or convert so much that they run with those of the pages.
SLOW_EXAMPLES := $(addprefix keras_autoshrink/,networks/references.py training/classifier.py \
	training/language_model.py tuner/tuner.py) \
	$(addprefix tflite_export/,optimize/__init__.py smallest.py table.py)

.PHONY: demo test lint docs tutorials clean

demo: .venv/installed
	$(BIN)/autoshrink demo --directory demo --overwrite

# Three processes for two cores, as tests often wait for processes of their own. Each takes a file at
# a time, so that no fixture is made twice. Also where the environment says that no compiled modules
# are to be kept they are: the processes and those that they start would each compile the same.
test: .venv/installed
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist loadfile $(addprefix --ignore=,$(SLOW_EXAMPLES))

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Builds the pages, then runs what they show: their examples, the README's script, and the notebooks
# with less of everything, two at a time.
docs: .venv/installed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build
	$(BIN)/python -m pytest -n 2 --dist worksteal --doctest-glob '*.rst' docs/checks docs/api \
		$(SLOW_EXAMPLES)

# All in full, about an hour of processor time; `make tutorials NAMES=01_first_search` runs one.
tutorials: .venv/installed
	$(BIN)/python tutorials/execute.py $(NAMES)

.venv/installed: setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo runs tutorials/runs docs/_build
