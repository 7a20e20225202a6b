"""What MLflow's stores refuse in a server: what would fill its memory, or reach out of its artifacts."""

from __future__ import annotations

import importlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from in_job.location import is_remote
from in_job.queries import rows
from in_job.words import say

POINTS = 50_000  # of a metric's history that are answered at once: they take 100 MB on the way


def is_outside(location: str, destination: str) -> bool:
    """Tell whether an artifact location is a path that leads, by its links too, out of the destination."""
    if location.lower().startswith("file:"):
        location = unquote(urlsplit(location).path)
    elif is_remote(location):
        return False
    if is_remote(destination):
        return True
    path, root = Path(location).resolve(), Path(destination).resolve()
    return root not in (path, *path.parents)


def guard_history(store: Any, refused: Any) -> None:
    """Let a store refuse to read more of a metric's history than fits, and say how to page."""
    read, pages = store.get_metric_history, importlib.import_module("mlflow.utils.search_utils").SearchUtils

    def get_metric_history(
        self: Any, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> Any:
        if max_results is None or max_results > POINTS:
            begin = pages.parse_start_offset_from_page_token(page_token)
            if read(self, run_id, metric_key, 1, pages.create_page_token(begin + POINTS)):
                raise refused(
                    f"The metric {metric_key} has more than {POINTS:,} points, the most that is read at once:"
                    " ask for pages, by max_results=25000 and the page_token of each answer"
                )
        return read(self, run_id, metric_key, max_results, page_token)

    store.get_metric_history = get_metric_history


def guard_bulk(store: Any, refused: Any) -> None:
    """Let a store read no more points of several runs at once than of one.

    MLflow reads 25,000 of them at most, but all where a negative number is asked for, which SQLite takes for
    no limit. What is sampled evenly, so many points of each run, is sampled in larger steps.
    """
    read = store.get_metric_history_bulk
    sample: Any = getattr(store, "get_metric_history_bulk_interval", None)

    def get_metric_history_bulk(self: Any, run_ids: Any, metric_key: str, max_results: int) -> Any:
        if max_results < 0:
            raise refused(f"max_results is {max_results}: ask for 0 points or more")
        return read(self, run_ids, metric_key, min(max_results, POINTS))

    def get_metric_history_bulk_interval(
        self: Any, run_ids: Any, metric_key: str, max_results: int, *steps: Any, **named: Any
    ) -> Any:
        most = max(POINTS // max(len(run_ids), 1), 1)
        return sample(self, run_ids, metric_key, min(max_results, most), *steps, **named)

    store.get_metric_history_bulk = get_metric_history_bulk
    if sample:
        store.get_metric_history_bulk_interval = get_metric_history_bulk_interval


def guard_locations(store: Any, refused: Any, destination: str) -> None:
    """Let a store make no experiment whose artifacts would be written elsewhere in the job."""
    create = store.create_experiment

    def create_experiment(
        self: Any, name: str, artifact_location: str | None = None, *arguments: Any, **options: Any
    ) -> Any:
        if artifact_location and is_outside(artifact_location, destination):
            raise refused(
                f"artifact_location {artifact_location} is no place for artifacts of this server: leave it "
                f"out, or give mlflow-artifacts:/…, the URI of an object store, or a folder in {destination}"
            )
        return create(self, name, artifact_location, *arguments, **options)

    store.create_experiment = create_experiment


def guard_deletion(repository: Any, refused: Any) -> None:
    """Let a folder of artifacts delete nothing that a link in it leads to."""
    delete = repository.delete_artifacts

    def delete_artifacts(self: Any, artifact_path: str | None = None) -> Any:
        if artifact_path and is_outside(str(Path(self.artifact_dir, artifact_path)), self.artifact_dir):
            raise refused(f"{artifact_path} leads out of the artifacts by a link, which is not followed")
        return delete(self, artifact_path)

    repository.delete_artifacts = delete_artifacts


def name_outside(uri: str, destination: str) -> None:
    """Say which experiments keep their artifacts elsewhere in the job, from before that was refused."""
    # No LIKE: some drivers take its % for the place of a value.
    query = "SELECT name, artifact_location FROM experiments WHERE substr(artifact_location, 1, 16)"
    others = rows(uri, f"{query} <> 'mlflow-artifacts'")
    found = [f"{name} ({place})" for name, place in others if is_outside(place, destination)]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        say(f"experiments that write outside of the artifacts, {destination}: {', '.join(found[:3])}{more}")


def guard_stores(env: MutableMapping[str, str]) -> None:
    """Guard MLflow's stores in this process and those forked from it."""
    uri, destination = env.get("MLFLOW_BACKEND_STORE_URI", ""), env.get("MLFLOW_ARTIFACTS_DESTINATION", "")
    stores = "mlflow.store.tracking"
    name = "sqlalchemy_store.SqlAlchemyStore" if "://" in uri else "file_store.FileStore"
    try:
        refused = importlib.import_module("mlflow.exceptions").MlflowException.invalid_parameter_value
        module, _, kind = name.partition(".")
        store: Any = getattr(importlib.import_module(f"{stores}.{module}"), kind)
        if "://" in uri:
            guard_history(store, refused)
            guard_bulk(store, refused)
        local: Any = importlib.import_module("mlflow.store.artifact.local_artifact_repo")
        guard_deletion(local.LocalArtifactRepository, refused)
        if env.get("MLFLOW_ACTION_MODE", "").strip().lower() != "ui":
            guard_locations(store, refused, destination)
            if "://" in uri:
                name_outside(uri, destination)
    except Exception as error:
        say(f"MLflow's stores are not guarded, they are not as they are known: {error!r}")
