# `make help` lists the targets. Every target sets up what it needs first.
PYTHON ?= python3
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# What keeps one core busy and shares nothing: two at a time. The rest starts servers and watches the clock: alone.
SIDE_BY_SIDE := tests/integration/test_simulator_thousand.py tests/defects tests/e2e/test_adding_a_task.py tests/unit

.PHONY: help setup system demo demo-workloads up dashboards-check test test-long test-faults lint bench loadtest clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-17s %s\n", $$1, $$2}'

setup: ## .venv with the lockstep command, and the embedded Triton
	@$(PYTHON) tools/setup.py

system: ## Debian packages the tests like to have (LOCKSTEP_APT=0 forbids)
	@sh tools/system-packages.sh

demo: setup ## two real models converted, certified and served; a real photo answered; all paths printed
	@$(PY) -m tools.demo

demo-workloads: setup ## a served example of every workload on real input; a page in output/workloads/
	@$(PY) -m tools.workloads

up: setup system ## the whole distributed system on this machine, with two live sample sources, until Ctrl-C
	@exec .venv/bin/lockstep up

dashboards-check: setup ## every query of dashboards and alerts, asked of a running `make up`
	@$(PY) -m tools.dashboards_check

lint: setup ## style, types, layers
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

test: setup system lint ## sets up everything the tests need and runs them, but long and faults
	@$(PYTEST) -m "not long and not faults" -n 2 --dist loadfile --no-loadscope-reorder $(SIDE_BY_SIDE); first=$$?; \
	$(PYTEST) -m "not long and not faults" $(SIDE_BY_SIDE:%=--ignore=%) && exit $$first

test-long: setup system ## conversion matrix and long properties
	@$(PYTEST) -m long

test-faults: setup system ## kills and stalls of real processes; the table goes to docs/measurements/
	@FAULT_REPORT=docs/measurements FAIL_WITHOUT=kafka,redis,triton $(PYTEST) -m faults

bench: setup system ## the REST benchmark, written once under docs/measurements/ (make demo first)
	@.venv/bin/lockstep tune mobilenet_v2
	@.venv/bin/lockstep tune person_ssdlite
	@.venv/bin/lockstep bench rest

loadtest: setup ## short open-loop load test of a system it starts itself; one HTML report in output/loadtest/
	@test -d model_repository/mobilenet_v2 || .venv/bin/lockstep convert models/mobilenet_v2.yaml
	@.venv/bin/lockstep bench load mobilenet_v2 --seconds 6

clean: ## remove what was made, keep what was fetched
	@rm -rf output build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find model_repository -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
