# Every target sets up its own environment; the first run takes the longest.
PYTHON ?= python3
BIN := .venv/bin
GPU := .venv-gpu

RECENT = $(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v >= (3, 11) else f"pconv-deploy needs Python 3.11 or later, {sys.executable} is {v[0]}.{v[1]}: run make with PYTHON=/path/to/python3.11")'

.PHONY: demo test bench gpu-report check format install lock clean

demo: install  ## Export, build, fill holes in photos, measure; everything lands in demo/
	$(BIN)/pconv-deploy demo --output demo

test: install  ## Run the test suite
	$(BIN)/python -m pytest -q -n 2

bench: install  ## Time every runtime this machine has beside PyTorch: bench/results.md
	$(BIN)/python -m pconv_deploy.benchmark.suite --output bench

gpu-report: $(GPU)/installed  ## Time everything there is on this machine's NVIDIA GPU: gpu-report/NAME.md
	$(GPU)/bin/python -m pconv_deploy.benchmark.gpu.report --output gpu-report $(OPTIONS)

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
	@$(RECENT)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# ONNX Runtime for GPUs takes the place of the one for CPUs. Its TensorRT provider is made for
# TensorRT 10, which we build engines with as well.
$(GPU)/installed: pyproject.toml requirements.txt
	@$(RECENT)
	@$(PYTHON) -c 'import ctypes, sys; cuda = ctypes.CDLL("libcuda.so.1"); takes = ctypes.c_int(); cuda.cuDriverGetVersion(ctypes.byref(takes)); sys.exit(bool(cuda.cuInit(0)) or takes.value < 13000)' 2>/dev/null || { echo "make gpu-report needs an NVIDIA GPU with a driver for CUDA 13: found none. Nothing was installed" >&2; exit 1; }
	$(PYTHON) -m venv $(GPU)
	sed -e '/^tensorrt_/d' -e 's/^onnxruntime==/onnxruntime-gpu==/' requirements.txt > $(GPU)/requirements.txt
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check -r $(GPU)/requirements.txt
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check 'onnxruntime-gpu[cuda,cudnn]' 'tensorrt-cu13==10.*'
	$(GPU)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

lock: install  ## Write the versions now installed into requirements.txt
	{ sed -n '/^#/p' requirements.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed "s,+cpu,,"; } > requirements.new
	mv requirements.new requirements.txt

clean:
	rm -rf .venv $(GPU) demo bench gpu-report build dist *.egg-info
