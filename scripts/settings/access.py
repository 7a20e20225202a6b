"""Who gets in: users of the platform (`http_auth`), of MLflow (`--app-name basic-auth`), both, or all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from settings.values import Finding, option
from settings.variables import truth

ADMIN_NAME, ADMIN_PASSWORD = "MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD"
"""MLflow's variables for the first user, whom it makes where there is none yet."""
DEFAULT_ADMIN = "admin"


def has_users(extra_params: str) -> bool:
    """Tell whether MLflow asks for the name and password of one of its own users."""
    return option(extra_params, "--app-name") == "basic-auth"


def static_prefix(extra_params: str, env: dict[str, str]) -> str:
    """Return the path below which the server answers, without a slash at its end; "" for the root."""
    return (option(extra_params, "--static-prefix") or env.get("MLFLOW_STATIC_PREFIX", "")).rstrip("/")


def findings(values: dict[str, str]) -> Iterator[Finding]:
    """Yield what is wrong with well-formed values, as far as it decides on who gets in."""
    envs: dict[str, str] = json.loads(values["envs"])
    secret = f'"{ADMIN_PASSWORD}": "secret:mlflow-admin"'
    if not has_users(values["extra_params"]):
        if ADMIN_PASSWORD in envs:
            what = f"envs has {ADMIN_PASSWORD}, but nobody is asked for a password"
            yield Finding("envs", what, "extra_params: --app-name basic-auth turns users on", warning=True)
        return
    if not envs.get(ADMIN_PASSWORD) and "MLFLOW_AUTH_CONFIG_PATH" not in envs:
        what = "basic-auth has no password for its first user"
        fix = f"`apolo secret add mlflow-admin @FILE` (12 characters or more), then envs: '{{{secret}}}'"
        yield Finding("extra_params", what, fix)
    elif not envs.get(ADMIN_PASSWORD, "secret:").startswith("secret:") and len(envs[ADMIN_PASSWORD]) < 12:
        what = f"the value of {ADMIN_PASSWORD} is too short"
        yield Finding("envs", what, f"MLflow wants 12 characters or more; better: '{{{secret}}}'")
    if re.match(r"/|file://", values["backend_store_uri"]):
        what = "basic-auth keeps its users in a database, and backend_store_uri is a file store"
        yield Finding("backend_store_uri", what, "set it to sqlite:////FOLDER/mlflow.db or postgresql://…")
    if truth(values["http_auth"]):
        what = "with http_auth and basic-auth no client outside of the cluster gets in: both want one header"
        yield Finding(
            "http_auth", what, "browsers and jobs of the cluster do; else turn one off", warning=True
        )
