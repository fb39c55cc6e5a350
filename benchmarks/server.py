"""A real gunicorn in a process of its own: one gthread worker, connections kept."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .client import Client

FOLDER = Path(__file__).resolve().parent.parent  # where ``-m benchmarks`` is found


@contextmanager
def serving(database: Path, root: Path) -> Iterator[Client]:
    """A client of a server that runs until the block ends."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        # Connections inherit it when they are made, which is before gunicorn would set it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        port = listener.getsockname()[1]
        handle = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(handle), str(database), str(root)],
            cwd=FOLDER,
            pass_fds=[handle],
        )
    try:
        client = Client(port)
        try:
            yield client
        finally:
            client.close()
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Serve on a socket that the parent has opened."""
    from gunicorn.app.base import BaseApplication

    from .app import create_app

    parser = argparse.ArgumentParser()
    parser.add_argument("handle", type=int)
    parser.add_argument("database", type=Path)
    parser.add_argument("root", type=Path)
    arguments = parser.parse_args()

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            settings = {
                "bind": f"fd://{arguments.handle}",
                "worker_class": "gthread",
                "workers": 1,
                "threads": 4,
                "keepalive": 600,
                "timeout": 600,
                "loglevel": "warning",
                "control_socket_disable": True,
            }
            for name, value in settings.items():
                if name in self.cfg.settings:  # the last one is new in gunicorn 25
                    self.cfg.set(name, value)

        def load(self) -> Any:
            return create_app(arguments.database, arguments.root)[0]

    os.environ.pop("GUNICORN_CMD_ARGS", None)
    Server().run()


if __name__ == "__main__":
    main()
