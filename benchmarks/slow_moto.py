"""moto's S3 with a wait before each answer, run by the Python of `.venv-buckets`: slow_moto.py MILLISECONDS.

Prints its port. It keeps objects in memory.
"""

import sys
import time
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Slow:
    """A WSGI application behind a network of this latency."""

    def __init__(self, app: Any, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    def __call__(self, environ: Any, start: Any) -> Any:
        time.sleep(self._seconds)
        return self._app(environ, start)


class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def log_request(self, *of: object) -> None:
        pass


if __name__ == "__main__":
    app = Slow(DomainDispatcherApplication(create_backend_app), float(sys.argv[1]) / 1000)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
