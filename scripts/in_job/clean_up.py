"""Removing for good what has been deleted."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from in_job.artifact_location import Artifacts
from in_job.store import Store, require_current, require_tables
from in_job.words import Progress, say

SHOWN = 50


def pages(search: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield what a search of MLflow finds, page by page."""
    token: str | None = ""
    while token is not None:
        page = search(token or None)
        yield from page
        token = page.token or None


def clean_up(store: Store, _: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return what has been deleted for `older_than` seconds; with `force` remove it for good.

    Not by `mlflow gc`, which wants a server that runs for proxied artifacts, but by what it calls.
    """
    revision = require_tables(store)
    if store.is_database:
        require_current(store, revision)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    tracking = importlib.import_module("mlflow.cli")._get_store(store.uri, store.destination)
    views = importlib.import_module("mlflow.entities").ViewType
    refused = importlib.import_module("mlflow.exceptions").MlflowException
    milliseconds = task["older_than"] * 1000
    before = time.time() * 1000 - milliseconds

    # Clients restore what is deleted at any time, so each is looked at once more right before it goes.
    def run_is_deleted(run: str) -> bool:
        return bool(tracking.get_run(run).info.lifecycle_stage == "deleted")

    def model_is_deleted(model: str) -> bool:
        with contextlib.suppress(refused):
            tracking.get_logged_model(model)
            return False
        return True

    def experiment_is_deleted(identifier: str) -> bool:
        if tracking.get_experiment(identifier).lifecycle_stage != "deleted":
            return False
        active = tracking.search_runs([identifier], "", views.ACTIVE_ONLY, max_results=1)
        if active:
            say(
                f"the deleted experiment {identifier} stays: run {active[0].info.run_id} in it is not deleted"
            )
        return not active

    experiments = [
        experiment
        for experiment in pages(
            lambda token: tracking.search_experiments(views.DELETED_ONLY, page_token=token)
        )
        if not milliseconds or (experiment.last_update_time or 0) <= before
        if experiment_is_deleted(experiment.experiment_id)
    ]
    runs = list(tracking._get_deleted_runs(older_than=milliseconds))
    if experiments:
        ids = [experiment.experiment_id for experiment in experiments]
        found = pages(lambda token: tracking.search_runs(ids, "", views.DELETED_ONLY, page_token=token))
        runs += [run.info.run_id for run in found]
    models: list[str] = getattr(tracking, "_get_deleted_logged_models", lambda **_: [])(
        older_than=milliseconds
    )
    still_deleted = {"run": run_is_deleted, "model": model_is_deleted, "experiment": experiment_is_deleted}
    shown: list[dict[str, Any]] = []
    totals = {"run": 0, "model": 0, "experiment": 0, "bytes": 0}
    counted: dict[str, int] = {}  # bytes in an experiment that its runs and models have been shown with
    progress = Progress("removed" if task["force"] else "looked at")

    def handle(kind: str, identifier: str, name: str, experiment: str, location: str) -> None:
        artifacts = Artifacts(store, location) if location else None
        size = artifacts.size() if artifacts else 0
        if not still_deleted[kind](identifier):
            return
        if task["force"]:
            if artifacts:
                artifacts.delete()
            getattr(tracking, f"_hard_delete_{'logged_' * (kind == 'model')}{kind}")(identifier)
        elif kind == "experiment":
            size = max(size - counted.get(experiment, 0), 0)
        counted[experiment] = counted.get(experiment, 0) + size
        totals[kind] += 1
        totals["bytes"] += size
        if len(shown) < SHOWN:
            shown.append({"kind": kind, "id": identifier, "name": name, "bytes": size})
        progress(1)

    for info in (tracking.get_run(run).info for run in dict.fromkeys(runs)):
        handle("run", info.run_id, info.run_name or "", info.experiment_id, info.artifact_uri)
    for model in (tracking.get_logged_model(model, allow_deleted=True) for model in models):
        handle("model", model.model_id, model.name, model.experiment_id, model.artifact_location)
    for experiment in experiments:
        identifier, location = experiment.experiment_id, experiment.artifact_location or ""
        # Where it has a folder of its own, that goes whole, with what its traces and other models have in it.
        own = location.startswith("mlflow-artifacts:") and location.endswith(f"/{identifier}")
        handle("experiment", identifier, experiment.name, identifier, location if own else "")
    return {"found": shown, "totals": totals}
