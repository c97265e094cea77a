"""A tf.data service, which reads and crops images for a run on other machines (docs/pods.md).

    python launch/data_service.py dispatcher [PORT]
    python launch/data_service.py worker HOST:PORT [PORT]

A service has one dispatcher (port 5050 by default) and any number of workers. HOST:PORT is the
address of the dispatcher. A worker uses all cores of its machine, and must find the images at the
same paths as the run. All of them run until they are stopped. Exit code 2 means a user's mistake.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

# At this level workers still name the images that they leave out.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")

from byol_jax.data.tensorflow import import_tensorflow
from byol_jax.errors import UserError, require

USAGE = "usage: data_service.py dispatcher [PORT] | data_service.py worker HOST:PORT [PORT]"
PORT = 5050


def _port(word: str) -> int:
    require(word.isdigit() and int(word) < 2**16, f"{word!r} is not a port; {USAGE}")
    return int(word)


def start(arguments: Sequence[str]) -> Any:
    """Starts the server that the command line asks for.

    Raises:
      UserError: the command line is wrong, the port is in use, or no dispatcher answers.
    """
    require(arguments and arguments[0] in ("dispatcher", "worker"), USAGE)
    kind, *rest = arguments
    if kind == "dispatcher":
        require(len(rest) < 2, USAGE)
        return _dispatcher(_port(rest[0]) if rest else PORT)
    require(rest and len(rest) < 3, USAGE)
    return _worker(rest[0], _port(rest[1]) if rest[1:] else 0)


def _dispatcher(port: int) -> Any:
    service = import_tensorflow().data.experimental.service
    # TensorFlow would share a port that is in use instead of refusing it.
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error}): choose another one") from error
    server = service.DispatchServer(service.DispatcherConfig(port=port))
    bound_port = server.target.rpartition(":")[2]
    print(f"--config.data.service=grpc://{socket.gethostname()}:{bound_port}", flush=True)
    return server


def _worker(dispatcher: str, port: int) -> Any:
    service = import_tensorflow().data.experimental.service
    host, _, number = dispatcher.removeprefix("grpc://").rpartition(":")
    require(host and number.isdigit(), f"{dispatcher!r} is not HOST:PORT; {USAGE}")
    try:
        with socket.create_connection((host.strip("[]"), int(number)), timeout=20) as probe:
            address = probe.getsockname()[0]
    except OSError as error:
        raise UserError(
            f"no dispatcher answers at {dispatcher} ({error}): start it first"
        ) from error
    address = f"[{address}]" if ":" in address else address
    server = service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=f"{host}:{number}", worker_address=f"{address}:%port%", port=port
        )
    )
    print(f"worker at {address}, for {dispatcher}", flush=True)
    return server


def main() -> int:
    """Runs a server until it is stopped; returns the exit code."""
    try:
        server = start(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # TensorFlow waits in C++, where Python handles no signals.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    server.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
