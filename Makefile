# make demo: install, run the quickstart, print the table, write the leaderboard.   make test: install, lint, types, tests.
# make gpu: on a machine with a GPU, everything to be measured in the first ten minutes, into gpu/ (GPU=FOLDER for another).
# make docs: the site of README and docs into site/ (mkdocs-material, the extra docs).
# make boards: leaderboards, plots and pages of results/ and the tables of README and docs, from the committed runs.
PYTHON ?= python3
VENV ?= .venv
GPU ?= gpu
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint style types tests boards docs gpu clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo:
	@echo 'make demo: installs into $(VENV) if it is not there (fetches up to 3 GB, some minutes), then 1 to 2 minutes on one quiet core'
	@$(MAKE) --no-print-directory $(STAMP)
	$(BIN)/bench run --threads 1
	$(BIN)/bench report runs

boards: $(STAMP)
	$(BIN)/bench report results/leaderboard --published results/published.yaml
	$(BIN)/bench report results/leaderboard --readme docs/leaderboard.md
	$(BIN)/bench report results/leaderboard --readme README.md --rows results/front.yaml
	$(BIN)/bench report results/students
	$(BIN)/bench report results/students --readme docs/students.md
	$(BIN)/bench report results/lockstep
	$(BIN)/bench report results/lockstep --readme docs/lockstep.md
	$(BIN)/bench report results/decoders
	$(BIN)/bench report results/decoders --readme docs/decoders.md
	$(BIN)/bench report results/batches
	$(BIN)/bench report results/batches --readme docs/batches.md
	$(BIN)/bench speed --report -o results/speed
	$(BIN)/bench train grpo-curves results/grpo/* --picture docs/grpo.png --page docs/grpo.md

$(VENV)/.docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $(VENV)/.docs

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gpu: $(STAMP)
	$(BIN)/python -m tests.tools.gpu $(GPU)

lint: style types

style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache pyproject.toml

types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

# worksteal: neighbours stay with one worker, which builds what they share once.
tests: $(STAMP)
	$(BIN)/pytest -n 2 --dist worksteal

test: style
	$(MAKE) --no-print-directory -j 2 types tests

clean:
	rm -rf $(VENV) runs site
