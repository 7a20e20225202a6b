#!/usr/bin/env bash
# Resolves every lock file anew: each version with its hashes, for every platform and Python, and no index.
set -euo pipefail
lock() { # NAME [OPTION ...]
  .mlflow/venv/bin/uv pip compile --system-certs --quiet --upgrade --universal --generate-hashes --python-version 3.10 \
    --no-header --no-annotate "${@:2}" "$1.in" -o "$1.lock"
}
lock scripts/uv
lock scripts/requirements
lock scripts/local_platform/mlflow
lock bench/mlflow-3.1.4
lock dev/requirements -c scripts/requirements.lock
lock dev/flavours --no-deps # the environment of the jobs has the rest
