#!/usr/bin/env bash
# Makes the virtual environments that tests and checks need, each once.
set -euo pipefail
bash scripts/bootstrap.sh --venv venv scripts/requirements.lock
bash scripts/bootstrap.sh --venv venv-mlflow scripts/local_platform/mlflow.lock
bash scripts/bootstrap.sh --venv venv-dev dev/requirements.lock
