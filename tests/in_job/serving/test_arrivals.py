"""Workers take new connections in turns."""

from __future__ import annotations

import pytest

from ..places import Warm

pytestmark = pytest.mark.e2e
CODE = """
import socket, subprocess, sys, threading, time
import uvicorn
from in_job.serving import arrivals
arrivals.PAUSE = float(sys.argv[1])
shares = arrivals.Shares()
arrivals.Shares = lambda: shares
arrivals.take_turns(uvicorn.Server)

async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})

listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
other = listener.dup()  # as another worker has it
other.settimeout(30)
server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
thread.start()
while not server.started:
    time.sleep(0.01)

def client():
    return socket.create_connection(other.getsockname(), timeout=30)

def answered(connection):
    connection.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    return connection.recv(100).startswith(b"HTTP/1.1 200 ")
"""


@pytest.mark.parametrize(
    ("pause", "code"),
    [
        pytest.param(
            "60",
            """
first = client()
assert answered(first)  # it is the server's, which takes no other for a minute
rest = [client() for _ in range(5)]
taken = [other.accept()[0] for _ in rest]
assert {one.getpeername() for one in taken} == {one.getsockname() for one in rest}
""",
            id="the-next-is-left-to-others",
        ),
        pytest.param(
            "0.002",
            """
arrivals.COURTESY = 60
first = client()
assert answered(first)
worker = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
shares.note(worker.pid, 1)  # as many
second = client()
assert answered(second)
third = client()  # one fewer
assert other.accept()[0].getpeername() == third.getsockname()
worker.communicate()
""",
            id="left-to-one-that-has-fewer",
        ),
        pytest.param(
            "0.002",
            """
arrivals.COURTESY = 60
worker = subprocess.Popen([sys.executable, "-c", ""])
worker.wait()
shares.note(worker.pid, 0)
assert all([answered(one) for one in [client() for _ in range(3)]])
""",
            id="not-left-to-one-that-has-ended",
        ),
        pytest.param(
            "0.002",
            """
arrivals.COURTESY = 0.1
worker = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
shares.note(worker.pid, 0)
assert all([answered(one) for one in [client() for _ in range(3)]])
worker.communicate()
""",
            id="taken-where-nobody-else-does",
        ),
        pytest.param(
            "0.002",
            "assert all([answered(one) for one in [client() for _ in range(50)]])",
            id="all-in-the-end",
        ),
        pytest.param(
            "0.002",
            """
accept, refused = listener.accept, []

class Spent:
    def __getattr__(self, name): return getattr(listener, name)
    def accept(self):
        if not refused:
            refused.append(1)
            raise OSError(24, "Too many open files")
        return accept()

server.should_exit = True
thread.join()
listener = socket.create_server(("127.0.0.1", 0))
listener.setblocking(False)
other, accept, spent = listener.dup(), listener.accept, Spent()
arrivals.SPENT, listen = 0.1, arrivals.listen
arrivals.listen = lambda server, _, shares: listen(server, spent, shares)
server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
thread.start()
assert answered(client()) and refused
""",
            id="after-an-error",
        ),
    ],
)
def test_a_worker_takes_one_at_a_time(pause: str, code: str, warm: Warm) -> None:
    end = "\nserver.should_exit = True\nthread.join(60)\nassert not thread.is_alive()\n"
    assert warm.python(CODE + code + end, pause) == ""


def test_where_it_cannot_one_line_says_so(warm: Warm) -> None:
    code = CODE.replace("server = uvicorn", "del arrivals.asyncio\nserver = uvicorn", 1)
    code += "\nassert answered(client())\nserver.should_exit = True\nthread.join()\n"
    said = warm.python(code, "1")
    assert said.startswith("mlflow-server: workers take new connections as they come: NameError(")
