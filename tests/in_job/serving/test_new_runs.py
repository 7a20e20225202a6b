"""Nobody looks for inputs of a run while it is made, and all who ask later find them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..harness import SCRIPTS, mlflow_python

pytestmark = pytest.mark.e2e
CODE = """
import json, sys
import sqlalchemy
import mlflow.store.tracking.sqlalchemy_store as module
from mlflow.entities import Dataset, DatasetInput
from mlflow.exceptions import MlflowException
from in_job.serving import new_runs
sys.stderr = sys.stdout
store = module.SqlAlchemyStore("sqlite:///mlflow.db", "mlflow-artifacts:/")
asked = []

@sqlalchemy.event.listens_for(store.engine, "before_cursor_execute")
def note(_connection, _cursor, statement, *_rest):
    if "FROM inputs" in statement:
        asked.append(statement)

def make():
    asked.clear()
    run = store.create_run("0", "me", 1, [], "a name")
    return run, len(asked)

"""


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    return tmp_path


def test_a_new_run_is_as_ever_and_inputs_are_found_by_all_who_ask(folder: Path) -> None:
    code = """
plain, before = make()
new_runs.spare_inputs("sqlite:///mlflow.db")
spared, after = make()
texts = [json.dumps(run.to_dictionary()).replace(run.info.run_id, "ID") for run in (plain, spared)]
same = texts[0] == texts[1]
data = DatasetInput(Dataset("a set", "d", "local", "here"), [])
store.log_inputs(spared.info.run_id, [data])
try:
    store.create_run("77", "me", 1, [], "no experiment")
except MlflowException:
    found = [len(store.get_run(spared.info.run_id).inputs.dataset_inputs)]
found += [len(run.inputs.dataset_inputs) for run in store.search_runs(["0"], "", 1, 10)]
print(json.dumps([before, after, same, sorted(found)]))
"""
    said = mlflow_python(CODE + code, cwd=folder, PYTHONPATH=str(SCRIPTS))
    assert json.loads(said.splitlines()[-1]) == [1, 0, True, [0, 1, 1]]


def test_a_store_that_is_not_known_is_left_as_it_is(folder: Path) -> None:
    code = """
module.SqlAlchemyStore._get_run_inputs = look = lambda self, runs: []
create = module.SqlAlchemyStore.create_run
new_runs.spare_inputs("sqlite:///mlflow.db")
del module.SqlAlchemyStore._get_run_inputs
new_runs.spare_inputs("sqlite:///mlflow.db")
new_runs.spare_inputs("a folder")
print(create is module.SqlAlchemyStore.create_run)
"""
    said = mlflow_python(CODE + code, cwd=folder, PYTHONPATH=str(SCRIPTS)).splitlines()
    assert said[-1] == "True"
    [line] = [line for line in said if line.startswith("mlflow-server: ")]
    assert line.startswith("mlflow-server: MLflow looks for inputs of new runs, since its store is not as")
    assert "_get_run_inputs(self, runs)" in line
