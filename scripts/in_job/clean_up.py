"""Removing for good what has been deleted: its rows in one transaction, and only after them its artifacts."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from in_job import orphans
from in_job.artifact_location import Artifacts
from in_job.environment import is_on
from in_job.sql import connect
from in_job.store import Store, require_current, require_tables
from in_job.users import drop_grants
from in_job.words import Problem, Progress, explain, say

SHOWN = 50
WORKSPACES = "MLFLOW_ENABLE_WORKSPACES"


def pages(search: Any) -> Iterator[Any]:
    """Yield what a search of MLflow finds, page by page."""
    token: str | None = ""
    while token is not None:
        page = search(token or None)
        yield from page
        token = page.token or None


@contextlib.contextmanager
def one_transaction(tracking: Any, *, check: bool = False) -> Iterator[None]:
    """Make one transaction of all that MLflow's store does meanwhile: its methods have one each otherwise.

    With `check`, SQLite says which table still refers to what was removed: it has no word for that by itself.
    """
    own = getattr(tracking, "ManagedSessionMaker", None)
    if own is None:
        if hasattr(tracking, "engine"):
            raise Problem("the image's MLflow has no transactions that are known: take an older image")
        yield  # a file store
        return
    text = importlib.import_module("sqlalchemy").text
    options = {"read_only": False} if "read_only" in inspect.signature(own).parameters else {}
    with own(**options) as session:
        lite = session.get_bind().dialect.name == "sqlite"
        if lite:
            session.execute(text("BEGIN IMMEDIATE"))  # nobody restores what is looked at from here on
        if lite and check:
            session.execute(text("PRAGMA defer_foreign_keys = ON"))

        @contextlib.contextmanager
        def shared(**_: object) -> Iterator[Any]:
            yield session
            session.flush()
            session.expire_all()

        tracking.ManagedSessionMaker = shared
        try:
            yield
            session.flush()
            left = session.execute(text("PRAGMA foreign_key_check")).fetchall() if lite and check else []
            if left:
                raise Problem(refusal(sorted({row[0] for row in left})))
        finally:
            tracking.ManagedSessionMaker = own


def refusal(tables: list[str]) -> str:
    """Return why rows cannot be removed to which these tables refer, and the way out."""
    what = " and ".join(tables) or "something else"
    return f"{what} in the database refer to it: remove those in MLflow first, then run the same again"


def reason(error: BaseException) -> str:
    """Return in one line why rows could not be removed: a database server names the table."""
    found: BaseException | None = error
    while found:
        if isinstance(found, Problem):
            return str(found)
        said = str(getattr(found, "orig", "")).partition("\n")[0]
        table = re.search(r'on table "(\w+)"$|\.`(\w+)`, CONSTRAINT', said)
        if table:
            return refusal([table[1] or table[2]])
        found = found.__cause__
    return explain(error) if isinstance(error, Exception) else str(error)


class CleanUp:
    """What is in the state deleted in one workspace, and its removal."""

    def __init__(self, store: Store, tracking: Any, task: dict[str, Any]) -> None:
        self.store, self.tracking, self.force = store, tracking, bool(task["force"])
        self.views = importlib.import_module("mlflow.entities").ViewType
        self.milliseconds = task["older_than"] * 1000
        self.shown: list[dict[str, Any]] = []
        self.totals = {"run": 0, "model": 0, "experiment": 0, "bytes": 0}
        self.refused: list[str] = []
        self.progress = Progress("removed" if self.force else "looked at")

    # Clients restore what is deleted at any time, so each is looked at once more right before it goes.
    def run_is_deleted(self, run: str) -> bool:
        """Tell whether a run is still in the state deleted."""
        return bool(self.tracking.get_run(run).info.lifecycle_stage == "deleted")

    def model_is_deleted(self, model: str) -> bool:
        """Tell it of a logged model."""
        found = self.tracking.get_logged_model(model, allow_deleted=True)
        with contextlib.suppress(importlib.import_module("mlflow.exceptions").MlflowException):
            self.tracking.get_logged_model(model)
            return False
        return bool(found)

    def experiment_is_deleted(self, identifier: str) -> bool:
        """Tell it of an experiment and of all runs in it."""
        if self.tracking.get_experiment(identifier).lifecycle_stage != "deleted":
            return False
        active = self.tracking.search_runs([identifier], "", self.views.ACTIVE_ONLY, max_results=1)
        if active:
            run = active[0].info.run_id
            say(f"the deleted experiment {identifier} stays: run {run} in it is not deleted")
        return not active

    def found(self) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the experiments, runs and models that are deleted for long enough."""
        tracking, before = self.tracking, time.time() * 1000 - self.milliseconds
        listed = pages(lambda token: tracking.search_experiments(self.views.DELETED_ONLY, page_token=token))
        experiments = [
            experiment
            for experiment in listed
            if not self.milliseconds or (experiment.last_update_time or 0) <= before
            if self.experiment_is_deleted(experiment.experiment_id)
        ]
        runs = list(tracking._get_deleted_runs(older_than=self.milliseconds))
        if experiments:
            ids = [experiment.experiment_id for experiment in experiments]
            deleted = pages(
                lambda token: tracking.search_runs(ids, "", self.views.DELETED_ONLY, page_token=token)
            )
            runs += [run.info.run_id for run in deleted]
        find: Any = getattr(tracking, "_get_deleted_logged_models", lambda **_: [])
        models = [
            tracking.get_logged_model(m, allow_deleted=True) for m in find(older_than=self.milliseconds)
        ]
        return experiments, [tracking.get_run(run).info for run in dict.fromkeys(runs)], models

    def do(self) -> None:
        """Show, and with `force` remove, first what is deleted by itself, then each experiment as a whole."""
        experiments, runs, models = self.found()
        whole = {experiment.experiment_id for experiment in experiments}
        inside: dict[str, list[tuple[str, str, str, str]]] = {identifier: [] for identifier in whole}
        alone: list[tuple[str, str, str, str]] = []
        for info in runs:
            item = ("run", info.run_id, info.run_name or "", info.artifact_uri)
            inside.get(info.experiment_id, alone).append(item)
        for model in models:
            item = ("model", model.model_id, model.name, model.artifact_location)
            inside.get(model.experiment_id, alone).append(item)
        for item in alone:
            self.handle([item])
        for experiment in experiments:
            identifier, location = experiment.experiment_id, experiment.artifact_location or ""
            # Where it has a folder of its own, that goes whole, with what traces and other models have in it.
            own = location.startswith("mlflow-artifacts:") and location.endswith(f"/{identifier}")
            item = ("experiment", identifier, experiment.name, location if own else "")
            if not self.handle([*inside[identifier], item]):
                for each in inside[identifier]:
                    self.handle([each])

    def handle(self, items: list[tuple[str, str, str, str]]) -> bool:
        """Show or remove things that belong together; return False where the last of them is there again."""
        artifacts = [Artifacts(self.store, location) if location else None for *_, location in items]
        sizes = [found.size() if found else 0 for found in artifacts]
        kind, identifier = items[-1][:2]
        if kind == "experiment":
            sizes[-1] = max(sizes[-1] - sum(sizes[:-1]), 0)
        if self.force:
            entries = [found.entries() if found else [] for found in artifacts]
            try:
                there = self.remove_rows(items)
            except Exception as error:
                self.refused.append(f"the deleted {kind} {identifier} stays: {reason(error)}")
                say(self.refused[-1])
                return True
            if not there:
                return False
            for location, listed in zip(artifacts, entries):
                if location:
                    location.delete(listed)
        elif not getattr(self, f"{kind}_is_deleted")(identifier):
            return False
        for (what, name, words, _), size in zip(items, sizes):
            self.totals[what] += 1
            self.totals["bytes"] += size
            if len(self.shown) < SHOWN:
                self.shown.append({"kind": what, "id": name, "name": words, "bytes": size})
            self.progress(1)
        return True

    def remove_rows(self, items: list[tuple[str, str, str, str]]) -> bool:
        """Remove the rows of all, or of none; return False where one of them is not deleted any more."""
        for check in (False, True):
            try:
                with one_transaction(self.tracking, check=check):
                    for kind, identifier, *_ in items[::-1]:
                        if not getattr(self, f"{kind}_is_deleted")(identifier):
                            return False
                    for kind, identifier, *_ in items:
                        delete = f"_hard_delete_{'logged_' * (kind == 'model')}{kind}"
                        getattr(self.tracking, delete)(identifier)
                    if not check:  # else it will be refused; and before anybody can make a new one
                        gone = [identifier for kind, identifier, *_ in items if kind == "experiment"]
                        drop_grants(self.store.env, self.store.uri, gone)
                return True
            except Exception:
                if check:
                    raise
        return True


