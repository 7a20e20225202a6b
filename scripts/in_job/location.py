"""Where runs and artifacts are kept: what the settings mean."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from in_job.installed import has_sqlalchemy_2
from in_job.words import Problem

DRIVERS = {  # SQLAlchemy's name of a driver and its module, in order of preference
    "postgresql": {"psycopg2": "psycopg2", "psycopg": "psycopg"},  # the older is faster: more of it is in C
    "mysql": {"pymysql": "pymysql", "mysqldb": "MySQLdb"},
}


def one_slash(place: str) -> str:
    """Return a path, or the URI of a file, with one `/` where several begin its path."""
    return re.sub(r"(?i)^(sqlite(?:\+\w+)?:///(?:file:)?|file://)?/+", r"\1/", place)


def is_remote(destination: str) -> bool:
    """Tell whether an artifacts destination is an object store, not a folder."""
    return re.match(r"[A-Za-z][\w+.-]*:", destination) is not None


def choose_backend(destination: str) -> str:
    """Return a durable store for a server that was given none: an old file store, else SQLite."""
    if is_remote(destination):
        raise Problem(
            f"backend_store_uri is empty and artifacts_destination {destination} cannot hold a database: set "
            "backend_store_uri to sqlite:////FOLDER/mlflow.db on a volume, or to postgresql://…"
        )
    database = Path(destination, "mlflow.db").absolute()
    for folder in (Path.cwd() / "mlruns", Path(destination, "mlruns"), Path(destination)):
        if not database.exists() and any(folder.glob("[0-9]*/meta.yaml")):
            return str(folder)
    return f"sqlite:///{database}"


def sqlite_file(uri: str) -> tuple[Path, str]:
    """Return the file of a SQLite URI, and the name by which `sqlite3.connect(uri=True)` opens it."""
    name, _, query = uri.partition(":///")[2].partition("?")
    path = Path(unquote(name[5:]) if name.startswith("file:") else name)
    if not path.is_absolute() or "mode=memory" in query:
        raise Problem(f"{uri} is lost with the job: write sqlite:////FOLDER/mlflow.db, on a volume")
    vfs = re.search(r"\bvfs=[\w-]+", query)
    return path, f"file:{quote(str(path))}" + (f"?{vfs.group()}" if vfs else "")


def sql_uri(uri: str) -> str:
    """Return the URI of a database server with a driver that is installed; other dialects are left alone."""
    scheme, _, rest = uri.partition("://")
    kind, _, driver = scheme.partition("+")
    kind = {"postgres": "postgresql", "mariadb": "mysql"}.get(kind, kind)
    if rest.split("/")[0].count("@") > 1:
        raise Problem("backend_store_uri: the password has an @ in it; write it as %40")
    port = urlsplit(uri).netloc.rpartition("@")[2].partition(":")[2]
    if not re.fullmatch(r"\d*|.*\].*", port) or re.match(r"[^@/?#]*:[^@/?#]*[?#/][^@=]*@", rest):
        # Nothing of it is shown: it may be the password, of which a part would pass for host and port.
        raise Problem(
            "backend_store_uri: the port is no number; write a / ? # of the password as %2F %3F %23"
        )
    drivers = {name: module for name, module in DRIVERS.get(kind, {}).items() if driver in ("", name)}
    usable = [name for name, module in drivers.items() if importlib.util.find_spec(module)]
    if "psycopg" in usable and not has_sqlalchemy_2():
        usable.remove("psycopg")
    if drivers and not usable:
        raise Problem(f"{kind} needs the driver {' or '.join(drivers)}: take an image that has it (…-full)")
    return f"{kind}+{usable[0]}://{rest}" if usable else uri


def store_path(uri: str) -> Path | None:
    """Return the file or folder of a store on a volume, None for a database server."""
    if uri.startswith("sqlite"):
        return sqlite_file(uri)[0]
    if uri.startswith("file:"):
        return Path(unquote(urlsplit(uri).path)).absolute()
    return None if "://" in uri else Path(uri).absolute()


def is_database(uri: str) -> bool:
    """Tell whether a store is SQLite or in a database server, not a file store."""
    return uri.startswith("sqlite") or store_path(uri) is None


def locate(env: MutableMapping[str, str]) -> tuple[str, str]:
    """Return the backend store's URI and the artifacts destination that the settings mean."""
    destination = re.sub("^file://", "", one_slash(env.get("MLFLOW_ARTIFACTS_DESTINATION", "")))
    if not destination:
        raise Problem("artifacts_destination is empty: set it to a folder on a volume, or to s3://…")
    uri = one_slash(env.get("MLFLOW_BACKEND_STORE_URI", "").strip()) or choose_backend(destination)
    return (uri if store_path(uri) else sql_uri(uri)), destination
