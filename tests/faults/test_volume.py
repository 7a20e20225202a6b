"""What can be wrong with a volume: full, read-only, forbidden, damaged; a clock that jumps; two servers."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.in_job.harness import (
    OLD_REVISION,
    StartServer,
    needed,
    old_database,
    prepare,
    preparing,
    revision,
)

from .conftest import Fault, MakeFault
from .harness import Ledger, SQLite, fill, namespaces, writing

pytestmark = pytest.mark.e2e
Refused = Callable[..., str]
Mount = Callable[..., Path]
FREE = "free space on the volume"
CORRUPT = "the database is corrupt, restore a backup"


def damaged(kind: str, data: bytes, fault: Fault) -> bytes:
    """Return a database's file as it is after one kind of accident."""
    if kind == "truncated":
        return data[: fault.random.randrange(1, len(data))]
    return fault.random.randbytes(len(data)) if kind == "garbage" else data[:100] + bytes(4000) + data[4100:]


@pytest.mark.parametrize("kind", ["garbage", "truncated", "first page lost"])
def test_a_damaged_database_is_refused(
    kind: str, ready_volume: Path, refused: Refused, fault: MakeFault
) -> None:
    path = ready_volume / "mlflow.db"
    data = path.read_bytes()
    with fault(f"the database is damaged: {kind}") as row:
        for _ in row.tries():
            path.write_bytes(before := damaged(kind, data, row))
            line = refused(ready_volume)
            assert line.startswith(f"{path}: ")
            assert line.endswith(CORRUPT)
            assert path.read_bytes() == before
        row.ended = "refused in one line, nothing touched"


def test_a_database_of_the_future_is_left_alone(
    ready_volume: Path, refused: Refused, fault: MakeFault
) -> None:
    path = ready_volume / "mlflow.db"
    with fault("a database of the future") as row:
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        before = path.read_bytes()
        for _ in row.tries(full=1):
            line = refused(ready_volume)
            assert line.startswith(f"{path} has the schema ffffffffffff of a newer MLflow; nothing changed")
            assert path.read_bytes() == before
        row.ended = "refused in one line, nothing touched"


def test_a_corrupt_old_database_is_not_upgraded(volume: Path, refused: Refused, fault: MakeFault) -> None:
    with fault("the upgrade of a database that is corrupt inside") as row:
        for _ in row.tries(full=5):
            path = old_database(volume / "mlflow.db")
            with closing(sqlite3.connect(path)) as database:
                table = row.random.choice(["metrics", "runs", "params", "tags", "latest_metrics"])
                sql = f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'"
                [page] = database.execute(sql).fetchone()
                [size] = database.execute("PRAGMA page_size").fetchone()
            with path.open("r+b") as file:
                file.seek((page - 1) * size)
                file.write(b"\xff" * size)
            before = path.read_bytes()
            assert refused(volume).endswith(CORRUPT)
            assert path.read_bytes() == before
            path.unlink()
        row.ended = "refused in one line, nothing touched"


def test_a_read_only_volume_is_refused(
    mount: Mount, template: Path, refused: Refused, fault: MakeFault
) -> None:
    volume = mount("size=8m")
    shutil.copyfile(template, volume / "mlflow.db")
    (volume / "artifacts").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(volume)], check=True)
    with fault("the volume is read-only") as row:
        for destination in (volume, volume / "new"):
            for _ in row.tries(full=1):
                line = refused(destination)
                assert str(destination) in line
                assert line.endswith("mount the volume writable (:rw)")
        row.ended = "refused in one line"


@pytest.mark.parametrize(("what", "mode"), [("mlflow.db", 0o444), ("mlflow.db", 0), (".", 0o555), (".", 0)])
def test_a_forbidden_volume_is_refused(
    what: str, mode: int, ready_volume: Path, refused: Refused, fault: MakeFault
) -> None:
    setpriv = (
        needed("setpriv", "apt-get install util-linux"),
        "--bounding-set=-dac_override,-dac_read_search",
    )
    obedient = () if os.geteuid() else setpriv  # root needs no permission as long as it may override them
    path = ready_volume / what
    with fault(f"permission denied: {what} has mode {mode:03o}") as row:
        for _ in row.tries(full=1):
            path.chmod(mode)
            line = refused(ready_volume, prefix=obedient)
            path.chmod(0o755)
            assert str(ready_volume) in line
            assert line.endswith("mount the volume writable (:rw)")
        row.ended = "refused in one line"


