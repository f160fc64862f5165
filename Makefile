# Everything starts here: 'sudo make demo' and 'sudo make test' set up what they need.
# Without root, 'make test' runs all that needs no network namespaces.

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench fuzz clean

help:            ## what can be made
	@sed -n 's/^\([a-z]*\): .*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

install:         ## set up: Debian packages (as root), .venv, Python packages
	@scripts/prepare $(firstword $(MAKECMDGOALS))

demo: install    ## a cloud, a relay and ten nodes on this machine: every pair talks (root)
	@$(BIN)/cyphonic lab demo

test: install    ## everything that must hold: lint, types, all tests (root: namespaces too)
	@scripts/run-tests

lint: install    ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: install   ## measure; the figures go to build/bench/*.json too (root for the data path)
	@$(BIN)/python -m tests.bench

fuzz: install    ## a million mutated inputs and more, to every decoder and machine; none may crash one
	@$(BIN)/python -m tests.fuzz

clean:           ## remove what was built here
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
