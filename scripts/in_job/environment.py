"""The variables that MLflow's server gets, beside those that the user sets."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from in_job.installed import has_sqlalchemy_2, package
from in_job.location import store_path

JOBS = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
DEFAULTS = {
    "MLFLOW_HOST": "0.0.0.0",  # noqa: S104 - the ingress and other jobs come from outside
    "MLFLOW_WORKERS": "2",
    JOBS: "false",  # GenAI scorers: 8 processes, 1.4 GB
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
OWN_INPUTS = {"--backend-store-uri", "--artifacts-destination", "--port", "-p"}


def is_on(env: Mapping[str, str], name: str) -> bool:
    """Tell whether a variable of MLflow's that is true or false is true."""
    return env.get(name, "").lower() in ("true", "1")


def names(env: MutableMapping[str, str]) -> dict[str, str]:
    """Return MLflow's lists of hosts and origins for the job's own names, as patterns of fnmatch.

    Internal names are `LABEL.NAMESPACE`, public ones `LABEL.jobs.DOMAIN`. No job is told the DOMAIN; behind a
    loopback address it can only be one below `localhost`.
    """
    keys = ("NEURO_JOB_INTERNAL_HOSTNAME", "NEURO_JOB_INTERNAL_HOSTNAME_NAMED")
    own = [env[key] for key in keys if env.get(key)]
    if not own:
        return {}
    hosts = ["localhost", "127.0.0.1", env["MLFLOW_HOST"], *own]
    domains = ["*.localhost", "*.localhost:*"] if env["MLFLOW_HOST"].startswith("127.") else ["*"]
    plain = [name + port for name in hosts for port in ("", ":*")]
    public = [f"{name.split('.')[0]}.jobs.{domain}" for name in own for domain in domains]
    origins = [f"http://{name}" for name in plain] + [f"https://{name}" for name in public]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(plain + public),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
    }


def store_defaults(uri: str, workers: int) -> dict[str, str]:
    """Return MLflow's variables for a kind of store: pools in which 64 clients at once find a connection."""
    if uri.startswith("sqlite"):
        if not has_sqlalchemy_2():  # without a pool
            return {}
        # One for each thread, even where it is 40; but one that is kept open keeps 2 MB of the database.
        return {"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "40"}
    if store_path(uri):
        return {"MLFLOW_ALLOW_FILE_STORE": "true"}
    most = max(80 // workers, 10)  # PostgreSQL allows 100 connections
    kept = min(most // 2, 20)  # two for each thread, as a batch takes: to make one takes longer than that
    return {
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(kept),
        "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": str(most - kept),
    }


def uvicorn_options() -> str:
    """Return options for the installed uvicorn, which may kill a worker that is busy for 5 s."""
    config = package("uvicorn") / "config.py"
    checks = config.is_absolute() and "timeout_worker_healthcheck" in config.read_text("utf-8")
    patience = " --timeout-worker-healthcheck 30" if checks else ""
    return f"--no-access-log --timeout-graceful-shutdown 5{patience}"
