#!/usr/bin/env bash
# Makes the toolkit's virtual environments from their lock files, then runs its scripts in them.
#
#   bootstrap.sh SCRIPT [ARG ...]   runs SCRIPT.py, which lies beside this file, in .mlflow/venv
#   bootstrap.sh --venv NAME LOCK   makes .mlflow/NAME from the lock file LOCK, and runs nothing
#
# An environment is made once, and again when its lock file or its place changes, or a package of it is gone. Its
# stamp is written last, so one that was interrupted is made anew by the next call. No step needs root.
set -euo pipefail

here=$(dirname "${BASH_SOURCE[0]}")

trap '' PIPE # a reader of our words that goes away, as `| head` does, ends nothing that has begun
say() { printf 'mlflow: %s\n' "$*" >&2 || :; }

# One line for ^C, by the outermost call. Where it is ignored, as in the background jobs of scripts, it stays so.
trap '[ "${MLFLOW_SETUP_LOCK:-}" ] || say "interrupted; run the same again"; exit 130' INT

# The stamp says what the environment was made from, and where: a virtual environment cannot be moved.
stamp_of() { (cd ".mlflow/$1" && pwd -P) && cat "$2"; }
is_made() {
  [ -x ".mlflow/$1/bin/python" ] && stamp_of "$@" 2>/dev/null | cmp -s - ".mlflow/$1/stamp" && has_its_packages "$1"
}

has_its_packages() { # NAME: each in the version of the lock file; somebody may have installed another one since
  local package
  [ -f ".mlflow/$1/packages" ] || return 0
  while read -r package; do
    [ -d ".mlflow/$1/$package" ] || return 1
  done <".mlflow/$1/packages"
}

find_python() { # prints the first Python that is new enough; pyenv and friends put commands on PATH that do not run
  local name
  for name in python3 python3.13 python3.12 python3.11 python3.10; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
      command -v "$name"
      return
    fi
  done
  return 1
}

