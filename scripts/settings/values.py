"""What the settings' values have to be, each by itself and together. Knows nothing of layers or platforms."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from common.console import parse_duration
from settings.action import PROGRAM
from settings.layers import SECRET, redact
from settings.variables import truth

REFERENCE = re.compile(r"(storage|disk|secret):(?P<what>.+?):(?P<path>/[^:]*)(?::(?P<mode>ro|rw))?")
"""A volume reference of neuro-flow, such as `storage:mlflow:/mnt/mlflow:rw`."""

OF_THE_ACTION = {
    "MLFLOW_ACTION_MODE": "mode",
    "MLFLOW_ACTION_EXTRA_PARAMS": "extra_params",
    "MLFLOW_ACTION_BACKUP_EVERY": "backup_every",
    "MLFLOW_ACTION_VOLUMES": "volumes",
    "MLFLOW_ARTIFACTS_DESTINATION": "artifacts_destination",
    "MLFLOW_BACKEND_STORE_URI": "backend_store_uri",
    "MLFLOW_PORT": "port",
}
"""The variables through which the action hands its inputs to the server; `envs` has all others."""

OF_A_DEPLOYMENT = {
    "MLFLOW_TRACKING_URI": "tracking_uri",
    "MLFLOW_DEPLOY_MODEL": "model",
    "MLFLOW_DEPLOY_FOLLOW": "follow",
    "MLFLOW_DEPLOY_ENV_MANAGER": "env_manager",
    "MLFLOW_DEPLOY_CACHE": "cache",
    "MLFLOW_DEPLOY_WORKERS": "workers",
    "MLFLOW_DEPLOY_PORT": "port",
}
"""The same for deploy.yaml."""

_TAKEN_OPTIONS = {
    "--host": "the action binds the server to where the platform reaches it",
    "-h": "the action binds the server to where the platform reaches it",
    "--port": "the setting port says it",
    "-p": "the setting port says it",
    "--backend-store-uri": "the setting backend_store_uri says it",
    "--artifacts-destination": "the setting artifacts_destination says it",
}
_DRIVERS = {"sqlite": ("",), "postgresql": ("", "psycopg", "psycopg2"), "postgres": ("",)}
_DRIVERS |= {"mysql": ("", "pymysql"), "mariadb": ("", "pymysql"), "mssql": ("pymssql",)}
"""SQLAlchemy's dialects and the drivers of the default image; the action picks one where none is named."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with the value of a setting."""

    name: str
    what: str
    fix: str
    warning: bool = False


CHOICES = {
    "mode": ("server", "ui"),
    "restart": ("never", "on-failure", "always"),
    "platform": ("neuro", "local"),
    "deploy_env_manager": ("uv", "local"),
}
"""Settings with a few possible values; `mode` in any letter case."""
TRUTH = ("http_auth", "browse", "deploy_http_auth")
"""Settings that are a truth value, in the words of `variables`."""


def _one_of(*allowed: str) -> Callable[[str], str]:
    fix = f"use {' or '.join(value for value in allowed if value)}"
    return lambda value: "" if value.lower() in allowed else fix


def _exactly(*allowed: str) -> Callable[[str], str]:
    return lambda value: "" if value in allowed else f"use {' or '.join(allowed)}"


def _port(value: str) -> str:
    return (
        ""
        if re.fullmatch(r"[0-9]{1,5}", value) and 0 < int(value) < 65536
        else "use a number from 1 to 65535"
    )


