"""Who may ask the explorer's server, and for what: rules that need no server.

A page of another site can make a browser ask a server of this host, under a name that it
has resolve to this host as well. So Host must be a name that this server goes by, Origin
its own, and a token, which only whoever started it has seen, becomes a cookie. No path of
a client is ever a path of a file but by a vocabulary without dots and slashes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from secrets import compare_digest
from urllib.parse import parse_qs

from raylatent.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; "
    "style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_NUMBER = "(0|[1-9][0-9]{0,17})"
_ROUTES = {
    "slide": re.compile(rf"/slide/{_NUMBER}\.json"),
    "zoom": re.compile(rf"/slide/{_NUMBER}/{_NUMBER}/{_NUMBER}_{_NUMBER}\.jpg"),
    "block": re.compile(rf"/mosaic_files/{_NUMBER}/{_NUMBER}_{_NUMBER}\.jpg"),
    "tile": re.compile(rf"/tile/{_NUMBER}/{_NUMBER}\.jpg"),
    "members": re.compile("/members"),
    "server": re.compile(r"/server\.js"),
    "regions": re.compile(r"/regions\.json"),
}
_FILE = re.compile(
    r"/((?:[A-Za-z0-9_-]{1,40}/){0,4}[A-Za-z0-9_-]{1,40}"
    r"\.(?:html|js|css|json|jpg|dzi|parquet))"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request, but for its body: the path decoded, headers in small letters."""

    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()

    def header(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is sent back; `HEADERS` are sent with it."""

    status: int
    body: bytes = b""
    media_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None


@dataclass(frozen=True)
class Route:
    """What a path asks for: a kind and whole numbers, or a file of the page."""

    kind: str
    numbers: tuple[int, ...] = ()
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The rules of one server, and the names by which it may be called, in small letters.

    The cookie has a name of its own: cookies of a host are those of all ports.
    """

    token: str
    hosts: frozenset[str]
    cookie: str

    def refuses(self, asked: Asked) -> Answer | None:
        """The answer to who may not ask, or comes in by the token; None: may go on."""
        refused = self._of_elsewhere(asked)
        if refused is not None:
            return refused
        given = parse_qs(asked.query, keep_blank_values=True).get("token")
        if given is not None and not all(map(self._is_token, given)):
            return _refusal(403, "this is not the token")
        if given and asked.path == "/" and asked.method == "GET":
            crumb = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return Answer(status=303, headers={"Location": "/", "Set-Cookie": crumb})
        if not any(map(self._is_token, self._crumbs(asked))):
            return _refusal(403, "open the address that was printed, with its token")
        allowed = "POST" if asked.path.endswith("/members") else "GET"
        if asked.method != allowed:
            return Answer(status=405, headers={"Allow": allowed})
        return None

    def _of_elsewhere(self, asked: Asked) -> Answer | None:
        hosts = asked.header("host")
        name = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if name is None or name[1].lower() not in self.hosts:
            return _refusal(400, "this server does not go by this Host (--allow-host)")
        own = {f"{scheme}://{hosts[0]}".lower() for scheme in ("http", "https")}
        own_origin = all(origin.lower() in own for origin in asked.header("origin"))
        if own_origin and {"same-origin", "none"} >= {*asked.header("sec-fetch-site")}:
            return None
        # A link with the token in it, as in a message or a notebook, may be followed.
        by_link = (
            asked.header("sec-fetch-mode") == ["navigate"] and "token=" in asked.query
        )
        if own_origin and by_link and (asked.method, asked.path) == ("GET", "/"):
            return None
        return _refusal(403, "a page of another site asks")

    def _crumbs(self, asked: Asked) -> list[str]:
        pairs = [
            crumb.strip().partition("=")
            for header in asked.header("cookie")
            for crumb in header.split(";")
        ]
        return [value for name, _, value in pairs if name == self.cookie]

    def _is_token(self, text: str) -> bool:
        return compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def route_of(path: str) -> Route | None:
    """What a decoded path asks for, None for nothing that there could be.

    >>> route_of("/tile/3/77.jpg"), route_of("/data/meta.js").file
    (Route(kind='tile', numbers=(3, 77), file=''), 'data/meta.js')
    >>> route_of("/../run.json"), route_of("//etc/passwd"), route_of("/tile/03/1.jpg")
    (None, None, None)
    """
    for kind, pattern in _ROUTES.items():
        if found := pattern.fullmatch(path):
            return Route(kind, tuple(map(int, found.groups())))
    if path.startswith(("/tile/", "/slide/")):
        return None
    found = _FILE.fullmatch("/index.html" if path == "/" else path)
    return Route("file", file=found[1]) if found else None


def hosts_of(host: str, allowed: Sequence[str]) -> frozenset[str]:
    """The names by which a server may be called that listens on an address.

    Raises:
        ConfigError: One of those allowed has a port, or cannot be a name.

    >>> sorted(hosts_of("::", ["Atlas.example"]) - LOOPBACK)
    ['atlas.example']
    """
    own = [] if host in {"0.0.0.0", "::", ""} else [host]  # noqa: S104
    names = []
    for name in (*own, *allowed):
        bare = f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name
        found = _HOST.fullmatch(bare)
        if found is None or found[1] != bare:
            message = f"--allow-host is {name!r}: give a name or address without port"
            raise ConfigError(message)
        names.append(bare.lower())
    return LOOPBACK | frozenset(names)


def _refusal(status: int, text: str) -> Answer:
    return Answer(status=status, body=f"{text}\n".encode())
