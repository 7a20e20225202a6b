"""The model that is to be served: which version it is, its files, and what it needs.

The registry is asked by MLflow's own client, in a process that ends before anything of the model is imported:
the model's environment may have other versions of what MLflow imports.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from in_job.words import Problem

EXAMPLE = 20_000  # characters that are shown at most; a longer one is tried, but not shown


def plain(uri: str) -> str:
    """Return a model's URI: `iris`, `iris/3` and `iris@champion` are short for `models:/…`."""
    return uri if re.match(r"\w+:/", uri) else f"models:/{uri}"


def version_in(client: Any, place: str) -> Any:
    """Return the version that NAME/VERSION, NAME@ALIAS, NAME/STAGE, NAME/latest or NAME stand for."""
    name, sign, alias = place.partition("@")
    if sign:
        return client.get_model_version_by_alias(name, alias)
    name, _, which = place.partition("/")
    if which.isdigit():
        return client.get_model_version(name, which)
    if which.lower() in ("", "latest"):
        found = client.search_model_versions(f"name = '{name}'")
    else:
        found = client.get_latest_versions(name, [which])
    if not found:
        client.get_registered_model(name)  # says it where there is none
        raise Problem(f"the model {name} has no version {which and f'in the stage {which}'}".strip())
    return max(found, key=lambda version: int(version.version))


def find(uri: str, folder: str) -> dict[str, Any]:
    """Find a model and download it into a folder.

    Returns:
        `model`, `version`, `uri`, `model_id`, `flavors`, `signature`, `example` as in `GET /deployment`, and
        `path`; `python`, the version that logged it; `mlflow`, likewise; `pickled`, whether it has code that
        only that minor version reads; `modules`, what is worth importing before processes are forked.

    Raises:
        Problem: there is none, or the server does not answer.
    """
    mlflow: Any = importlib.import_module("mlflow")
    errors: Any = importlib.import_module("mlflow.exceptions")
    known: dict[str, Any] = {"model": uri.rpartition("/")[2], "version": None, "uri": uri, "model_id": None}
    try:
        place = uri.partition(":/")[2].strip("/")
        if uri.startswith("models:") and not re.match(r"m-[0-9a-f]{32}$", place):
            version = version_in(importlib.import_module("mlflow.tracking").MlflowClient(), place)
            known = {"model": version.name, "version": str(version.version)}
            known["uri"] = f"models:/{version.name}/{version.version}"
            known["model_id"] = getattr(version, "model_id", None)
        artifacts: Any = importlib.import_module("mlflow.artifacts")
        path = artifacts.download_artifacts(artifact_uri=known["uri"], dst_path=folder)
        meta: Any = importlib.import_module("mlflow.models").Model.load(path)
    except (errors.MlflowException, OSError) as error:
        reason = getattr(error, "message", "") or str(error)
        raise Problem(f"{uri} cannot be had from {mlflow.get_tracking_uri()}: {reason}") from error
    function = meta.flavors.get("python_function")
    if not function:
        raise Problem(
            f"{uri} has no python_function flavour, only {', '.join(meta.flavors)}: it cannot be served"
        )
    example, signature = example_of(meta, path), meta.signature.to_dict() if meta.signature else None
    return {
        **known,
        "model_id": known["model_id"] or getattr(meta, "model_id", None),
        "flavors": [name for name in meta.flavors if name != "python_function"] or ["python_function"],
        "signature": signature,
        "example": json.loads(example) if example and len(example) < EXAMPLE else None,
        "path": str(path),
        "run_id": meta.run_id,
        "python": str(function.get("python_version") or ""),
        "mlflow": str(meta.mlflow_version or "?"),
        "pickled": bool(function.get("python_model")),
        "modules": [str(function["loader_module"]), *(n for n in meta.flavors if n != "python_function")],
    }


def example_of(meta: Any, path: str) -> str:
    """Return the model's input example as `/invocations` takes it, "" where it has none."""
    read = getattr(meta, "get_serving_input", None)
    return (read(path) if read else None) or ""


def check_python(found: dict[str, Any], running: tuple[int, ...] = sys.version_info[:2]) -> str:
    """Return a warning where a model was logged by another minor version of Python, "" where not.

    Raises:
        Problem: it is a pickle of code, which another version may read, and fail with, in any way.
    """
    logged = found["python"].split(".")[:2]
    image = ".".join(map(str, running))
    if not found["python"] or ".".join(logged) == image:
        return ""
    said = f"{found['uri']} was logged by Python {found['python']}, and this image has {image}"
    if found["pickled"]:
        raise Problem(
            f"{said}: its code is pickled, which another minor version cannot run; take an image with Python "
            f'{".".join(logged)}, or log it from code (python_model="FILE.py")'
        )
    return f"WARNING: {said}"


def requirements_of(path: str) -> list[str]:
    """Return the lines of a model's requirements, without comments; none where it says nothing."""
    try:
        text = (Path(path) / "requirements.txt").read_text("utf-8").replace("\\\n", " ")
    except OSError:
        return []
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]