def _at_least(seconds: int, fix: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            return "" if parse_duration(value) >= seconds else fix
        except ValueError:
            return fix

    return check


def _life_span(value: str) -> str:
    if "w" in value:
        return "write weeks as days: neuro-flow takes d, h, m and s"
    return _at_least(60, "use at least a minute, like 10d, 1d12h or 30m")(value)


def _job_name(value: str) -> str:
    fits = not value or (3 <= len(value) <= 40 and re.fullmatch(r"[a-z](-?[a-z0-9])*", value))
    if value.startswith("job-"):
        return "begin it with another word than job-, which the platform keeps for ids"
    return "" if fits else "use 3 to 40 lowercase letters, digits and single hyphens, a letter first"


def _volumes(value: str) -> str:
    example = '["storage:mlflow:/mnt/mlflow:rw"]'
    try:
        found = json.loads(value)
    except ValueError as error:
        return f"use JSON like {example} ({error})"
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        return f"use a JSON list of text like {example}"
    for reference in found:
        if not REFERENCE.fullmatch(reference):
            return f"write {reference!r} as storage:FOLDER:/PATH:rw, disk:NAME:/PATH:rw or secret:NAME:/PATH"
    paths = [PurePosixPath(mount.path) for mount in mounts(value)]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    return f"mount only one volume at {twice}" if twice else ""


def _envs(value: str, taken: dict[str, str] = OF_THE_ACTION, prefix: str = "") -> str:
    example = '{"NAME": "value"}'
    try:
        found = json.loads(value, object_pairs_hook=lambda pairs: pairs)
    except ValueError as error:
        return f"use JSON like {example} ({error})"
    if not isinstance(found, list) or value.lstrip()[:1] != "{":
        return f"use a JSON object like {example}"
    names = [name for name, _ in found]
    for name, text in found:
        if not isinstance(text, str):
            return f"put the value of {name} in quotes"
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return f"{name!r} is no name for a variable: use letters, digits and _"
        if names.count(name) > 1:
            return f"give {name} once"
        if name in taken:
            return f"set {prefix}{taken[name]} instead of {name}"
        if name.startswith(PROGRAM):
            return f"take another name than {name}, in which the job's program travels"
    return ""


def option(extra_params: str, name: str) -> str:
    """Return what options of `mlflow server` give the option `name`, the last time; "" where they do not."""
    try:
        words = shlex.split(extra_params)
    except ValueError:
        return ""
    found = ""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        given, sep, value = word.partition("=")
        if given == name:
            found = value if sep else following
    return found


def _extra_params(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        return f"close the quotes ({error})"
    options = set()  # -p5000 and --port=5000 alike
    for word in words:
        options.add(word[:2] if re.match(r"-\w", word) else word.partition("=")[0])
    for taken, why in _TAKEN_OPTIONS.items():
        if taken in options:
            return f"leave {taken} out: {why}"
    root, prefix = (option(value, name) for name in ("--default-artifact-root", "--static-prefix"))
    if "--default-artifact-root" in options and not re.match(r"[A-Za-z][\w+.-]*:/", root):
        return "leave --default-artifact-root out: clients would write to that path on their own machine"
    if "--static-prefix" in options and not re.fullmatch(r"(/[^/{}?#\s]+)+", prefix):
        return "begin --static-prefix with a / and end it without one, like --static-prefix /mlflow"
    if {"--gunicorn-opts", "--waitress-opts"} & options:
        return "leave the server as it is: with another one MLflow cannot check hosts and origins"
    return ""


def one_slash(place: str) -> str:
    """Return a path, or the URI of a file, with one `/` where several begin its path; as the job reads it.

    `sqlite:////${{ volumes.x.mount }}/mlflow.db`, which was published as an example, has five.
    """
    return re.sub(r"(?i)^(sqlite(?:\+\w+)?:///(?:file:)?|file://)?/+", r"\1/", place)


def _artifacts_destination(value: str) -> str:
    if not value:
        return "set it to a folder on a mounted volume, or to s3://, gs:// or wasbs://"
    if not value.startswith("/") and not re.match(r"[A-Za-z][\w+.-]*:/", value):
        return "write the whole path, from / on"
    return ""


def _backend_store_uri(value: str) -> str:
    value = one_slash(value)
    scheme, sep, rest = value.partition("://")
    if not value or value.startswith(("secret:", "/")):
        return ""
    if scheme.lower().startswith("sqlite") or value.lower().startswith("sqlite:"):
        return _sqlite(value)
    if not sep:
        return "write the whole path, from / on, or a URI like sqlite:////FOLDER/mlflow.db"
    if scheme == "file":
        return "" if rest.startswith("/") else "write the whole path: file:///FOLDER"
    dialect, _, driver = scheme.partition("+")
    if driver not in _DRIVERS.get(dialect, ()):
        known = ", ".join(f"{name}://" for name in ("sqlite", "postgresql", "mysql", "mssql+pymssql"))
        return f"the image has no driver for {scheme}://; it has {known}"
    return _password(rest)


def _sqlite(value: str) -> str:
    slashes = re.match(r"sqlite(?:\+\w+)?:(/*)(file:)?(/*)", value.lower())
    fix = "write sqlite:////FOLDER/mlflow.db, with four slashes, on a mounted volume"
    if ":memory:" in value or "mode=memory" in value:
        return f"a database in memory is lost with the job: {fix}"
    if not slashes or (slashes[2] and (len(slashes[1]), len(slashes[3])) != (3, 1)):
        return f"{fix}; or sqlite:///file:/FOLDER/mlflow.db?vfs=unix-dotfile&uri=true"
    if not slashes[2] and len(slashes[1]) != 4:
        return f"with {len(slashes[1])} slashes it is not an absolute path: {fix}"
    return ""


def _password(rest: str) -> str:
    """Check what would take a password apart: the URI's own signs have to be quoted in it."""
    user, sep, _ = rest.rpartition("@")
    _, colon, password = user.partition(":")
    if not sep or not colon:
        return "" if "@" in rest or not re.search(r":[^/]*[#%\[]", rest) else _QUOTE
    quoted = re.sub(r"%[0-9A-Fa-f]{2}", "", password)
    sign = next((sign for sign in "@:/#?%[]" if sign in quoted), None)
    return f"in the password write {sign} as %{ord(sign):02X}, or keep the URI as secret:NAME" if sign else ""


_QUOTE = "quote the password's special signs (%23 for #, %5B for [), or keep the URI as secret:NAME"

CHECKS: dict[str, Callable[[str], str]] = {
    "mode": _one_of(*CHOICES["mode"]),
    "artifacts_destination": _artifacts_destination,
    "backend_store_uri": _backend_store_uri,
    "volumes": _volumes,
    "envs": _envs,
    **dict.fromkeys(TRUTH, lambda value: "" if truth(value) is not None else "use True or False"),
    "life_span": _life_span,
    "port": _port,
    "job_name": _job_name,
    "extra_params": _extra_params,
    "image": lambda value: (
        "" if value and not re.search(r"\s", value) else "use an image's name, without blanks"
    ),
    "backup_every": lambda value: (
        _at_least(60, "use at least a minute, like 1d or 12h, or leave it empty")(value) if value else ""
    ),
    "restart": _exactly(*CHOICES["restart"]),
    "platform": _exactly(*CHOICES["platform"]),
    "deploy_env_manager": _exactly(*CHOICES["deploy_env_manager"]),
    "deploy_cache": lambda value: (
        "" if not value or value.startswith("/") else "write the whole path, from / on"
    ),
    "deploy_workers": lambda value: "" if re.fullmatch("[1-9][0-9]?", value) else "use a number from 1 to 99",
    "deploy_envs": lambda value: _envs(value, OF_A_DEPLOYMENT, "deploy_"),
    "timeout": lambda value: (
        "" if re.fullmatch("0*[1-9][0-9]*", value) else _at_least(1, "use a duration like 10m or 90s")(value)
    ),
}
"""Each returns the fix for a value, or an empty string where nothing is wrong with it alone."""
CHECKS |= {f"deploy_{name}": CHECKS[name] for name in ("http_auth", "port", "life_span", "image", "volumes")}


@dataclass(frozen=True)
class Mount:
    """A volume of the job: `kind` is storage, disk or secret."""

    kind: str
    path: str
    read_only: bool


def mounts(volumes: str) -> list[Mount]:
    """Return what a well-formed JSON list of references mounts."""
    found = filter(None, (REFERENCE.fullmatch(reference) for reference in json.loads(volumes)))
    return [Mount(match[1], one_slash(match["path"]), match["mode"] == "ro") for match in found]


def references(volumes: str) -> list[str]:
    """Return the references in a well-formed JSON list."""
    return [reference for reference in json.loads(volumes) if REFERENCE.fullmatch(reference)]


def holder(path: str, mounted: list[Mount]) -> Mount | None:
    """Return the mount that a path is on: the deepest of those above it."""
    above = [m for m in mounted if PurePosixPath(path).is_relative_to(m.path)]
    return max(above, key=lambda m: len(PurePosixPath(m.path).parts), default=None)


def sqlite_path(uri: str) -> str:
    """Return the path of a well-formed SQLite URI, else an empty string."""
    match = re.match(r"sqlite(?:\+\w+)?:///(?:file:)?(/[^?]*)", one_slash(uri))
    return match[1] if match else ""


def secret_references(values: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the setting and the reference, such as `secret:NAME`, of each secret that is referred to."""
    texts = [("backend_store_uri", values.get("backend_store_uri", ""))]
    texts += [("envs", text) for text in json.loads(values["envs"]).values()]
    texts += [("volumes", reference) for reference in json.loads(values["volumes"])]
    for setting, text in texts:
        if match := re.match(r"secret:(//)?[^:]+", text):
            yield setting, match[0]


def together(values: dict[str, str]) -> Iterator[Finding]:
    """Yield what is wrong with well-formed values taken together."""
    mounted = mounts(values["volumes"])
    destination = one_slash(values["artifacts_destination"]).removeprefix("file://")
    backend = one_slash(values["backend_store_uri"])
    database = sqlite_path(backend)
    store = database or (backend.removeprefix("file://") if re.match(r"/|file://", backend) else "")
    where = "mount a volume there, or choose a folder below " + (
        " or ".join(m.path for m in mounted if m.kind != "secret") or "a mounted volume"
    )
    kept = {"artifacts_destination": destination} if destination.startswith("/") else {}
    if store:
        kept["backend_store_uri"] = store
    for name, path in kept.items():
        mount = holder(path, mounted)
        if mount is None or mount.kind == "secret":
            yield Finding(name, f"{name} is {path!r}, which no volume holds: lost with the job", where)
        elif mount.read_only and (name != "artifacts_destination" or values["mode"].lower() == "server"):
            yield Finding(name, f"{name} is {path!r}, on a volume mounted read-only", "mount it with :rw")
    if not backend and not destination.startswith("/"):
        fix = "set it to sqlite:////FOLDER/mlflow.db on a volume, postgresql://… or secret:NAME"
        yield Finding(
            "backend_store_uri", f"backend_store_uri is empty, and {destination} keeps no runs", fix
        )
    if database and destination.startswith("/") and PurePosixPath(database).is_relative_to(destination):
        apart = f"{destination.rstrip('/')}/artifacts"
        fix = (
            f"artifacts are kept apart in {apart}, once `make mlflow-upgrade` has moved those that are there"
        )
        what = f"the database {database} lies in artifacts_destination {destination}"
        yield Finding("backend_store_uri", what, fix, warning=True)
    places = [m for m in mounted if m.kind == "storage" and not m.read_only]
    shared = [m for m in places if PurePosixPath(m.path).is_relative_to(destination or "/")]
    if values.get("backup_every") and len(shared) == len(places):
        fix = (
            "mount storage with :rw, and keep artifacts in a folder of it: artifacts_destination …/artifacts"
        )
        yield Finding("backup_every", "no volume has a place for backups that no artifact shares", fix)
    if re.match(r"\w+(\+\w+)?://[^/]*:[^/]*@", backend) or re.search(r"[?&]passw(or)?d=", backend):
        fix = "keep the URI as a platform secret: `apolo secret add mlflow-db @file`, then secret:mlflow-db"
        what = f"the password in {redact(backend)!r} can be read in the job's description and in local logs"
        yield Finding("backend_store_uri", what, fix, warning=True)
    for name, text in json.loads(values["envs"]).items():
        if re.search(rf"(?i){SECRET}|_key$", name) and text and not text.startswith("secret:"):
            fix = f"keep it as a platform secret: `apolo secret add NAME @file`, then {name}: secret:NAME"
            what = f"the value of {name} can be read in the job's description and in local logs"
            yield Finding("envs", what, fix, warning=True)
