"""A run that is being made has no inputs yet, but MLflow looks for them: a third of the work for a run."""

from __future__ import annotations

import contextvars
import importlib
import inspect
from typing import Any

from in_job.words import say


def spare_inputs(uri: str) -> None:
    """Let MLflow's store in a database look for no inputs of a run while it makes it."""
    if "://" not in uri:
        return
    try:
        store: Any = importlib.import_module("mlflow.store.tracking.sqlalchemy_store").SqlAlchemyStore
        create, look = store.create_run, getattr(store, "_get_run_inputs", None)
        if look is None:  # an older MLflow
            return
        if list(inspect.signature(look).parameters) != ["self", "session", "run_uuids"]:
            raise TypeError(f"_get_run_inputs{inspect.signature(look)}")
        is_new = contextvars.ContextVar("is_new", default=False)

        def create_run(self: Any, *arguments: Any, **options: Any) -> Any:
            token = is_new.set(True)
            try:
                return create(self, *arguments, **options)
            finally:
                is_new.reset(token)

        def _get_run_inputs(self: Any, session: Any, run_uuids: list[str]) -> Any:
            if is_new.get() and len(run_uuids) == 1:
                return [[]]
            return look(self, session, run_uuids)

        store.create_run, store._get_run_inputs = create_run, _get_run_inputs
    except Exception as error:
        say(f"MLflow looks for inputs of new runs, since its store is not as it is known: {error!r}")
