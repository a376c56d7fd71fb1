# Every target sets up what it needs: a virtual environment in .venv with the pinned versions.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: help .venv .venv-trl .venv-trl-ppo .venv-arena demo test check bench format docs site figures

help:
	@echo "make demo    the whole cycle on the embedded world, then runs/demo/report.html"
	@echo "make test    every test"
	@echo "make check   lint, format, types, and the rules of the repository"
	@echo "make bench   the benchmarks, beside TRL in .venv-trl"
	@echo "make format  put the code in the shape that check wants"
	@echo "make docs    write the pages that are made from the code"
	@echo "make site    the documentation as HTML, docs/_build/index.html"
	@echo "make figures the experiments of the pages in docs/learn, which draw their figures"

.venv: $(STAMP)

# torch comes first and alone, so that a build for this machine (the CPU's) is taken where an index
# offers one; what depends on it is then content with it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/accord demo

# A test process on each core, each with one thread: threads that share cores wait for each other.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py tests/test_vocabulary.py

# The tool that the benchmarks run beside, in an environment of its own.
TRL := .venv-trl/.installed
.venv-trl: $(TRL)

$(TRL): constraints.txt
	test -x .venv-trl/bin/python || $(PYTHON) -m venv .venv-trl
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-trl/bin/python -m pip install --quiet --constraint constraints.txt trl==1.16.0 peft
	touch $(TRL)

# TRL 1.12 was the last to have PPO.
TRL_PPO := .venv-trl-ppo/.installed
.venv-trl-ppo: $(TRL_PPO)

$(TRL_PPO):
	test -x .venv-trl-ppo/bin/python || $(PYTHON) -m venv .venv-trl-ppo
	.venv-trl-ppo/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-trl-ppo/bin/python -m pip install --quiet trl==1.12.0 'transformers<5.20' peft
	touch $(TRL_PPO)

# Other tools that rate models by battles.
ARENA := .venv-arena/.installed
.venv-arena: $(ARENA)

$(ARENA):
	test -x .venv-arena/bin/python || $(PYTHON) -m venv .venv-arena
	.venv-arena/bin/python -m pip install --quiet arena-rank==0.1.1 evalica==0.4.2 pyarrow
	touch $(ARENA)

bench: $(STAMP) $(TRL) $(TRL_PPO) $(ARENA)
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/ratings.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/training.py --work vocabulary --rows 2 --only "DPO, reference online"
	$(BIN)/python benchmarks/training.py --work long-prompts --rows 4 --only "DPO, reference online"
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/online.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	$(BIN)/python -m accord.settings.document > docs/settings.md
	$(BIN)/python -m accord.cli.document > docs/commands.md

# Nothing of it is loaded from a network. A warning is an error.
site: $(STAMP)
	$(BIN)/python -m sphinx -b html -q -E -W --keep-going docs docs/_build
	@echo "Done: docs/_build/index.html"

# Each experiment once, one after the other; the first trains the models that all share.
PAGES := $(notdir $(basename $(wildcard docs/learn/*.md)))
EXPERIMENTS := $(wildcard $(PAGES:%=docs/learn/experiments/%.py))
figures: $(STAMP)
	set -e; for script in $(EXPERIMENTS); do $(BIN)/python $$script; done
