"""Set-up: a virtual environment from a lock file, once."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import ROOT
from tests.e2e.screen import changing, on_terminal

LOCK = (ROOT / "scripts/requirements.lock").read_text(encoding="utf-8")


def pinned(package: str) -> str:
    """Return one package's lines of the real lock file."""
    found = re.search(rf"(?m)^{package}==.*(?:\n .*)*\n", LOCK)
    assert found
    return found[0]


class Toolkit:
    """A folder with bootstrap.sh and small lock files, and a workspace with a blank in its name."""

    def __init__(self, folder: Path) -> None:
        self.scripts = folder / "the toolkit"
        self.workspace = folder / "a workspace"
        self.home = folder / "home"
        for made in (self.scripts, self.workspace, self.home):
            made.mkdir()
        for name in ("bootstrap.sh", "start.py", "uv.lock"):
            shutil.copy(ROOT / "scripts" / name, self.scripts)
        (self.scripts / "requirements.lock").write_text(pinned("toml"))
        (self.scripts / "words").mkdir()
        (self.scripts / "words/said.py").write_text("import sys, toml; print(sys.argv[1:])")
        (self.scripts / "hello.py").write_text("import words.said, sys; sys.exit(7)")

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """Start bootstrap.sh in the workspace."""
        return subprocess.Popen(
            ["bash", str(self.scripts / "bootstrap.sh"), *words],
            cwd=self.workspace,
            env={**os.environ, "HOME": str(self.home), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def lend_venv(self) -> None:
        """Take this repository's environment for the workspace's."""
        shutil.copy(ROOT / "scripts/requirements.lock", self.scripts)
        (self.workspace / ".mlflow").mkdir()
        (self.workspace / ".mlflow/venv").symlink_to(ROOT / ".mlflow/venv")

    def run(self, *words: str, **env: str) -> tuple[int, str, str]:
        """Run bootstrap.sh in the workspace; return exit code, stdout, stderr."""
        process = self.start(*words, **env)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


@pytest.fixture
def toolkit(tmp_path: Path) -> Toolkit:
    return Toolkit(tmp_path)


@pytest.mark.e2e
def test_once_then_again_only_for_a_change_and_after_an_interruption(toolkit: Toolkit) -> None:
    strange = {"PYTHONHOME": "/nowhere", "PIP_TARGET": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    code, out, err = toolkit.run("hello", "a b", "'c", **strange)
    assert (code, out) == (7, "['a b', \"'c\"]\n")
    assert "setting up .mlflow/venv (once)" in err
    assert (toolkit.workspace / ".mlflow/venv/bin/uv").exists()
    assert not list(toolkit.scripts.rglob("__pycache__"))
    compiled = toolkit.workspace / ".mlflow/pycache"  # of the toolkit alone: packages keep theirs beside them
    kept = {f"/{path.parent.relative_to(compiled)}" for path in compiled.rglob("*.pyc")}
    assert kept == {f"{toolkit.scripts.resolve()}/words/__pycache__"}

    assert toolkit.run("hello") == (7, "[]\n", "")

    lock = toolkit.scripts / "requirements.lock"
    lock.write_text(lock.read_text() + pinned("six"))
    code, _, err = toolkit.run("hello")
    assert code == 7
    assert "setting up" in err

    (toolkit.workspace / ".mlflow/venv/stamp").unlink()  # as an interrupted set-up leaves it
    code, _, err = toolkit.run("hello")
    assert code == 7
    assert "setting up" in err

    [package] = (toolkit.workspace / ".mlflow/venv/lib").glob("python*/site-packages/toml-*.dist-info")
    package.rename(package.with_name("toml-0.0.1.dist-info"))  # as another version leaves it
    code, _, err = toolkit.run("hello")
    assert code == 7
    assert "setting up" in err
    assert toolkit.run("hello") == (7, "[]\n", "")

    toolkit.workspace.rename(toolkit.workspace.with_name("moved"))
    toolkit.workspace = toolkit.workspace.with_name("moved")
    code, _, err = toolkit.run("hello")
    assert code == 7
    assert "setting up" in err


@pytest.mark.e2e
@pytest.mark.parametrize(("width", "env"), [(40, {}), (200, {}), (80, {"NO_COLOR": "1"})], ids=str)
def test_a_terminal_shows_one_line_with_a_count(toolkit: Toolkit, width: int, env: dict[str, str]) -> None:
    command = ["bash", str(toolkit.scripts / "bootstrap.sh"), "--venv", "venv"]
    command.append(str(toolkit.scripts / "requirements.lock"))
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR")}
    text, lines = on_terminal(command, width, toolkit.workspace, {**kept, **env})
    assert [re.sub(r"\d+", "N", line) for line in lines] == [
        "mlflow: setting up .mlflow/venv (once) ...",
        "mlflow: set up in N s",
    ]
    moved = changing(text)[:-1]  # the last is what stays
    assert bool(moved) is not bool(env)
    for line in moved:
        assert (
            re.sub(r"\d+", "N", line) == "mlflow: setting up .mlflow/venv: N of N packages (N s)"[: width - 1]
        )
    assert width < 80 or not moved or " of 1 packages " in moved[-1]


def test_pip_does_it_where_uv_cannot_be_had(toolkit: Toolkit) -> None:
    lock = toolkit.scripts / "uv.lock"
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text()))
    code, _, err = toolkit.run("hello")
    assert code == 7
    assert "uv cannot be had" in err


@pytest.mark.e2e
def test_what_does_not_match_its_hash_is_not_installed(toolkit: Toolkit) -> None:
    lock = toolkit.scripts / "requirements.lock"
    lock.write_text(re.sub(r"sha256:\w{8}", "sha256:00000000", lock.read_text()))
    code, out, err = toolkit.run("hello")
    assert (code, out) == (1, "")
    last = err.splitlines()[-1]
    assert re.search(r"requirements.lock into .mlflow/venv: .*(hash|HASH).*; mend it and run the same", last)
    assert not (toolkit.workspace / ".mlflow/venv/stamp").exists()


@pytest.mark.e2e
def test_two_at_once_make_it_once(toolkit: Toolkit) -> None:
    first, second = toolkit.start("hello"), toolkit.start("hello")
    ends = [process.communicate(timeout=120) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [7, 7]
    assert "".join(err for _, err in ends).count("setting up .mlflow/venv") == 1
    assert sum("waiting for another set-up" in err for _, err in ends) <= 1


@pytest.mark.e2e
@pytest.mark.parametrize("seconds", [0, 0.3, 1])
def test_an_interrupted_set_up_says_so_in_one_line(toolkit: Toolkit, seconds: float) -> None:
    first = toolkit.start("hello")
    assert first.stderr
    assert "setting up" in first.stderr.readline()
    second = toolkit.start("hello")
    assert second.stderr
    assert "waiting for another set-up" in second.stderr.readline()
    time.sleep(seconds)
    for process in (second, first):
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[1] == "mlflow: interrupted; run the same again\n"
        assert process.returncode == 130


def test_an_interrupt_while_a_target_imports(toolkit: Toolkit) -> None:
    toolkit.lend_venv()
    (toolkit.scripts / "hello.py").write_text("print(flush=True); import time; time.sleep(1); print('awake')")
    for ignored in (False, True):
        with ExitStack() as stack:
            if ignored:  # as in the background jobs of scripts
                stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_IGN))
            process = toolkit.start("hello")
        assert process.stdout
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=60)
        assert said == (("awake\n", "") if ignored else ("", "mlflow: interrupted\n"))
        assert process.returncode == (0 if ignored else 130)


