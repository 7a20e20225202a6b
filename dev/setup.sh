#!/usr/bin/env bash
# Makes what tests and checks need, each once: the programs that the tests use, and the virtual environments.
# With `environments` only these, which all but the tests that start servers are content with.
set -euo pipefail
bash scripts/bootstrap.sh --venv venv scripts/requirements.lock
[ "${1:-}" = environments ] || .mlflow/venv/bin/python dev/programs.py
bash scripts/bootstrap.sh --venv venv-mlflow scripts/local_platform/mlflow.lock
bash scripts/bootstrap.sh --venv venv-dev dev/requirements.lock