def uses_workspaces(store: Store) -> bool:
    """Tell whether the server has workspaces on, or left something in another one than the default."""
    extra = os.environ.get("MLFLOW_ACTION_EXTRA_PARAMS", "")
    if "--enable-workspaces" in extra or is_on(os.environ, WORKSPACES):
        return True
    if not store.is_database or "workspaces" not in store.counts():
        return False
    with connect(store.uri) as session:
        tables = ("experiments", "registered_models", "webhooks")
        query = "SELECT count(*) FROM {} WHERE workspace <> 'default'"
        return any(session.exec_driver_sql(query.format(table)).scalar() for table in tables)


def workspaces(store: Store) -> list[str]:
    """Return the names of the workspaces, those of rows too; "" alone where the store has none."""
    if os.environ.get(WORKSPACES) != "true":
        return [""]
    with connect(store.uri) as session:
        query = "SELECT name FROM workspaces UNION SELECT DISTINCT workspace FROM experiments"
        return [name for (name,) in session.exec_driver_sql(query) if name] or ["default"]


def clean_up(store: Store, folder: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return what has been deleted for `older_than` seconds; with `force` remove it for good.

    Not by `mlflow gc`, which wants a server that runs for proxied artifacts, but by what it calls.
    """
    revision = require_tables(store)
    if store.is_database:
        require_current(store, revision)
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    if uses_workspaces(store):
        os.environ[WORKSPACES] = "true"
    tracking = importlib.import_module("mlflow.cli")._get_store(store.uri, store.destination)
    work = CleanUp(store, tracking, task)
    for name in workspaces(store):
        with contextlib.ExitStack() as stack:
            if name:
                context = importlib.import_module("mlflow.utils.workspace_context").WorkspaceContext
                stack.enter_context(context(name))
            work.do()
    note = not task.get("dry_run")
    found = orphans.find(store, folder, task["older_than"], note=note) if store.is_database else []
    old = [orphan for orphan in found if orphan["old"]]
    if task["force"]:
        old = orphans.remove(store, old)
    return {
        "found": work.shown,
        "totals": work.totals,
        "refused": work.refused,
        "orphans": old[:SHOWN],
        "orphaned": {"folders": len(old), "bytes": sum(orphan["bytes"] for orphan in old)},
        "young": len(found) - len(old),
    }
