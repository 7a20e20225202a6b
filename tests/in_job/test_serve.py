"""The parent of the server: signals, exit codes and orphans, with small programs in the server's place."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .harness import SCRIPTS, StartServer, wait_for

PARENT = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from in_job import serve; "
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("up", flush=True)
while True:
    time.sleep(9)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
time.sleep(60)
"""


def supervising(program: str, *prefix: str) -> subprocess.Popen[str]:
    code = PARENT + f"serve.serve = lambda: serve.os.execv(sys.executable, ['python', '-c', {program!r}])"
    code += "; sys.exit(serve.main())"
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(
    ("program", "code"),
    [
        pytest.param("raise SystemExit(3)", 3, id="its-own"),
        pytest.param("import os; os.kill(os.getpid(), 9)", 137, id="killed"),
        pytest.param("pass", 1, id="silent-end"),
    ],
)
def test_the_exit_code_is_the_servers(program: str, code: int) -> None:
    process = supervising(program)
    process.communicate(timeout=30)
    assert process.returncode == code


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_server(number: signal.Signals) -> None:
    process = supervising(POLITE.replace("signal.SIGTERM", f"signal.{number.name}"))
    assert first_line(process) == "up"
    process.send_signal(number)
    assert process.wait(30) == 7


def test_a_second_signal_kills() -> None:
    process = supervising(STUBBORN)
    assert first_line(process) == "up"
    process.send_signal(signal.SIGTERM)
    assert first_line(process) == "told"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 137


def test_what_the_server_leaves_behind_is_ended() -> None:
    program = "import subprocess; child = subprocess.Popen(['sleep', '600']); print(child.pid, flush=True)"
    process = supervising(program)
    left = int(first_line(process))
    process.communicate(timeout=30)
    wait_for(lambda: not running(left), "the end of what the server left", 10)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.e2e
def test_as_pid_1_it_reaps_orphans_and_obeys() -> None:
    unshare = shutil.which("unshare") or pytest.fail("unshare is missing: apt-get install util-linux")
    options = ["--pid", "--fork", "--mount-proc"] + (["--user", "--map-root-user"] if os.geteuid() else [])
    orphans = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "for _ in range(3):\n"
        "    if not os.fork():\n"
        "        if os.fork(): os._exit(0)\n"
        "        os.setsid(); time.sleep(0.2); os._exit(0)\n"
        "    os.wait()\n"
        "time.sleep(1)\n"
        "states = [open(f'/proc/{p}/stat').read().split()[2] for p in os.listdir('/proc') if p.isdigit()]\n"
        "print(states.count('Z'), flush=True)\n"
        "time.sleep(60)\n"
    )
    process = supervising(orphans, unshare, *options)
    assert first_line(process) == "0", "zombies"
    [child] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGTERM)
    assert process.wait(30) == 0


@pytest.mark.e2e
def test_a_signal_while_preparing_ends_it(volume: Path, start: StartServer) -> None:
    server = start(volume)
    wait_for((volume / ".mlflow.db.upgrade").exists, "the preparation")
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 143
    assert not (volume / "mlflow.db").exists() or (volume / "mlflow.db").stat().st_size == 0


@pytest.mark.e2e
def test_a_port_that_is_taken_is_a_failure(ready_volume: Path, start: StartServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start(ready_volume, NEURO_JOB_HTTP_PORT=str(taken.getsockname()[1]))
        assert server.process.wait(60) == 3  # uvicorn's own
    assert "Address already in use" in server.log.read_text()


@pytest.mark.e2e
def test_options_reach_the_server(ready_volume: Path, start: StartServer) -> None:
    server = start(
        ready_volume, MLFLOW_ACTION_EXTRA_PARAMS="--workers 1 --static-prefix '/a-b'", MLFLOW_WORKERS="3"
    )
    wait_for(lambda: "Application startup complete" in server.log.read_text(), "the server")
    assert server.call("GET", "/a-b/version") == (200, b"3.17.2")
    assert server.stop() == 0


@pytest.mark.e2e
def test_what_cannot_share_its_imports_makes_them_anew(
    ready_volume: Path, start: StartServer, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import importlib; importlib.reload = None")
    server = start(ready_volume, PYTHONPATH=str(tmp_path)).wait_until_up()
    assert "the web server imports MLflow anew: TypeError" in server.lines[-1]
    assert (
        server.call("GET", "/api/2.0/mlflow/experiments/search?max_results=1", headers={"Host": "evil"})[0]
        == 403
    )
    assert server.stop() == 0
