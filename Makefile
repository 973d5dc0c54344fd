PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
# the tests start hundreds of processes, and one that has to compile torch and timm first takes seven seconds more
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo console demo-stack test field-long faults check format reference benchmark memory validate servers up down clean

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Flowgauge needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python .venv --constraints constraints.txt --editable '.[stream,console,notify,archive,baselines,openvino,search,backbones,test,check]'
	@touch $@

demo: $(STAMP)  ## the whole story on a procedural line, with a report at demo/report.html
	$(BIN)/flowgauge demo --out demo

console: $(STAMP)  ## the demo's line in a browser
	$(BIN)/flowgauge console --store demo/store

demo-stack: $(STAMP)  ## the same on Kafka, Redis and MinIO, which it starts: two lines, four workers, a report for each line
	@$(PYTHON) -m deploy.native.plant up
	set -a && . .native/env && set +a && $(BIN)/flowgauge demo --stack --out demo-stack

# Three processes on two cores, for tests also wait for servers. Long files first, in this order: short ones fill up
# what is left of the processes at the end.
test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/integration tests/field tests/contract tests/unit

field-long: $(STAMP)  ## cases from the field at full length: 10,000 examples of each property, 500 malformed events among 5,000
	FLOWGAUGE_FIELD_LONG=1 $(BIN)/python -m pytest -n 2 --dist loadscope tests/field/test_time.py tests/field/test_identity.py tests/field/test_images.py tests/field/test_poison.py

faults: $(STAMP)  ## every fault on real servers, at full length, with three seeds: a table, and faults.json
	$(BIN)/python -m pytest tests/integration/test_faults.py --long --outcomes faults.json

check: $(STAMP)  ## ruff, mypy --strict, import-linter; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(STAMP)  ## write the pages of docs/reference that are made from the code
	$(BIN)/python -m tests.support.reference

benchmark: $(STAMP)  ## speed, as ratios measured side by side
	$(BIN)/python -m pytest tests/benchmarks --benchmarks -s --deselect tests/benchmarks/test_memory.py

memory: $(STAMP)  ## whether a worker's memory stays flat over 20,000 images
	$(BIN)/python -m pytest tests/benchmarks/test_memory.py --benchmarks -s

validate: $(STAMP)  ## the deployment files, by the tools that read them (installs those once, which takes Go and minutes)
	PYTHON=$(BIN)/python deploy/validate.sh

servers:  ## install Kafka, Redis, MinIO and versitygw once, without containers
	deploy/native/install.sh

up:  ## start Kafka, Redis and MinIO without containers, and write their addresses to .native/env
	@$(PYTHON) -m deploy.native.plant up

down:  ## end what `up` started; the data stays
	@$(PYTHON) -m deploy.native.plant down

clean:  ## remove the virtual environment and all caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
