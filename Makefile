# Two commands: `make demo` runs the main job, `make test` the tests. Both set everything up first.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Processes share the tests, file by file (tests/conftest.py says how many processes, and which file comes first).
SHARED := -n auto --dist loadfile --no-loadscope-reorder
# Two fifths of the default training, for six minutes on two cores; `make demo DEMO=` trains in full.
DEMO ?= --set view_fit.images=44000 --set joint_fit.images=80000

.PHONY: demo test check notebooks format docs lock clean

demo: .venv
	$(BIN)/kintsugi run partial_views $(DEMO) --json

test: .venv
	$(PYTEST) $(SHARED)

check: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(PYTEST) $(SHARED) -m "not slow and not ray"

# Executes the notebooks from their sources, in a store of their own, and writes what they showed.
notebooks: .venv
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py
	store=$$(mktemp -d) && KINTSUGI_STORE=$$store $(BIN)/python -m pytest -o addopts= -p no:cacheprovider -q \
		--nbmake --overwrite --nbmake-timeout=900 notebooks/*.ipynb; code=$$?; rm -rf $$store; exit $$code

format: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, into site/: no warning, no broken link; `python -m http.server -d site` shows it.
docs: .venv
	$(BIN)/python -m sphinx -W --keep-going -q -j auto docs site

# A folder, not a file: made anew when what it is made from changes.
.venv: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@touch -t 200001010000 .venv  # not made yet: if what follows fails, the next make begins here
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,notebooks,test]"
	@touch .venv

# What CI and the demo were tested with. `==2.13.0` is met by the CPU build as well as by the CUDA one.
lock: .venv
	$(BIN)/python -m pip freeze --exclude-editable | grep -v '^\(pip\|setuptools\)==' | sed 's/+cpu$$//' | sort -f > constraints.txt

clean:
	rm -rf .venv build dist site docs/api docs/more docs/pictures *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
