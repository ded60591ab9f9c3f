# Everything runs in .venv, made on first use; a second call installs nothing again.
PYTHON ?= python3
BIN := .venv/bin

# Sources are compiled once and kept: the processes that tests start would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: report test types suite docs bench clean

report: .venv/installed
	$(BIN)/bntheory report --out report

# Types are checked beside the tests: both cores have work from start to end.
test: .venv/installed
	$(BIN)/ruff check .
	$(MAKE) --no-print-directory --jobs=2 types suite

types: .venv/installed
	$(BIN)/mypy

suite: .venv/installed
	$(BIN)/pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder --doctest-modules bntheory simulations paper_figures tests --ignore=tests/benchmarks

docs: .venv/installed
	$(BIN)/mkdocs build --config-file .mkdocs.yml

bench: .venv/installed
	$(BIN)/python tests/benchmarks/table.py --out docs

# pip comes from outside through --python, so that a Python without ensurepip will do.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip --clear .venv
	$(PYTHON) -m pip --python .venv/bin/python install --quiet --constraint constraints.txt --editable '.[train,cluster,dev]'
	touch $@

clean:
	rm -rf .venv report site
