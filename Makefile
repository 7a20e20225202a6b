# This repository's own targets. Those for using the server are in scripts/mlflow.mk.

.DEFAULT_GOAL := help
include scripts/mlflow.mk

help: ; @$(MLFLOW_RUN) help Makefile
test: dev ; @.mlflow/venv-dev/bin/python -m pytest ## Run every test
test-quick: dev ; @.mlflow/venv-dev/bin/python -m pytest -m 'not e2e' ## Run the tests that start no server
lint: dev ; @bash dev/lint.sh ## Check style, types, shell scripts and generated text
docs: dev ; @.mlflow/venv-dev/bin/python dev/docs.py ## Write the generated text: scripts/serve.py in action.yaml
lock: dev ; @bash dev/lock.sh ## Resolve the lock files anew from their .in files
dev: ; @bash dev/setup.sh

.PHONY: help test test-quick lint docs lock dev
