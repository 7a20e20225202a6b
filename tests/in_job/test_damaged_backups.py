"""A damaged backup is refused, and nothing changes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MakePlace

pytestmark = pytest.mark.e2e
Members = dict[str, bytes]


def members(backup: Path) -> Members:
    with zipfile.ZipFile(backup) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(found: Members, *extra: zipfile.ZipInfo) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content_ in found.items():
            archive.writestr(name, content_)
        for info in extra:
            archive.writestr(info, b"/etc/passwd")
    return data.getvalue()


def with_manifest(found: Members, **changes: object) -> bytes:
    manifest = {**json.loads(found["manifest.json"]), **changes}
    return zipped({**found, "manifest.json": json.dumps(manifest).encode()})


def with_member(found: Members, name: str) -> bytes:
    """An extra member that the manifest names, as somebody who means harm would make it."""
    sums = {**json.loads(found["manifest.json"])["sha256"], name: hashlib.sha256(b"x").hexdigest()}
    return with_manifest({**found, name: b"x"}, sha256=sums)


def symlink(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def flipped(backup: bytes, where: int) -> bytes:
    return backup[:where] + bytes([backup[where] ^ 1]) + backup[where + 1 :]


DAMAGES: dict[str, Callable[[bytes, Members], bytes]] = {
    "a flipped bit of the database": lambda data, _: flipped(data, 1000),
    "a flipped bit of an artifact": lambda _, found: zipped({**found, "artifacts/b": b"twp"}),
    "truncated": lambda data, _: data[:-1000],
    "half": lambda data, _: data[: len(data) // 2],
    "empty": lambda *_: b"",
    "text": lambda *_: b"SELECT 1;\n" * 1000,
    "no manifest": lambda _, found: zipped({k: v for k, v in found.items() if k != "manifest.json"}),
    "no JSON": lambda _, found: zipped({**found, "manifest.json": b"{"}),
    "a list": lambda _, found: zipped({**found, "manifest.json": b"[1]"}),
    "another format": lambda _, found: with_manifest(found, format=3),
    "no counts": lambda _, found: with_manifest(found, counts=None),
    "other counts": lambda _, found: with_manifest(found, counts={"runs": 10**6}),
    "no database": lambda _, found: zipped({k: v for k, v in found.items() if k != "tracking.db"}),
    "another database": lambda _, found: zipped({**found, "tracking.db": found["tracking.db"][:-1] + b"!"}),
    "an artifact less": lambda _, found: zipped({k: v for k, v in found.items() if k != "artifacts/b"}),
    "an extra member": lambda _, found: zipped({**found, "artifacts/more": b"x"}),
    "a symlink": lambda _, found: zipped(found, symlink("artifacts/link")),
    "..": lambda _, found: with_member(found, "artifacts/../../up"),
    "absolute": lambda _, found: with_member(found, "artifacts//tmp/absolute"),
    "elsewhere": lambda _, found: with_member(found, "elsewhere"),
}


def test_a_damaged_backup_is_refused_and_nothing_changes(
    backup: Path, filled: Path, place: MakePlace
) -> None:
    data, found = backup.read_bytes(), members(backup)
    store = place()
    shutil.copyfile(filled, store.path)
    store.query("DELETE FROM tags")
    before = store.path.read_bytes()
    store.backups.mkdir()
    for name, change in DAMAGES.items():
        (store.backups / "bad.zip").write_bytes(change(data, found))
        for force in (False, True):
            error = store.refused("restore", source="bad.zip", force=force, check=False)
            assert error.startswith("bad.zip ") or "changed" in error, (name, error)
            assert "MLFLOW_FORCE" not in error, name
    assert store.refused("restore", source="none.zip", force=True, check=False).startswith(
        "there is no backup"
    )
    assert store.path.read_bytes() == before
    assert sorted(path.name for path in store.folder.iterdir()) == [
        ".mlflow.db.store",
        ".mlflow.db.used",
        "backups",
        "mlflow.db",
    ]
    assert [path.name for path in store.backups.iterdir()] == ["bad.zip"]
