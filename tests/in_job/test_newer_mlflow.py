"""What becomes of ours where MLflow is not as it is known: it is left out with a line, or refused in time."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from in_job import clean_up, keys
from in_job.words import Problem


def test_a_server_starts_though_gateway_secrets_cannot_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE secrets (wrapped_dek, kek_version)")
        database.execute("INSERT INTO secrets VALUES ('', 1)")
    monkeypatch.setitem(sys.modules, "mlflow.utils.crypto", ModuleType("crypto"))
    kept = {keys.GATEWAY: "passphrase"}
    assert keys.opening(f"sqlite:///{path}", kept, {}) == kept
    said = capsys.readouterr().err
    assert said.startswith("mlflow-server: gateway secrets are not looked into")
    assert said.count("\n") == 1


def test_nothing_is_removed_where_it_would_not_be_one_transaction() -> None:
    store = SimpleNamespace(engine="of SQLAlchemy")
    refused = pytest.raises(Problem, match="no transactions that are known: take an older image")
    with refused, clean_up.one_transaction(store):
        pytest.fail("it goes on")
    with clean_up.one_transaction(SimpleNamespace()):
        pass