check_tools() { # sets $python; names everything that is missing at once
  local missing=()
  if ! python=$(find_python); then
    missing+=("Python 3.10 or newer (found: $(python3 --version 2>&1 || true)); get it from python.org or your package manager")
  elif ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    missing+=("the venv module of $python; on Debian and Ubuntu: apt install python3-venv")
  fi
  [[ $(make --version 2>/dev/null) == *"GNU Make"* ]] || missing+=("GNU make 3.81 or newer; get it from your package manager")
  git --version >/dev/null 2>&1 || missing+=("git; get it from git-scm.com or your package manager")
  [ ${#missing[@]} -eq 0 ] && return
  for tool in "${missing[@]}"; do say "missing: $tool"; done
  exit 1
}

run_module() { # PYTHON MODULE [ARG ...]: as python -m does, but without a traceback for ^C
  "$1" -c '
import runpy, sys
try:
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except KeyboardInterrupt:
    sys.exit(130)
' "${@:2}"
}

count() { # NAME LOCK: on a terminal one changing line, of packages that uv has unpacked, then of those installed
  [ -t 2 ] && [ -z "${NO_COLOR+x}${CI+x}" ] || return 0
  local cache="${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/uv}/archive-v0"
  local all before there made columns line started=$SECONDS
  folders() { find "$@" 2>/dev/null | wc -l 2>/dev/null || :; } # nobody reads it when the count is stopped
  all=$(grep -c '^[a-z0-9][^ ]*==' "$2")
  before=$(folders "$cache" -maxdepth 1)
  while kill -0 $$ 2>/dev/null; do
    there=$(($(folders "$cache" -maxdepth 1) - before))
    made=$(folders ".mlflow/$1" -maxdepth 4 -name '*.dist-info')
    there=$((there > made ? there : made))
    columns=$(stty size <&2 2>/dev/null) || columns='0 80'
    line="mlflow: setting up .mlflow/$1: $((there < all ? there : all)) of $all packages ($((SECONDS - started)) s)"
    printf '\r\033[K%s' "${line:0:$((${columns#* } - 1))}" >&2
    sleep 0.3
  done
}
stop_count() {
  kill "$counter" 2>/dev/null || return 0
  wait "$counter" 2>/dev/null || :
  [ ! -t 2 ] || [ "${NO_COLOR+x}${CI+x}" ] || printf '\r\033[K' >&2 || :
}

install() { # NAME LOCK: fills the empty environment; uv does it in a tenth of pip's time
  local python="$PWD/.mlflow/$1/bin/python" uv="$PWD/.mlflow/venv/bin/uv" log=".mlflow/$1.log"
  pip() { run_module "$python" pip install -q --disable-pip-version-check --require-hashes -r "$1" >"$log" 2>&1; }
  [ "$1" != venv ] || pip "$here/uv.lock" || uv=
  if [ -x "$uv" ] && "$uv" pip install --system-certs -q --python "$python" --require-hashes -r "$2" >"$log" 2>&1; then
    return
  fi
  stop_count
  cat "$log" >&2
  say "uv cannot be had or failed; trying pip, which takes longer"
  pip "$2" || { cat "$log" >&2 && return 1; }
}

# What is compiled in a job on the local platform goes with the job: that of the first would be of no use to the second.
compile() { # NAME: what a server, a model and a task on a store import; uv has compiled nothing
  MLFLOW_DISABLE_TELEMETRY=true ".mlflow/$1/bin/python" -c '
import compileall, importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
for room in ("server", "store"):
    compileall.compile_dir(sys.modules["mlflow"].__path__[0] + "/" + room, quiet=2)
' mlflow.cli mlflow.server.fastapi_app mlflow.sklearn mlflow.pyfunc.scoring_server uvicorn.workers flask_wtf.csrf boto3 pymysql \
    psycopg2 >/dev/null 2>&1 || :
}

make_venv() { # NAME LOCK
  local started=$SECONDS python reason
  check_tools
  # One at a time: the lock belongs to this process and its children, and ends with them however they end.
  if [ "${MLFLOW_SETUP_LOCK:-}" != "$1" ]; then
    mkdir -p .mlflow
    MLFLOW_SETUP_LOCK=$1 "$python" -c '
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR, 0o600)
os.set_inheritable(lock, True)
try:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("mlflow: waiting for another set-up here to end", file=sys.stderr)
        fcntl.flock(lock, fcntl.LOCK_EX)
except KeyboardInterrupt:
    sys.exit(130)
os.execvp("bash", ["bash", *sys.argv[2:]])
' ".mlflow/$1.lock" "${BASH_SOURCE[0]}" --venv "$@"
    return
  fi
  is_made "$@" && return
  say "setting up .mlflow/$1 (once) ..."
  rm -f ".mlflow/$1/stamp"
  count "$@" &
  counter=$!
  trap stop_count EXIT
  if ! { run_module "$python" venv --clear ".mlflow/$1" && install "$@"; }; then
    reason=$(grep -i error ".mlflow/$1.log" 2>/dev/null | tail -n 1) || :
    say "could not install $2 into .mlflow/$1: ${reason:-see above}; mend it and run the same command again"
    exit 1
  fi
  [ "$1" != venv-mlflow ] || compile "$1"
  stop_count
  rm -f ".mlflow/$1.log"
  (cd ".mlflow/$1" && printf '%s\n' lib/python*/site-packages/*.dist-info >packages)
  stamp_of "$@" >".mlflow/$1/stamp"
  say "set up in $((SECONDS - started)) s"
}

find_workspace() { # as neuro-flow does, where make was called below the folder of the flow that this belongs to
  local folder=$PWD toolkit flow
  toolkit=$(cd "$here" && pwd)
  while folder=$(dirname "$folder") && [ "$folder" != / ]; do
    [[ $toolkit == "$folder"/* ]] || continue
    for flow in "$folder"/.{apolo,neuro}/live.y{,a}ml; do
      [ -f "$flow" ] || continue
      export MLFLOW_CALLED_IN=$PWD
      cd "$folder"
      here=$toolkit
      return
    done
  done
}

unset PYTHONHOME PYTHONPATH PYTHONSAFEPATH PIP_USER PIP_TARGET PIP_PREFIX # the user's own, which would lead the set-up astray
unset PYTHONDONTWRITEBYTECODE                                             # all is written below .mlflow, and saves a third of a second
if [ "$1" = --venv ]; then
  is_made "$2" "$3" || make_venv "$2" "$3"
  exit
fi
[ -d .neuro ] || [ -d .apolo ] || find_workspace
is_made venv "$here/requirements.lock" || make_venv venv "$here/requirements.lock"
[ -s .mlflow/.gitignore ] || echo '*' >.mlflow/.gitignore # it holds secrets of the local platform
exec .mlflow/venv/bin/python -X compiled="$PWD/.mlflow/pycache" "$here/start.py" "$here/$1.py" "${@:2}"
