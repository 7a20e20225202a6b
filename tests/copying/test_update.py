"""mlflow-update: what was edited is kept, everything else is replaced, and nothing outside is touched."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from common.console import Failure
from copying.installation import as_numbers
from settings import layers
from tests.conftest import ROOT

from .conftest import Host, commit, git, lay, snapshot


@pytest.fixture
def updated(host: Host, newer: Path) -> Host:
    host.install()
    commit(host.root)
    return host


def test_to_a_newer_version(updated: Host, newer: Path) -> None:
    before = snapshot(updated.root)
    lay(updated.root, {"scripts/mlflow/mine.txt": "mine"})
    out, err = updated.update(FROM=str(newer), MLFLOW_DRY_RUN="yes")
    assert not git(updated.root, "diff", "--name-only")
    assert err.endswith("mlflow: nothing has been changed: MLFLOW_DRY_RUN\n")
    shown, err = updated.update(FROM=str(newer))
    assert shown == out
    assert "write open.py\n" in out
    assert "write new_thing.py\n" in out
    assert "drop  flow/drift.py\n" in out
    assert "version 99.1 is installed" in err
    after = snapshot(updated.root)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    names = {"VERSION", "open.py", "new_thing.py", "flow/drift.py", "installed.json", "mine.txt"}
    assert changed == {f"scripts/mlflow/{name}" for name in names}
    _, err = updated.update(FROM=str(newer))
    assert err.endswith("version 99.1 is installed already; nothing to do\n")


def test_edited_files_are_kept(updated: Host, newer: Path) -> None:
    mine = {
        "open.py": "# mine\n",
        "flow/drift.py": "# mine too\n",
        "up.py": "# and mine\n",
        "new_thing.py": "# my own\n",
    }
    lay(updated.folder, mine)
    (updated.folder / "down.py").unlink()
    out, err = updated.update(FROM=str(newer))
    for name, text in mine.items():
        assert (updated.folder / name).read_text() == text
    assert (updated.folder / "open.py.new").read_text() == "# changed\n"
    assert (updated.folder / "new_thing.py.new").read_text() == "# new\n"
    assert "keep  open.py, which was edited here; the new one is open.py.new" in out
    assert "write down.py" in out
    assert not (updated.folder / "up.py.new").exists()  # it is the same in both versions
    for name in ("up.py", "flow/drift.py"):
        assert f"scripts/mlflow/{name} was edited here and stays as it is" in err

    _, err = updated.update(FROM=str(newer))
    assert "nothing to do" in err
    (updated.folder / "open.py").write_text("# changed\n")  # merged
    out, _ = updated.update(FROM=str(newer))
    assert "drop  open.py.new" in out
    assert not (updated.folder / "open.py.new").exists()

    (updated.folder / "new_thing.py.new").write_text("# half merged\n")
    (newer / "scripts/new_thing.py").write_text("# newer\n")
    _, err = updated.update(code=1, FROM=str(newer))
    assert "scripts/mlflow/new_thing.py.new: a .new that was edited is in the way" in err
    (updated.folder / "new_thing.py.new").unlink()
    updated.update(FROM=str(newer))
    assert (updated.folder / "new_thing.py.new").read_text() == "# newer\n"
    _, err = updated.uninstall()
    left = {str(path.relative_to(updated.folder)) for path in updated.folder.rglob("*") if path.is_file()}
    assert left == {"flow/drift.py", "up.py", "new_thing.py"}


def test_a_tag_that_git_fetches(updated: Host, newer: Path) -> None:
    for wanted, message in (
        ("v99.1", "FROM is 'v99.1', and where tags are fetched from is not known"),
        ("", "FROM is ''"),
        (f"file://{newer}@v7", f"git cannot fetch v7 from file://{newer}: "),
        (f"file://{newer}", "FROM is 'file://"),
        ("git@example.org:o/r", "FROM is 'git@example.org:o/r'"),
        ("~nobody-here/x", "FROM is '~nobody-here/x'"),
        (str(updated.root), "not a clone of the toolkit"),
        ("https://me:s3cret@127.0.0.1:1/t@v7", "cannot fetch v7 from https://127.0.0.1:1/t: "),
        ("https://s3cret@127.0.0.1:1/t", "FROM is 'https://127.0.0.1:1/t'"),
        (f"{newer}@v1", "nothing to do"),
    ):
        _, err = updated.update(code=int("nothing" not in message), FROM=wanted)
        assert message in err
        assert "s3cret" not in err
    manifest = updated.folder / "installed.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "origin": f"file://{newer}"}))
    _, err = updated.update(FROM="v99.1")
    assert "version 99.1 is installed" in err
    assert (updated.folder / "new_thing.py").exists()
    assert json.loads(manifest.read_text())["origin"] == f"file://{newer}"
    _, err = updated.update(code=1, FROM="v1")
    assert "is older than 99.1, which is installed" in err
    assert (updated.folder / "new_thing.py").exists()


def test_a_half_installed_copy(updated: Host, newer: Path) -> None:
    (updated.root / "Makefile").write_text("all:\n")
    _, err = updated.update(FROM=str(newer))
    assert "warning: Makefile: no longer has include $(wildcard " in err
    (updated.folder / "installed.json").unlink()
    _, err = updated.update(code=1, FROM=str(newer))
    assert "was not put here by mlflow-install; update or remove it the way it came" in err


def test_without_its_action(updated: Host, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of every other target says that an update brings it back."""
    monkeypatch.setattr(layers, "TOOLKIT_DIR", updated.folder)
    action = updated.folder / "action.yaml"
    action.unlink()
    with pytest.raises(Failure, match=r"mlflow/action\.yaml: action\.yaml is missing; .*mlflow-update"):
        layers.load("up")
    updated.update(FROM=str(newer))
    assert action.read_bytes() == (newer / "action.yaml").read_bytes()
    action.unlink()
    updated.uninstall()
    assert not updated.folder.exists()


def test_the_command_that_an_install_advises(updated: Host, newer: Path) -> None:
    manifest = updated.folder / "installed.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": "0.9"}))
    commit(updated.root)
    clone = newer.with_name("a toolkit")
    newer.rename(clone)
    words = ["make", "-s", "-C", str(clone), "-f", "scripts/mlflow.mk"]
    (clone / ".mlflow").symlink_to(ROOT / ".mlflow")
    run = subprocess.run(
        [*words, "mlflow-install", f"INTO={updated.root}"], capture_output=True, text=True, check=False
    )
    advised = re.search(r"`(make mlflow-update FROM=.*)` there brings this version, 99\.1", run.stderr)
    assert advised
    assert shlex.split(advised[1])[2:] == [f"FROM={clone}"]


def test_a_link_in_the_folder_stays_one(updated: Host, newer: Path) -> None:
    (updated.folder / "here").symlink_to("../../src")
    (updated.folder / "up.py.orig").symlink_to("up.py")
    updated.update(FROM=str(newer))
    assert (updated.folder / "here").readlink() == Path("../../src")
    assert (updated.folder / "up.py.orig").is_symlink()


def test_versions_are_compared_by_their_numbers() -> None:
    assert as_numbers("1.10.0") > as_numbers("v1.9.3") > as_numbers("1.9")
