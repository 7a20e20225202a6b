"""Prepare the store of an MLflow tracking server and run the server, below a small parent: PID 1 of the job.

Settings come by environment only: MLFLOW_ACTION_MODE, MLFLOW_ACTION_EXTRA_PARAMS, the platform's NEURO_JOB_*,
MLFLOW_ACTION_DATABASE_TIMEOUT (seconds), and MLflow's own variables, which win over the defaults set here.
"""

from __future__ import annotations

import gc
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from in_job import sqlite
from in_job.artifact_folder import artifacts_folder
from in_job.database_server import prepare_sql
from in_job.environment import DEFAULTS, JOBS, OWN_INPUTS, is_on, names, store_defaults, uvicorn_options
from in_job.in_use import hold
from in_job.installed import mlflow_version, package
from in_job.keys import keep, settle
from in_job.location import is_database, is_remote, locate, store_path
from in_job.queries import change, rows
from in_job.serving.limits import max_body
from in_job.sqlite import fold, prepare_sqlite
from in_job.users import prepare_users
from in_job.waiting import FORKS
from in_job.web_server import END, run_mlflow
from in_job.words import Problem, explain, say

ROLLUPS = "MLFLOW_SQL_TRACE_ROLLUPS_ENABLED"
ROLLUP_TABLES = (
    *("sql_trace_metric_daily_rollups", "sql_span_cost_daily_rollups", "sql_assessment_daily_rollups"),
    "sql_trace_rollup_rebuild_queue",
)


def make_default_experiment(store: Path) -> None:
    """Make experiment 0 in a file store that has none, for clients that name none.

    MLflow makes it only where there is no folder yet, and a volume is one. Source: `FileStore`, MLflow 3.17.
    """
    if any(entry.name.isdigit() or entry.name == ".trash" for entry in store.iterdir()):
        return
    now = int(time.time() * 1000)
    lines = [f"creation_time: {now}", "experiment_id: '0'", f"last_update_time: {now}"]
    lines = ["artifact_location: mlflow-artifacts:/0", *lines, "lifecycle_stage: active", "name: Default", ""]
    (store / "0").mkdir()
    (store / "0/meta.yaml").write_text("\n".join(lines), "utf-8")


def prepare_store(env: MutableMapping[str, str], uri: str, destination: str, timeout: float) -> str:
    """Prepare the backend store and its keys; return the destination that the server is to have."""
    store = store_path(uri)
    if not is_remote(destination):
        folder = Path(destination).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        destination = str(artifacts_folder(folder, store) if store else folder)
    keys = settle(env, uri, destination)
    if uri.startswith("sqlite"):
        prepare_sqlite(uri, min(timeout, sqlite.SQLITE_WAIT))
    elif store:
        say(f"{store} is a file store, which MLflow gives up; move it to a database while no server runs:")
        say(f"mlflow migrate-filestore --source {store} --target sqlite:////FOLDER/mlflow.db")
    else:
        prepare_sql(uri, timeout)
    keep(env, uri, keys)
    return destination


def tell_of_scoring(env: MutableMapping[str, str], uri: str) -> None:
    """Say it where MLflow has taken configurations of online scoring and nobody runs them."""
    if is_database(uri) and not is_on(env, JOBS):
        found = rows(uri, "SELECT count(*) FROM online_scoring_configs WHERE sample_rate > 0")
        if found and found[0][0]:
            say(f"{found[0][0]} scorers are set to score traces as they come, and nobody runs them:")
            say(f'"{JOBS}": "true" in envs does, for 1.4 GB of memory more')


def allow_rollups(env: MutableMapping[str, str], uri: str, mode: str) -> None:
    """Let a store with daily sums of traces be served where they are off: MLflow refuses to start with them.

    They are made of the traces, so the server removes them; one that only shows runs leaves them to another.
    """
    if is_on(env, ROLLUPS) or not is_database(uri):
        return
    there = [table for table in ROLLUP_TABLES if rows(uri, f"SELECT * FROM {table} LIMIT 1")]  # noqa: S608
    if there and mode == "ui":
        env[ROLLUPS] = "true"
    elif there:
        say(f"removed the daily sums of traces, which MLflow would not start with; {ROLLUPS} makes them anew")
        for table in there:
            change(uri, f"DELETE FROM {table}", [""])  # noqa: S608


