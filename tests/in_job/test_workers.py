"""What is changed of uvicorn, without a server."""

from __future__ import annotations

import socket

from in_job import web_server


def test_what_the_workers_accept_sends_at_once() -> None:
    class Config:
        def bind_socket(self) -> socket.socket:
            return socket.create_server(("127.0.0.1", 0))

    web_server.send_at_once(Config)
    with (
        Config().bind_socket() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
