"""As much of Firefox's own remote control as the tests of the page need."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_NOWHERE = "127.0.0.1"
_PREFERENCES = {
    # The browser's own wishes go to a port where nobody listens.
    "network.proxy.type": 1,
    "network.proxy.http": _NOWHERE,
    "network.proxy.http_port": 9,
    "network.proxy.ssl": _NOWHERE,
    "network.proxy.ssl_port": 9,
    "browser.startup.page": 0,
}
# Under remote control a page from a disk may read other files, which it may not for people.
_STRICT = "Services.prefs.setBoolPref('security.fileuri.strict_origin_policy', true);"
_PATIENCE_S = 60


class Firefox:
    """A headless Firefox with a profile of its own; a context that ends it.

    Args:
        executable: Path of `firefox-esr` or `firefox`.
    """

    def __init__(self, executable: str) -> None:
        """See the class."""
        self._profile = Path(tempfile.mkdtemp(prefix="firefox-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {**_PREFERENCES, "marionette.port": port}
        lines = [
            f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in told.items()
        ]
        (self._profile / "user.js").write_text("\n".join(lines))
        self._process = subprocess.Popen(  # noqa: S603
            [
                executable,
                "--headless",
                "--no-remote",
                "--marionette",
                "--remote-allow-system-access",
                "--profile",
                str(self._profile),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._number = 0
        self._socket = self._connected(port)
        self._read()  # what it greets with
        self.ask("WebDriver:NewSession", {})
        self.run(_STRICT, system=True)

    def __enter__(self) -> "Firefox":
        """The browser itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, and remove its profile."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)

    def _connected(self, port: int) -> socket.socket:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                made = socket.create_connection(("127.0.0.1", port), 5)
            except OSError:
                if time.monotonic() > until or self._process.poll() is not None:
                    self._process.kill()
                    raise
                time.sleep(0.2)
            else:
                made.settimeout(_PATIENCE_S)
                return made

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            length += self._socket.recv(1)
        data = b""
        while len(data) < int(length[:-1]):
            data += self._socket.recv(int(length[:-1]) - len(data))
        return json.loads(data)

    def ask(self, command: str, parameters: dict[str, Any]) -> Any:
        """What a command answers.

        Raises:
            AssertionError: It answers an error.
        """
        self._number += 1
        data = json.dumps([0, self._number, command, parameters]).encode()
        self._socket.sendall(f"{len(data)}:".encode() + data)
        _, _, error, answer = self._read()
        assert error is None, error
        return answer

    def run(self, script: str, *arguments: Any, system: bool = False) -> Any:
        """What an asynchronous function's body returns, in the page or the browser."""
        self.ask("Marionette:SetContext", {"value": "chrome" if system else "content"})
        body = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...given) => {{ {script} }})(...arguments)"
            ".then((value) => done({ value }), (e) => done({ error: String(e) }));"
        )
        about = {"script": body, "args": list(arguments)}
        told = self.ask("WebDriver:ExecuteAsyncScript", about)["value"]
        assert "error" not in told, told["error"]
        return told.get("value")
