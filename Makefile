# Every target sets up its own environment; the first run takes the longest.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test bench check format install lock clean

demo: install  ## Export, build, fill holes in photos, measure; everything lands in demo/
	$(BIN)/pconv-deploy demo --output demo

test: install  ## Run the test suite
	$(BIN)/python -m pytest -q -n 2

bench: install  ## Time every runtime this machine has beside PyTorch: bench/results.md
	$(BIN)/python -m pconv_deploy.demo.benchmark --output bench

check: install  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: .venv/installed  ## The virtual environment alone

.venv/installed: pyproject.toml requirements.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else f"pconv-deploy needs Python 3.11 or later, {sys.executable} is {v[0]}.{v[1]}: run make with PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: install  ## Write the versions now installed into requirements.txt
	{ sed -n '/^#/p' requirements.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed "s,+cpu,,"; } > requirements.new
	mv requirements.new requirements.txt

clean:
	rm -rf .venv demo bench build dist *.egg-info
