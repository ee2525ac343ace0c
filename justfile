# The recipes of ./justw. `./justw` alone lists them.

set positional-arguments

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

_list:
    @just --justfile "{{justfile()}}" --list --unsorted

# poll this host, run the pipeline over it, store the result and show it
[no-cd]
run *args:
    @exec nephoscope run "$@"

# any other command: ./justw nephoscope check my.yaml
[no-cd]
nephoscope *args:
    @exec nephoscope "$@"

# stages: correctness, topology, environment
[no-cd]
check *args:
    @exec nephoscope check "$@"

# all tests, or those named: ./justw test tests/flows -k delta
test *args: _dev
    python -m pytest -n 2 --dist worksteal "$@"

# the tests that take no more than a moment each
quick *args: _dev
    python -m pytest -q -m "not slow" "$@"

# ruff, the formatter's opinion, mypy
lint: _dev
    ruff check .
    ruff format --check .
    mypy

# format the code, mend what can be mended
fmt: _dev
    ruff format .
    ruff check --fix-only --exit-zero .

# measure: flow, store, … ; one JSON line a case
bench *args: _dev
    python -m bench "$@"

# regenerate locks/ from pyproject.toml; newer versions of all: ./justw lock --upgrade
lock *args: _dev
    #!/bin/sh
    set -eu
    for version in 3.11 3.12; do
        options="--quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version $version"
        uv pip compile $options "$@" --group build pyproject.toml -o "locks/py$version.txt"
        uv pip compile $options "$@" --group build --group dev -c "locks/py$version.txt" pyproject.toml -o "locks/py$version-dev.txt"
    done
    grep -c == locks/*.txt

# where to read on
docs:
    @echo "README.md         what it is, how to start"
    @echo "ARCHITECTURE.md   the rooms, the path of a sample, where to add what"
    @echo "docs/semantics.md what a pipeline computes, row by row"
    @echo "docs/decisions/   why it is as it is"
    @echo "conf/             every setting, commented"

# remove the environment and caches (var/ holds your data: it stays)
clean:
    rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

_dev:
    @sh ./justw --setup dev