def prepare(env: MutableMapping[str, str]) -> list[str]:
    """Prepare the store and complete `env` for the server; return the server's command."""
    env.update({name: value for name, value in DEFAULTS.items() if not env.get(name)})
    mode = env.get("MLFLOW_ACTION_MODE", "").strip().lower() or "server"
    if mode not in ("server", "ui"):
        raise Problem(f"mode is {env['MLFLOW_ACTION_MODE']!r}: set it to server or ui")
    text, seconds = (env.get(f"MLFLOW_ACTION_{name}", "") for name in ("EXTRA_PARAMS", "DATABASE_TIMEOUT"))
    try:
        extra = shlex.split(text)
    except ValueError as error:
        raise Problem(f"extra_params is {text!r}: {error}; quote it as for a shell") from error
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?)?", seconds):
        raise Problem(f"MLFLOW_ACTION_DATABASE_TIMEOUT is {seconds!r}: set it to a number of seconds")
    timeout = float(seconds or 120)
    max_body(env)
    options = {word.partition("=")[0] for word in extra}
    if options & OWN_INPUTS:
        raise Problem(f"extra_params has {', '.join(options & OWN_INPUTS)}: use the input for it")
    if package("mlflow") == Path():
        raise Problem(f"MLflow is not installed for {sys.executable}: take another image")
    uri, destination = locate(env)
    hold(uri, mode == "server", timeout)
    store = store_path(uri)
    if store and mode == "server" and not uri.startswith("sqlite"):
        make_default_experiment(store)
    destination = prepare_store(env, uri, destination, timeout)
    prepare_users(env, uri, destination)
    tell_of_scoring(env, uri)
    allow_rollups(env, uri, mode)
    env["MLFLOW_BACKEND_STORE_URI"], env["MLFLOW_ARTIFACTS_DESTINATION"] = uri, destination
    env["MLFLOW_PORT"] = env.get("NEURO_JOB_HTTP_PORT") or env.get("MLFLOW_PORT") or "5000"
    prefix = re.search(r"--static-prefix[ =](\S+)", " ".join(extra))
    if prefix or env.get("MLFLOW_STATIC_PREFIX"):  # users' routes follow from it where they are imported
        env["_MLFLOW_STATIC_PREFIX"] = prefix.group(1) if prefix else env["MLFLOW_STATIC_PREFIX"]
    words = f"{' '.join(extra)} -w {env['MLFLOW_WORKERS']}"
    workers = re.search(r"(?:-w|--workers)[ =]*([1-9]\d*)", words)
    defaults = store_defaults(uri, int(workers.group(1)) if workers else 1)
    if not options & {"--gunicorn-opts", "--waitress-opts", "--dev"} and not env.get("MLFLOW_GUNICORN_OPTS"):
        defaults["MLFLOW_UVICORN_OPTS"] = uvicorn_options()
    if mode == "ui":
        defaults.update({"MLFLOW_SERVE_ARTIFACTS": "false", "MLFLOW_DEFAULT_ARTIFACT_ROOT": destination})
    env.update({name: value for name, value in defaults.items() if not env.get(name)})
    env.update({name: value for name, value in names(env).items() if not env.get(name)})
    if (package("mlflow") / "server/auth").exists() and package("flask_wtf") == Path():
        say("without flask-wtf MLflow answers some concurrent searches with HTTP 500: take a -full image")
    say(f"MLflow {mlflow_version()}, {mode} mode, backend store {uri}, artifacts {destination}", sys.stdout)
    return [sys.executable, "-m", "mlflow", "server", *extra]


def serve() -> int:
    """Prepare, then become the server; return the exit code."""
    gc.disable()  # until all is imported: there is no garbage to find
    try:
        command = prepare(os.environ)
    except Exception as error:
        say(explain(error))
        return 1
    if not FORKS:
        os.execv(command[0], command)  # noqa: S606
    sys.path[0] = str(Path.cwd())  # as with `python -m`
    run_mlflow(command)
    return 0


def supervise(server: int, keeper: int) -> int:
    """Pass signals on to the server, reap the orphans of PID 1; return the server's exit code.

    `keeper` is the process that makes backups, 0 where there is none: it ends with the server.
    """
    asked: list[int] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)  # first: the next signal may come while this one is handled
        with suppress(ProcessLookupError):
            os.killpg(server, number if len(asked) == 1 else signal.SIGKILL)

    for number in END:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
    pid, status = os.wait()
    while pid != server:
        pid, status = os.wait()
    with suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)  # whatever is left of its group
    if keeper:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(keeper, signal.SIGTERM)
            os.waitpid(keeper, 0)
    if asked:
        fold(os.environ)
    if os.WIFSIGNALED(status):
        cause = os.WTERMSIG(status)
        return 0 if cause in asked else 128 + cause  # one worker of uvicorn ends so, when it has tidied up
    if not status and not asked:  # `mlflow server` returns 0 even where uvicorn has failed
        say("the server has ended by itself; see its words above")
        return 1
    return os.WEXITSTATUS(status)


def start_keeper() -> int:
    """Start the process that makes backups where they are asked for; return its id, 0 for none."""
    if not os.environ.get("MLFLOW_ACTION_BACKUP_EVERY"):
        return 0
    try:
        from in_job import keeper  # and much else, which is not needed otherwise

        return keeper.start(dict(os.environ))
    except Exception as error:
        say(f"WARNING: there are no automatic backups: {explain(error)}")
        return 0


def main() -> int:
    """Start the server as a child, which keeps this process small; return the exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, END)  # until there is somebody to pass them on to
    child = os.fork()
    with suppress(OSError):
        os.setpgid(child, 0)  # in both processes: neither waits for the other
    if child:
        return supervise(child, start_keeper())
    for number in END:
        signal.signal(number, lambda number, _: sys.exit(128 + number))  # also for what is prepared here
    signal.pthread_sigmask(signal.SIG_UNBLOCK, END)
    return serve()


if __name__ == "__main__":
    sys.exit(main())
