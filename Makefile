# costguard: `make demo` shows the whole loop on this machine, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# pip takes its index from PIP_INDEX_URL, as always. TORCH_INDEX_URL, if set, is asked for torch
# alone: PyTorch's own CPU index has a build of about 190 MB for every platform.
TORCH := torch==2.13.0
# How many tests run side by side: as many as there are cores, `make test WORKERS=1` one by one.
WORKERS ?= auto
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 4

# Those that LLaMA-Factory 0.9.5 was seen to run with on a CPU; its own pins ask for a torch of
# CUDA's and packages for audio and pictures, so it is installed without them.
LLAMAFACTORY := $(VENV)-llamafactory
LLAMAFACTORY_NEEDS := transformers==5.6.0 accelerate==1.11.0 peft==0.18.1 trl==0.24.0 \
  datasets==4.0.0 bitsandbytes einops fire omegaconf "tyro<0.9" sentencepiece tiktoken scipy \
  matplotlib pandas protobuf pydantic pyyaml safetensors av==16.0.0 torchdata==0.11.0 \
  hf-transfer modelscope

.PHONY: demo test test-full test-llamafactory check bench locale clean help

help:
	@echo "make demo       the whole loop on this machine: rent, train, bill, stop, prove it"
	@echo "make test       the tests;  make check: types and lint;  make bench: what was measured"
	@echo "make test-llamafactory  installs the real one (CPU) and runs a job of it to pause and resume"
	@echo "make locale     what the code says into the catalogues of costguard and trainer, and compiled"
	@echo "make test-full  the long counts;  make clean: remove $(VENV) and what the demo left"

demo: $(VENV)/.trainer
	@$(BIN)/costguard demo $(DEMO)

test: $(VENV)/.dev
	$(PYTEST) $(TESTS)

test-full: $(VENV)/.dev
	COSTGUARD_TEST_FULL=1 $(PYTEST) $(TESTS)

test-llamafactory: $(VENV)/.dev $(LLAMAFACTORY)/.made
	COSTGUARD_LLAMAFACTORY_PYTHON=$(abspath $(LLAMAFACTORY))/bin/python \
	  $(BIN)/python -m pytest -q tests/e2e/test_llamafactory.py

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

locale: $(VENV)/.dev
	$(BIN)/python -m tests.catalogues $(JSON)

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "costguard needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	  echo "Name a newer one: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: install its venv package"; \
	  echo "(Debian and Ubuntu: apt install python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.torch: | $(VENV)/.made
	@echo "This installs into $(VENV) from your package index and changes nothing else:"
	@echo "  torch           about 190 MB where pip finds the CPU build (1.3 GB on disk in all);"
	@echo "                  about 3 GB where it takes the CUDA build, as on most Linux machines."
	@echo "                  Set TORCH_INDEX_URL to PyTorch's CPU index for the small one."
	@echo "  everything else about 110 MB: transformers, peft, bitsandbytes, accelerate, ..."
	@echo "Nothing else is downloaded: model, data and GPU platform are made on this machine."
	$(BIN)/python -m pip install -q $(TORCH) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	@touch $@

$(VENV)/.trainer: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install -q -e '.[trainer]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install -q -e '.[trainer,dev]'
	@touch $@ $(VENV)/.trainer

# It imports torchaudio and calls nothing of it; a CPU build is not had everywhere, an empty one is.
$(LLAMAFACTORY)/.made:
	$(PYTHON) -m venv $(LLAMAFACTORY)
	$(LLAMAFACTORY)/bin/python -m pip install -q $(TORCH) \
	  $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL))
	$(LLAMAFACTORY)/bin/python -m pip install -q $(LLAMAFACTORY_NEEDS)
	$(LLAMAFACTORY)/bin/python -m pip install -q --no-deps llamafactory==0.9.5
	@site=$$($(LLAMAFACTORY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  test -e $$site/torchaudio || touch $$site/torchaudio.py
	@touch $@

clean:
	rm -rf $(VENV) $(LLAMAFACTORY) costguard-demo
