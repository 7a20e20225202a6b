"""Choosing the platform: the user's own login, or the embedded platform's. Nothing else differs."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from common.console import Failure, Problem
from common.locks import Users
from local_platform import client as local
from settings.layers import TOOLKIT_DIR, Settings
from settings.variables import truth

VENV_BIN = Path(".mlflow/venv/bin")
STATE = Path(".mlflow/local")


@dataclass(frozen=True)
class Login:
    """How to reach a platform."""

    environment: dict[str, str]
    """What a child process needs beside our own environment."""
    config: Path | None
    """The folder of the stored login, None for the SDK's own choice."""
    apolo: str
    """The path of the `apolo` command of this login."""
    neuro_flow: str
    """The `neuro-flow` command of this login, as a user types it."""
    storage: str
    """Where the files of `storage:` are, in words; empty on a real platform."""
    browser_link: Callable[[str], str]
    """Turns a job's URL into one that a browser gets in with."""
    secret: Callable[[str], tuple[str, str]]
    """A secret's value, and a shell command that prints it: both empty where it keeps secrets in."""
    is_last_user: Callable[[], bool]
    """Tells whether this is the only target that uses a platform which should end with its last job."""
    release: Callable[[bool], None]
    """Gives the login back; with True ends that platform, too."""

    @property
    def apolo_typed(self) -> str:
        """The `apolo` command as a user types it where make is called: the path may have blanks."""
        return shlex.quote(os.path.relpath(self.apolo))


def log_in(settings: Settings, *, will_run: bool = False) -> Login:
    """Return the login of the chosen platform; `will_run` makes ready what a job needs.

    Raises:
        Failure: the embedded platform does not start, or MLflow cannot be installed for it.
    """
    if settings.platform != "local":
        return Login(
            {"NEURO_CLI_DISABLE_PYPI_VERSION_CHECK": "1"},
            None,
            str(VENV_BIN.absolute() / "apolo"),
            "neuro-flow",
            "",
            lambda url: url,
            lambda _: ("", ""),
            lambda: False,
            lambda _: None,
        )
    if will_run:
        lock = TOOLKIT_DIR / "local_platform" / "mlflow.lock"
        bootstrap = ["bash", str(TOOLKIT_DIR / "bootstrap.sh"), "--venv", "venv-mlflow", str(lock)]
        if subprocess.run(bootstrap, check=False).returncode:
            raise Failure()  # it has said why
    state = STATE.absolute()
    users = Users(STATE.with_name("local.lock"))
    try:
        login = local.start(state)
    except local.PlatformError as error:
        raise Failure(
            Problem(f"the local platform does not start: {error}", f"its log is {STATE}/platform.log")
        ) from None

    def release(end: bool) -> None:
        if end:
            local.stop(state)
        users.close()

    return Login(
        login.environment,
        Path(login.environment["APOLO_CONFIG"]),
        f"{state}/bin/apolo",
        f"{STATE}/bin/neuro-flow",
        f"{STATE}/storage",
        lambda url: local.browser_link(login, url),
        lambda name: local.secret(login, name),
        users.last,
        release,
    )


def child_environment(login: Login, settings: Settings) -> dict[str, str]:
    """Return the environment for neuro-flow: ours, the login's, and its own commands first on PATH.

    neuro-flow finds `apolo` on PATH, and browses only where it is told to: `BROWSER=true` keeps it from
    opening, or blocking on, a browser of its own choice.
    """
    folders = [str(VENV_BIN.absolute()), os.environ.get("PATH", "")]
    if os.sep in settings.flow_cli:
        folders.insert(0, str(Path(settings.flow_cli).absolute().parent))
    own = {"PATH": os.pathsep.join(folders), "COLUMNS": "200", "NO_COLOR": "1"}
    if not truth(settings.inputs["browse"].value):
        own["BROWSER"] = "true"
    return {**os.environ, **login.environment, **own}
