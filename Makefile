# Two commands on a machine with Python 3.10 or later: make demo, make test. make test-all also runs the slow tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Two processes of one thread and 2 GB of memory each, which share the files of tests.
SUITE = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

.PHONY: demo test test-all jars lint format notebooks docs clean

demo: $(INSTALLED)  ## The embedded default, end to end: prints the table, says where the report is.
	$(BIN)/pyterrier-merge run experiments/demo.yaml

test: lint jars  ## Lint, types and the suite, without what takes minutes alone.
	$(SUITE) -m "not slow"

test-all: lint jars  ## Lint, types and the whole suite.
	$(SUITE)

jars: $(INSTALLED)  ## Terrier's jars, where there is Java: two processes would fetch them at the same time.
	@! command -v java > /dev/null || $(BIN)/python -c "from pyterrier_merge.retrieval.lexical.engines import start_java as start; start()"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: $(INSTALLED)  ## Run all notebooks, and keep their outputs: about an hour without a cache.
	$(BIN)/python notebooks/run_notebooks.py

docs: $(INSTALLED)  ## The site, in site/html/index.html; a warning is an error.
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -c docs . site/html

clean:
	rm -rf $(VENV) runs site *.egg-info .mypy_cache .ruff_cache .pytest_cache

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed; say which with make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
