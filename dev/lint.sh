#!/usr/bin/env bash
# Runs every check that starts nothing, and fails at the end if one did, so that all findings show at once.
set -uo pipefail
bin=.mlflow/venv-dev/bin
failed=0
check() { "$@" || failed=1; }

check "$bin/ruff" check --quiet scripts tests dev bench
check "$bin/ruff" format --check --quiet scripts tests dev bench
check "$bin/mypy" scripts tests dev bench
check "$bin/shellcheck" scripts/*.sh dev/*.sh .ci/run
check "$bin/python" dev/docs.py --check
[ $failed -eq 0 ] && echo "lint: no finding"
exit $failed
