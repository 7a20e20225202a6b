"""Which folder is served, and what lies beside a store."""

from __future__ import annotations

from pathlib import Path

import pytest

from in_job import artifact_folder


def test_artifacts_of_a_fresh_volume_are_apart_from_the_database(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    assert artifact_folder.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm", ".mlflow.db.upgrade"):
        (tmp_path / name).touch()
    (tmp_path / "backups").mkdir()
    assert artifact_folder.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"


def test_artifacts_beside_an_old_database_stay_served_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").touch()
    (tmp_path / "1").mkdir()
    assert artifact_folder.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path
    said = capsys.readouterr().err
    assert "WARNING: the database" in said
    assert "make the folder" in said


def test_artifacts_beside_a_database_that_is_not_there_yet_do_not_expose_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1").mkdir()
    for _ in ("first start", "later start"):
        assert artifact_folder.artifacts_folder(tmp_path, tmp_path / "mlflow.db") == tmp_path / "artifacts"
        assert f"not served: 1 in {tmp_path}" in capsys.readouterr().err
        (tmp_path / "mlflow.db").touch()


def test_a_link_does_not_hide_that_the_database_is_inside(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    found = artifact_folder.artifacts_folder(tmp_path / "link", tmp_path / "volume" / "mlflow.db")
    assert found == tmp_path / "link" / "artifacts"


def test_a_database_elsewhere_leaves_the_destination_alone(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    assert (
        artifact_folder.artifacts_folder(tmp_path / "served", tmp_path / "mlflow.db") == tmp_path / "served"
    )
    assert (
        artifact_folder.artifacts_folder(tmp_path / "served", tmp_path / "served2" / "m.db")
        == tmp_path / "served"
    )
    assert list((tmp_path / "served").iterdir()) == []


def test_a_name_that_merely_begins_like_the_folder_of_the_store_is_an_artifact(tmp_path: Path) -> None:
    artifacts = ["0", "m.db", "models", "my-exp"]
    for name in (*artifacts, "m", "mlruns", "backups", ".hidden"):
        (tmp_path / name).mkdir()
    store = tmp_path / "m" / "mlflow.db"
    store.touch()
    assert artifact_folder.beside(tmp_path, store) == artifacts
    for name in ("mlflow.db", "mlflow.db-wal", "mlflow.db.bak", "mlflow"):
        (tmp_path / name).touch()
    assert artifact_folder.beside(tmp_path, tmp_path / "mlflow.db") == sorted([*artifacts, "m", "mlflow"])
    (tmp_path / "link.db").symlink_to(tmp_path / "mlflow.db")
    assert artifact_folder.beside(tmp_path, tmp_path / "link.db") == sorted([*artifacts, "m", "mlflow"])