def test_a_first_start_on_a_full_volume(mount: Mount, refused: Refused, fault: MakeFault) -> None:
    volume = mount("size=2m")
    path = volume / "mlflow.db"
    with fault("disk full at first start") as row:
        for space in row.pick((200_000,), (0, 4096, 100_000, 200_000, 400_000)):
            row.tried += 1
            filler = fill(volume, space)
            (volume / "artifacts").mkdir(exist_ok=True)
            assert refused(volume).endswith(FREE)
            assert not path.exists() or path.stat().st_size == 0
            filler.unlink()
        row.ended = "refused in one line"
    with fault("the database is an empty file") as row:
        for _ in row.tries(full=1):
            path.touch()
            prepare(path)
            assert SQLite(path).damage() == []
        row.ended = "made anew"


def test_an_upgrade_on_a_full_volume(mount: Mount, fault: MakeFault) -> None:
    with fault("disk full while upgrading") as row:
        volume = mount("size=4m")
        ends = {"old": 0, "new": 0}
        for _ in row.tries():
            path = old_database(volume / "mlflow.db")
            filler = fill(volume, row.random.randrange(3_000_000))
            process = preparing(path)
            said = process.communicate(timeout=120)[1]
            filler.unlink()
            assert SQLite(path).query("PRAGMA integrity_check") == [("ok",)]
            assert len(SQLite(path).query("SELECT * FROM params")) == 2
            if process.returncode:
                assert FREE in said
                assert revision(path) == OLD_REVISION
                prepare(path)
            ends["old" if process.returncode else "new"] += 1
            assert revision(path) != OLD_REVISION
            assert not list(volume.rglob("*.part"))
            shutil.rmtree(volume / "backups")
            for left in volume.glob("mlflow.db*"):
                left.unlink()
        row.ended = "{old} refused, {new} had space enough; the next call finished".format(**ends)


def test_under_a_running_server(
    mount: Mount, template: Path, clock: Path, start: StartServer, tmp_path: Path, fault: MakeFault
) -> None:
    volume = mount("size=16m")
    shutil.copyfile(template, volume / "mlflow.db")
    store, ledger, offset = SQLite(volume / "mlflow.db"), Ledger(), tmp_path / "offset"
    preload = {"LD_PRELOAD": str(clock), "CLOCK_OFFSET": str(offset)}
    one = start(volume, **preload).wait_until_up()
    addresses = [("127.0.0.1", one.port)]

    def check(row: Fault) -> None:
        lost = ledger.lost(store, volume / "artifacts")
        row.lost += len(lost)
        assert (lost, store.damage()) == ([], [])

    with fault("disk full while 16 clients log") as row:
        for _ in row.tries():
            with writing(ledger, *addresses) as clients:
                clients.until(20)
                time.sleep(row.random.uniform(0, 0.5))
                filler = fill(volume)
                clients.until_refused(20)
                filler.unlink()
                clients.until(100)
            check(row)
        assert {error.partition(" ")[0] for error in ledger.errors} <= {"400", "500", "503", "507"}
        row.ended = f"refused {len(ledger.errors)} requests, served on when there was space"
    ledger.errors.clear()

    with fault("the clock jumps while 16 clients log") as row:
        with writing(ledger, *addresses) as clients:
            for days in (1, -1, 400, -400, -15_000, 0) * (4 if row.full else 1):
                row.tried += 1
                clients.until(10)
                offset.write_text(str(days * 86_400))
                clients.until(10)
        check(row)
        assert ledger.errors == []
        row.ended = "no error"

    with fault("two servers on one SQLite, one is killed") as row:
        for _ in row.tries(full=5):
            two = start(volume, prefix=namespaces()).wait_until_up()
            with writing(ledger, *addresses, ("127.0.0.1", two.port)) as clients:
                clients.until(100)
                assert ledger.errors == []
                os.kill(two.pid, signal.SIGKILL)
                clients.until(20)
            check(row)
            ledger.errors.clear()
        row.ended = "no error but of the one that was killed"
    assert one.stop() == 0
