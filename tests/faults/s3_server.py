"""moto's S3 server on loopback, behind a door that can be made to fail.

The server is a process of its own. Clients talk to the door, which asks a hook before it
hands a request on, and notes what is stored.
"""

import http.client
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.fs as pafs

_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}
_READY_S = 60.0


class Answer(Exception):  # noqa: N818  (an answer, not always an error)
    """Ends a request with a status and a body."""

    def __init__(self, status, body=b""):
        super().__init__(status)
        self.status, self.body = status, body


def error(status, code):
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    return Answer(status, f'<?xml version="1.0"?>{body}'.encode())


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments):
        """Not a word."""

    def handle_expect_100(self):
        done = super().handle_expect_100()
        self.wfile.flush()  # else the client waits a second for it
        return done

    def hang_up(self):
        """Close the connection without an answer."""
        self.close_connection = True
        raise ConnectionResetError

    def _handle(self):
        self.lose_answer = False
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path)[1:].partition("/")
        body = self._body()
        try:
            self.server.before(self, key)
            status, headers, content = self._hand_on(body)
        except Answer as answer:
            status, headers, content = answer.status, [], answer.body
        if status < 300:
            query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
            self.server.note(self.command, bucket, key, query, body)
        self._send(status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # checksums and the like
            pass
        return b"".join(found)

    def _hand_on(self, body):
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.server.moto_port, timeout=60
        )
        headers = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _HOP | {"expect", "content-length"}
        }
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status, headers, content):
        if self.lose_answer:
            self.hang_up()
        self.send_response(status)
        kept = [(name, value) for name, value in headers if name.lower() not in _HOP]
        if not any(name.lower() == "content-length" for name, _ in kept):
            kept.append(("Content-Length", str(len(content))))
        for name, value in kept:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class S3Server(ThreadingHTTPServer):
    """Serves until it is closed.

    Attributes:
        before: Called with (handler, key) before a request is handed on; may wait, close
            the connection, or raise an Answer.
        moto_port: Of the server behind.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.before = self.nothing
        self.uploads = set()
        self._stamps = {}
        self._counter = itertools.count()
        self._lock = threading.Lock()
        self.moto_port = _free_port()
        self._moto = subprocess.Popen(  # noqa: S603  (of our own environment)
            [sys.executable, "-m", "moto.server", "-p", str(self.moto_port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        _wait_for(self.moto_port, self._moto)
        self._files = pafs.S3FileSystem(
            access_key="test",
            secret_key="test",  # noqa: S106  (moto asks for none)
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{self.moto_port}",
            allow_bucket_creation=True,
        )
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def handle_error(self, request, client_address):
        """Clients that were killed are no news."""

    @staticmethod
    def nothing(handler, key):
        """What happens before a request is handed on."""

    def create(self, bucket):
        """A new bucket."""
        self._files.create_dir(bucket)

    def put(self, bucket, key, data):
        """Store an object, past the hook."""
        with self._files.open_output_stream(f"{bucket}/{key}") as stream:
            stream.write(data)
        self._stored(bucket, key)

    def get(self, bucket, key):
        """An object's content, past the hook."""
        with self._files.open_input_stream(f"{bucket}/{key}") as stream:
            return stream.read()

    def stamps(self, bucket):
        """{key: what is another where it was written again}."""
        with self._lock:
            return dict(self._stamps.get(bucket, {}))

    def note(self, command, bucket, key, query, body):
        """Remember what a request that went well has changed."""
        if command == "DELETE" and "uploadId" in query:
            self.uploads.discard(query["uploadId"])
        elif command == "DELETE":
            self._gone(bucket, key)
        elif command == "POST" and "delete" in query:
            for element in ET.fromstring(body).iter():  # noqa: S314  (our own client)
                if element.tag.rpartition("}")[2] == "Key":
                    self._gone(bucket, element.text)
        elif command == "POST" and "uploadId" in query:
            self.uploads.discard(query["uploadId"])
            self._stored(bucket, key)
        elif command == "PUT" and "uploadId" in query:
            self.uploads.add(query["uploadId"])
        elif command == "PUT" and key:
            self._stored(bucket, key)

    def _stored(self, bucket, key):
        with self._lock:
            self._stamps.setdefault(bucket, {})[key] = next(self._counter)

    def _gone(self, bucket, key):
        with self._lock:
            self._stamps.get(bucket, {}).pop(key, None)

    @property
    def environment(self):
        """How a process finds it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self):
        self.shutdown()
        self.server_close()
        self._thread.join()
        self._moto.kill()
        self._moto.wait()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(port, process):
    ends = time.monotonic() + _READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "moto's server did not start"
            assert time.monotonic() < ends, "moto's server did not start"
            time.sleep(0.1)
        else:
            return
