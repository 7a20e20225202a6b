#!/usr/bin/env bash
# Makes the environment of the older MLflow, then measures; with QUICK=yes less, and without writing to the repository.
# PART=models measures only how models are served, and prints that.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # the older MLflow would compile what it imports at every start
bash scripts/bootstrap.sh --venv venv-mlflow-3.1.4 bench/mlflow-3.1.4.lock
quick=()
[ "${QUICK:-}" = yes ] && quick=(--quick)
exec .mlflow/venv-mlflow/bin/python bench/run.py "${quick[@]+"${quick[@]}"}" --part "${PART:-}"
