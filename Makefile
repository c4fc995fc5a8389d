# `make demo` and `make test` set up everything they need in .venv; nothing but Python >= 3.11 is expected.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-failures test test-versions lint bench-smoke kernels clean

demo: $(VENV)/.installed
	$(BIN)/lrp-hooks demo

# Ten benchmark prompts end to end: answers, the tokens at which they failed, attribution, validation, report
FAILURES := demo/failures
demo-failures: $(VENV)/.installed
	$(BIN)/lrp-hooks cases run demo --instruction punctuation:no_comma --limit 10 -o $(FAILURES)/answers.jsonl
	$(BIN)/lrp-hooks cases find demo $(FAILURES)/answers.jsonl --alternatives 6 --budget 1500 \
		-o $(FAILURES)/found.jsonl --cases $(FAILURES)/cases.jsonl
	$(BIN)/lrp-hooks sweep $(FAILURES)/cases.jsonl --model demo --most 8 --draws 2 -o $(FAILURES)/sweep

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q

# The core tests with the oldest and the newest transformers; `tests/versions.sh VERSION ...` runs others.
test-versions: $(VENV)/.installed
	tests/versions.sh

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-smoke: $(VENV)/.installed
	$(BIN)/python -m benchmarks --smoke

# Compiles every Triton kernel for the GPUs it is meant for (none is needed): benchmarks/results/kernels.json, docs/kernels.md
kernels: $(VENV)/.installed
	$(BIN)/python -m benchmarks.kernels

# The stamp is written last: an interrupted installation is simply done again.
$(VENV)/.installed: pyproject.toml constraints-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "lrp_hooks needs Python >= 3.11, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints-cpu.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo
