# make demo · make test: each target does the set-up it needs; the second run is quick.
#
# PIP_ARGS is passed to every pip call. If the package index has only CUDA builds of torch, get the small CPU build with
#   make demo PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip --disable-pip-version-check --quiet
PACKAGES := glm4v_core langchain_glm4v llamaindex_glm4v
LABELS := invoice,receipt,letter,memo,form

export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-vllm lint types tests hosts matrix extras tiny notebooks format lock clean

help:
	@echo "make demo       read the sample pages; write the text, summary and label of each to demo-out/"
	@echo "make test       lint, type checks, tests with coverage, also on the oldest and newest hosts supported (in CI)"
	@echo "make test-vllm  run the engine suite on vLLM's CPU build, in .venv-vllm (in CI)"
	@echo "make extras     install and use each extra alone, and resolve which fit together (in CI)"
	@echo "make matrix     run the tests of engines and hosts on older releases, down to the oldest supported"
	@echo "make tiny       retrain, export and score the bundled checkpoint: about two hours on two cores"
	@echo "make notebooks  run the notebooks and save their output"
	@echo "make format     sort imports and format the code"
	@echo "make lock       pin the newest versions that pyproject.toml allows"
	@echo "make clean      remove the virtual environments and everything that was generated"

# Exit status 1 means that some pages failed: one sample is broken on purpose.
demo: $(VENV)/demo.stamp
	$(RUN)/glm4v run samples --labels $(LABELS) --out demo-out --overwrite || test $$? -eq 1

test: lint types tests hosts

lint: $(VENV)/dev.stamp
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/lint-imports
	$(RUN)/deptry --no-ansi .

types: $(VENV)/dev.stamp
	$(RUN)/mypy

tests: $(VENV)/dev.stamp
	$(RUN)/pytest $(PACKAGES:%=--cov=%) --cov-branch --cov-report=term --cov-fail-under=95

# Run the tests (2) with other releases (1) placed before the pinned ones on the path. They are installed without their
# dependencies, which would override the pins.
define beside
	@echo "== $(1)"
	@place=$(CURDIR)/$(VENV)/beside/$(firstword $(1)); \
		test -d $$place || $(PIP) install $(PIP_ARGS) --no-compile --no-deps --target $$place $(1) \
			|| { rm -rf $$place; exit 1; }; \
		PYTHONPATH=$$place $(RUN)/pytest --quiet $(2)
endef

# Only the tests use langchain; its newest release requires a newer langchain-core than the oldest supported here. The
# pinned releases are the newest, except langchain-core: 1.8.4 requires a langchain-protocol that the index lacks.
LANGCHAIN_TESTS := tests/langchain -k "not Tiny and not Enforced"
LLAMAINDEX_TESTS := tests/llamaindex -k "not tiny and not real_model"
hosts: $(VENV)/dev.stamp
	$(call beside,langchain-core==1.7.0 langchain==1.4.7,$(LANGCHAIN_TESTS))
	$(call beside,langchain-core==1.8.4,$(LANGCHAIN_TESTS))
	$(call beside,llama-index-core==0.14.23 llama-index-workflows==2.14.0 llama-index-instrumentation==0.1.0,$(LLAMAINDEX_TESTS))

# transformers before 5.24: the oldest, one in the middle, and the newest that vLLM 0.32 accepts.
matrix: hosts
	$(call beside,transformers==5.13.0 tokenizers==0.22.2 huggingface_hub==1.33.0,tests/core/engines)
	$(call beside,transformers==5.17.0 huggingface_hub==1.33.0,tests/core/engines)
	$(call beside,transformers==5.19.0,tests/core/engines)

# Try each extra in an environment of its own, and check which of them fit together.
extras: $(VENV)/dev.stamp
	$(RUN)/python scripts/try_extras.py
	$(RUN)/python scripts/try_extras.py --resolve

# vLLM pins other versions than we do, so its tests have an environment of their own. The pins are complete, and are
# installed with --no-deps: vLLM's CPU build requires torchaudio and torchcodec, which are incompatible with its torch.
VLLM := .venv-vllm
VLLM_ENVIRONMENT := tests/support/vllm_environment
VLLM_TESTS := $(addprefix tests/core/engines/,test_engines.py test_thinker.py vllm/test_engine.py vllm/test_legacy.py vllm/test_options.py)
VLLM_CODE := glm4v_core.engines.vllm.engine glm4v_core.engines.vllm.loading
test-vllm: $(VLLM)/vllm.stamp
	VLLM_WORKER_MULTIPROC_METHOD=spawn VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1 \
		$(VLLM)/bin/pytest -W default -o faulthandler_timeout=600 $(VLLM_TESTS) \
		$(VLLM_CODE:%=--cov=%) --cov-config=$(VLLM_ENVIRONMENT)/coverage.ini --cov-report=term --cov-fail-under=85

$(VLLM)/vllm.stamp: requirements/vllm.txt pyproject.toml $(wildcard $(VLLM_ENVIRONMENT)/*.py)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip --disable-pip-version-check --quiet install $(PIP_ARGS) --no-compile --no-deps --requirement $<
	$(VLLM)/bin/python -m pip --disable-pip-version-check --quiet install $(PIP_ARGS) --no-deps --editable .
	place=$$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))") && \
		cp $(VLLM_ENVIRONMENT)/torchvision_schemas.py $$place && echo "import torchvision_schemas" > $$place/torchvision_schemas.pth
	@touch $@

# The pages are always the same; the scores go into the model card. To try the chain in minutes, in another folder:
#   make tiny TINY=out/tiny MINUTES=2 PAGES=4
TINY := glm4v_core/tiny/checkpoint
MINUTES := 110
PAGES := 500
EVAL := $(RUN)/glm4v eval --model $(TINY) --overwrite
tiny: $(VENV)/dev.stamp
	$(RUN)/python scripts/train_tiny.py --minutes $(MINUTES)
	$(RUN)/python scripts/train_tiny.py --export $(TINY)
	$(RUN)/python scripts/make_pages.py out/documents --count $(PAGES)
	$(RUN)/python scripts/make_pages.py out/documents-zh --count $(PAGES) --language zh --seed 950000
	$(RUN)/python scripts/make_pages.py out/noise --count 100 --noise
	$(EVAL) out/documents --out out/scores/documents
	$(EVAL) out/documents-zh --language zh --out out/scores/documents-zh
	$(EVAL) out/noise --out out/scores/noise
	$(RUN)/python scripts/train_tiny.py --export $(TINY) --scores out/scores/*/evaluation.json

# Run the notebooks and save their output. The tests run them too, but leave the files unchanged.
notebooks: $(VENV)/dev.stamp
	$(RUN)/python scripts/run_notebooks.py

format: $(VENV)/dev.stamp
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

$(RUN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp per set of requirements; dev contains everything that demo contains.
$(VENV)/%.stamp: requirements/%.txt pyproject.toml | $(RUN)/python
	$(PIP) install $(PIP_ARGS) --no-compile --requirement $<
	$(PIP) install $(PIP_ARGS) --no-deps --editable .
	@touch $@

# torch stays at 2.13.0: the index has no CPU-only builds of later releases.
lock:
	for extra in demo dev; do \
		$(PYTHON) -m venv --clear .venv-lock && \
		.venv-lock/bin/python -m pip install --quiet $(PIP_ARGS) torch==2.13.0 ".[$$extra]" && \
		.venv-lock/bin/python -m pip freeze --exclude glm4v | sed 's/+cpu$$//' > requirements/$$extra.txt || exit 1; \
	done
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) .venv-lock $(VLLM) demo-out out dist build .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis
