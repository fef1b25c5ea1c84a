PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: help quickstart peers test slow lint benchmark autotune products clean

help:
	@echo "make quickstart   install into .venv and compare all solvers on small real problems (about a minute)"
	@echo "make peers        install the other libraries beside, for ihvp-bench run peers"
	@echo "make test         the tests; make slow adds the long ones"
	@echo "make lint         ruff and mypy"
	@echo "make benchmark    the pytest-benchmark suite; results are kept in .benchmarks for --benchmark-compare"
	@echo "make autotune     self-tuned LiSSA against the best settings of a grid search (a quarter of an hour)"
	@echo "make products     curvature products against a gradient, with a report (some minutes)"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(INSTALLED)
	$(BIN)/ihvp-bench run quickstart

# All that they need is listed: what they ask for themselves would bring another numpy, and a torchvision for
# another torch, of which they use nothing.
peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps --requirement solvers/peers/requirements.txt

# A file's tests share what they solved, so files go to the cores whole, in the order of tests/conftest.py.
TEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --benchmark-disable

test: $(INSTALLED)
	$(TEST)

slow: $(INSTALLED)
	$(TEST) -m "slow or not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

benchmark: $(INSTALLED)
	$(BIN)/python -m pytest bench/suite --benchmark-autosave

autotune: $(INSTALLED)
	$(BIN)/python -m pytest bench/suite/bench_autotune.py -m slow --benchmark-autosave

products: $(INSTALLED)
	mkdir -p results
	$(BIN)/python -m pytest bench/suite/bench_products.py --benchmark-json results/products.json
	$(BIN)/ihvp-bench report results/products.json

clean:
	rm -rf .venv results .benchmarks build *.egg-info
