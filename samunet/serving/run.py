"""Listen on this machine, and on no other."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

from samunet.errors import ConfigError
from samunet.serving.app import make_app
from samunet.serving.desk import Desk
from samunet.serving.guard import Guard

HOST = "127.0.0.1"


def serve(desk: Desk, port: int, started: Callable[[str], None]) -> None:
    """Answer until Ctrl-C; the open session is closed then.

    Args:
        port: 0 takes a free one.
        started: told the address with its token, once requests are taken.

    Raises:
        ConfigError: the port is in use, or the extra `annotate` is not installed.
    """
    app, token = make_app(desk), secrets.token_urlsafe(24)
    import uvicorn  # make_app says what is missing

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"Port {port} cannot be used ({error}); name another one, or 0 for a free one.") from None
        listening.listen()
        number = listening.getsockname()[1]
        config = uvicorn.Config(Guard(app, token, number), log_level="warning", access_log=False, lifespan="off")
        started(f"http://{HOST}:{number}/{token}/")
        with suppress(KeyboardInterrupt):  # which is how a server ends
            try:
                uvicorn.Server(config).run(sockets=[listening])
            finally:
                desk.close()