def test_what_keeps_our_data_out_of_git_is_written_anew_where_a_full_disk_left_it_empty(
    toolkit: Toolkit,
) -> None:
    toolkit.lend_venv()
    (toolkit.workspace / ".mlflow/.gitignore").touch()
    assert toolkit.run("hello")[0] == 7
    assert (toolkit.workspace / ".mlflow/.gitignore").read_text() == "*\n"


def test_everything_that_is_missing_is_named_at_once(toolkit: Toolkit, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    for name in ("bash", "dirname", "cat", "cmp"):
        (bare / name).symlink_to(str(shutil.which(name)))
    (bare / "python3").write_text("#!/bin/sh\n[ $1 = --version ] && echo Python 3.6.15; exit 1\n")
    (bare / "python3").chmod(0o755)
    code, _, err = toolkit.run("hello", PATH=str(bare))
    assert code == 1
    assert [line.split(" (")[0].split("; ")[0] for line in err.splitlines()] == [
        "mlflow: missing: Python 3.10 or newer",
        "mlflow: missing: GNU make 3.81 or newer",
        "mlflow: missing: git",
    ]
    assert "Python 3.6.15" in err
    assert not (toolkit.workspace / ".mlflow").exists()


def test_a_python_that_does_not_run_is_passed_over(toolkit: Toolkit, tmp_path: Path) -> None:
    shims = tmp_path / "bin"
    shims.mkdir()
    for name in ("python3", "python3.13", "python3.12"):
        (shims / name).write_text("#!/bin/sh\necho 'pyenv: command not found' >&2; exit 127\n")
        (shims / name).chmod(0o755)
    (shims / "python3.11").symlink_to(sys.executable)
    script = f'source <(sed "/^unset/,\\$d" "{toolkit.scripts}/bootstrap.sh"); find_python'
    env = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}"}
    found = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert found.stdout == f"{shims}/python3.11\n"


