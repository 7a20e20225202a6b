"""mlflow-uninstall: what stays, and what is in its way."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from copying import transaction
from tests.conftest import ROOT

from .conftest import FILES, Host, change, git, lay, snapshot


def test_what_was_edited_stays_at_uninstall(host: Host) -> None:
    host.install()
    lay(host.root, {"scripts/mlflow/mine/notes.txt": "mine", "scripts/mlflow/up.py": "edited\n"})
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("/artifacts", "/elsewhere"))
    makefile = host.root / "Makefile"
    makefile.write_text(makefile.read_text() + "more: ; @echo more\n")
    edited = live.read_text()
    _, err = host.uninstall()
    assert re.search(r"\.neuro/live\.yaml:\d+: mlflow_server was edited here: it stays", err)
    assert "scripts/mlflow/mine/notes.txt: edited here or not ours: it stays" in err
    left = live.read_text()
    assert {line for line in edited.splitlines() if "model" not in line} >= set(left.splitlines())
    assert "/elsewhere" in left
    assert "mlflow_model" not in left
    assert makefile.read_text() == FILES["Makefile"] + "more: ; @echo more\n"
    assert transaction.files_below(host.root / "scripts") == ["mlflow/mine/notes.txt", "mlflow/up.py"]


def test_a_job_that_got_a_setting_stays_with_its_volume(host: Host) -> None:
    host.install()
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("    args:\n", "    args:\n      http_auth: True\n"))
    edited = live.read_text()
    lines = {line.strip(): number for number, line in enumerate(edited.splitlines(), 1)}
    _, err = host.uninstall()
    assert live.read_text() == edited
    for line, what in (
        ("mlflow_server:", "mlflow_server was edited here: it stays"),
        ("mlflow:", "mlflow is used by mlflow_server: it stays"),
        ("action: ws:.mlflow/action.yaml", "calls ws:.mlflow/action.yaml, which no target makes any more"),
    ):
        assert f".neuro/live.yaml:{lines[line]}: {what}; " in err
    assert "refers to" not in err


def test_a_job_that_was_renamed_is_named(host: Host) -> None:
    host.install()
    change(".neuro/live.yaml", "mlflow_server:", "tracking:")(host.root)
    _, err = host.uninstall()
    assert "calls ws:.mlflow/action.yaml, which no target makes any more" in err
    assert err.count("refers to what is taken out") == 3


def test_a_file_that_was_renamed_is_named(host: Host) -> None:
    host.install()
    (host.root / ".neuro").rename(host.root / ".apolo")
    (host.root / "Makefile").rename(host.root / "GNUmakefile")
    _, err = host.uninstall()
    for line in (".neuro/live.yaml: {}: mlflow, mlflow_mod", "Makefile: {}: include $(wildcard "):
        assert line.format("not there any more; if it was renamed, take our part out there") in err


def test_from_a_folder_above_nothing_is_taken_out(host: Host) -> None:
    host.install()
    above = Host(host.root.parent, host._patch, host._capsys)
    lay(above.root, {".gitignore": "/.mlflow\n"})
    before = snapshot(above.root)
    for target in (above.update, above.uninstall):
        _, err = target(code=1, DIR=f"{host.root.name}/scripts/mlflow", FROM=str(ROOT))
        assert "call make in the folder of the Makefile that includes it: make -C FOLDER" in err
        assert snapshot(above.root) == before


def test_uninstall_names_what_would_miss_it(host: Host) -> None:
    host.install()
    live = host.root / ".neuro/live.yaml"
    live.write_text(live.read_text().replace("bash: echo", 'volumes: ["${{ volumes.mlflow.ref_rw }}"]'))
    makefile = host.root / "Makefile"
    whole = makefile.read_text()
    makefile.write_text(whole.replace("include $(wildcard", "-include $(wildcard"))
    before = snapshot(host.root)
    _, err = host.uninstall(code=1)
    assert "Makefile:4: still includes the toolkit; take that line out" in err
    assert snapshot(host.root) == before
    makefile.write_text(whole)
    _, err = host.uninstall()
    assert re.search(r"live\.yaml:\d+: refers to what is taken out", err)


def test_an_install_by_half_is_recognised(host: Host) -> None:
    before = snapshot(host.root)
    host.install()
    git(host.root, "checkout", "--quiet", "Makefile", ".neuro")
    _, err = host.install(code=1)
    assert "Makefile: no longer has include $(wildcard" in err
    assert ".neuro/live.yaml: no longer has mlflow_server; put it back, or uninstall" in err
    host.uninstall()
    assert snapshot(host.root) == before


def test_uninstall_replaces_no_symlink_and_nothing_read_only(host: Host) -> None:
    host.install()
    (host.root / "Makefile").rename(host.root / "build.mk")
    (host.root / "Makefile").symlink_to("build.mk")
    (host.root / ".gitignore").chmod(0o444)
    before = snapshot(host.root)
    _, err = host.uninstall(code=1)
    assert "Makefile: a symlink to build.mk" in err
    assert ".gitignore: read-only" in err
    assert snapshot(host.root) == before


def test_what_cannot_be_uninstalled(host: Host) -> None:
    _, err = host.uninstall(code=1)
    assert "was not put here by mlflow-install" in err
    host.install()
    (host.folder / "installed.json").write_text("<<<<<<< HEAD\n")
    _, err = host.uninstall(code=1)
    assert "installed.json: not a manifest; restore it with git" in err
    git(host.root, "checkout", ".")
    (host.folder / "installed.json").unlink()
    _, err = host.uninstall(code=1)
    assert "was not put here" in err


def test_a_folder_that_cannot_be_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(host.root)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    monkeypatch.setattr(transaction, "_write", full)
    _, err = host.install(code=1)
    assert "No space left on device; nothing has been changed" in err
    assert snapshot(host.root) == before
    assert not (host.root / ".mlflow").exists()
