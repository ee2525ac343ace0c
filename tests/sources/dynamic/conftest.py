"""An API on a real port, answering what a test says, and pollsters that are defined for it."""

import http.server
import threading
from urllib.parse import urlsplit

import pytest

from nephoscope.errors import NephoscopeError
from nephoscope.settings import load_settings
from sources.dynamic import dynamic


class Api(http.server.ThreadingHTTPServer):
    """`routes`: by path, a function of the request's handler, or (status, headers, body). `asked`: what came, (path with query, headers)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes = {}
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        """A client may hang up on what is too long."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        route = self.server.routes.get(self.path) or self.server.routes.get(urlsplit(self.path).path, (404, {}, b""))
        if callable(route):
            route = route(self)
            if route is None:
                self.close_connection = True
                return
        if isinstance(route, bytes):
            route = 200, {}, route
        status, headers, body = route
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing: `asked` has it."""


@pytest.fixture
def api():
    server = Api()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def defined(tmp_path):
    """The system of some definitions, as YAML."""

    def define(*texts):
        folder = tmp_path / "pollsters.d"
        folder.mkdir(exist_ok=True)
        for number, text in enumerate(texts):
            (folder / f"{number}.yaml").write_text(text)
        return dynamic(load_settings(flags={"pollsters_definitions_dirs": str(folder)}))

    return define


@pytest.fixture
def poll(api, defined):
    """Poll the only pollster of a definition (its lines after name, type and unit; URL the path /things): (readings, what was raised)."""

    def ask(*lines, path="/things", name="thing.size", meters=None):
        text = f"- name: '{name}'\n  sample_type: gauge\n  unit: B\n  url_path: '{api.url}{path}'\n"
        system = defined(text + "".join(f"  {line}\n" for line in lines))
        (pollster,) = system.pollsters
        (target,) = system.discoveries["dynamic"](pollster.name)
        assert pollster.takes(target)
        readings, error = [], None
        try:
            for reading in pollster.poll(target, meters or {name}):
                readings.append(reading)  # noqa: PERF402 -- what came before an error counts
        except NephoscopeError as raised:
            error = raised
        return readings, error

    return ask
