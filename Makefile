# This repository's own targets. Those for using the server are in scripts/mlflow.mk.

.DEFAULT_GOAL := help
include scripts/mlflow.mk

help: ; @$(MLFLOW_RUN) help Makefile
test: dev ; @.mlflow/venv-dev/bin/python -m pytest -n 4 --reruns 1 -raR ## Run every test
test-faults: dev ; @.mlflow/venv-dev/bin/python -m pytest tests/faults --full --timeout 3600 --dist loadgroup ## Try every fault often, and print a table
test-quick: environments ; @.mlflow/venv-dev/bin/python -m pytest -m 'not e2e' ## Run the tests that start no server
lint: environments ; @bash dev/lint.sh ## Check style, types, shell scripts and generated text
docs: environments ; @.mlflow/venv-dev/bin/python dev/docs.py ## Write the generated text: the server's program in action.yaml
bench: dev ; @bash dev/bench.sh ## Measure the server beside plain MLflow, for half an hour; QUICK=yes: 4 minutes; PART=models: only how models are served
lock: environments ; @bash dev/lock.sh ## Resolve the lock files anew from their .in files
dev: ; @bash dev/setup.sh
environments: ; @bash dev/setup.sh environments

.PHONY: help test test-faults test-quick lint docs bench lock dev environments