class Index(ThreadingHTTPServer):
    """A package index on loopback, by TLS with a certificate of its own, which has one package, `mlflow`."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.wheel = io.BytesIO()
        about = "Metadata-Version: 2.1\nName: mlflow\nVersion: 1.0\n"
        with zipfile.ZipFile(self.wheel, "w") as made:
            made.writestr("mlflow/cli.py", "")
            made.writestr("mlflow/store/later.py", "")
            made.writestr("mlflow-1.0.dist-info/METADATA", about)
            made.writestr("mlflow-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            made.writestr("mlflow-1.0.dist-info/RECORD", "")
        digest = hashlib.sha256(self.wheel.getvalue()).hexdigest()
        self.lock = f"mlflow==1.0 --hash=sha256:{digest}\n"
        self.certificate = folder / "certificate.pem"
        words = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ]
        words += [
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=CA:FALSE",
            "-keyout",
            str(folder / "key.pem"),
        ]
        subprocess.run([*words, "-out", str(self.certificate)], check=True, capture_output=True)
        super().__init__(("127.0.0.1", 0), Pages)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, folder / "key.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://localhost:{self.server_port}/simple"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that do not trust it."""


class Pages(BaseHTTPRequestHandler):
    """What the index answers."""

    server: Index

    def do_GET(self) -> None:
        """Send the package's page, or its wheel."""
        self.server.asked.append(self.path)
        name = "mlflow-1.0-py3-none-any.whl"
        is_wheel = self.path.endswith(name)
        body = self.server.wheel.getvalue() if is_wheel else f'<a href="/{name}">{name}</a>'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/zip" if is_wheel else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        """Say how long that would be."""
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Index(tmp_path) as made:
        thread = Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform != "linux", reason="a certificate is put among the system's in a namespace")
def test_uv_trusts_whom_the_system_trusts(toolkit: Toolkit, index: Index, tmp_path: Path) -> None:
    """Such as a company's proxy, whose certificate is among the system's and nowhere else."""
    toolkit.lend_venv()
    lock = toolkit.scripts / "other.lock"
    lock.write_text(index.lock)
    system = Path("/etc/ssl/certs/ca-certificates.crt")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(system.read_bytes() + index.certificate.read_bytes())
    env = {name: value for name, value in os.environ.items() if not re.match("SSL_CERT|UV_|PIP_", name)}
    env |= {"HOME": str(toolkit.home), "UV_DEFAULT_INDEX": index.url, "PIP_NO_INDEX": "1"}
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    shell = 'mount --bind "$1" "$2" && shift 2 && exec bash "$@"'
    words = [str(toolkit.scripts / "bootstrap.sh"), "--venv", "venv-mlflow", str(lock)]
    run = subprocess.run(
        ["unshare", *user, "--mount", "sh", "-ec", shell, "sh", str(trusted), str(system), *words],
        cwd=toolkit.workspace,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "pip" not in run.stderr
    assert {"/simple/mlflow/", "/mlflow-1.0-py3-none-any.whl"} == set(index.asked)
    made = toolkit.workspace / ".mlflow/venv-mlflow"
    # No job on the local platform can keep what it compiles.
    assert {path.name.split(".")[0] for path in made.rglob("mlflow/**/*.pyc")} == {"cli", "later"}
