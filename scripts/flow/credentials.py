"""The name and password that an MLflow client of this machine has for a server with users of its own."""

from __future__ import annotations

import configparser
import contextlib
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from flow.login import Login
from settings.access import ADMIN_NAME, ADMIN_PASSWORD, DEFAULT_ADMIN

NAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


@dataclass(frozen=True)
class Credentials:
    """A user's name, the password, and how a shell gets at that: never the text itself."""

    name: str
    password: str
    shell: str


def find(login: Login, env: dict[str, str]) -> Credentials | None:
    """Return the credentials for a server whose job has the environment `env`, None where none are known.

    They are looked for where MLflow's own clients do, in their variables and in ~/.mlflow/credentials
    (`mlflow.utils.credentials` of MLflow 3.17.2), then where the platform keeps the first user's password:
    only the embedded platform gives a secret back.
    """
    if os.environ.get(NAME) and os.environ.get(PASSWORD):
        return Credentials(os.environ[NAME], os.environ[PASSWORD], f'"${PASSWORD}"')
    file = Path.home() / ".mlflow/credentials"
    parser = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):  # MLflow's client says what is wrong
        parser.read(file, encoding="utf-8")
    name, password = (parser.get("mlflow", key.lower(), fallback="") for key in (NAME, PASSWORD))
    if name and password:
        script = r"s/^[[:space:]]*mlflow_tracking_password[[:space:]]*[=:][[:space:]]*//p"
        return Credentials(name, password, f'"$({shlex.join(["sed", "-n", script, str(file)])})"')
    secret = env.get(ADMIN_PASSWORD, "")
    if secret.startswith("secret:"):
        value, command = login.secret(secret.rsplit("/", 1)[-1].removeprefix("secret:"))
        if value:
            return Credentials(env.get(ADMIN_NAME) or DEFAULT_ADMIN, value, f'"$({command})"')
    return None
