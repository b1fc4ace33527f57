"""Who may ask the explorer's server, and for what: rules that need no server.

A page of another site can make a browser ask a server of this host, under a name that it
has resolve to this host as well. So Host must be a name that this server goes by, Origin
its own, and a token, which only whoever started it has seen, becomes a cookie. No path of
a client is ever a path of a file but by a vocabulary without dots and slashes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import compare_digest
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from raylatent.errors import ConfigError

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_OF_ALL = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104
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

Route = tuple[str, tuple[Any, ...]]
"""What a path asks for: a kind, and whole numbers or the name of a file."""

_DOOR = (
    '<!doctype html><link rel="icon" href="data:,"><title>raylatent</title>'
    '<meta http-equiv="refresh" content="0;url=/"><a href="/">Open the explorer</a>'
)
"""What goes on to the page by itself: a redirect would still count as another site's."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_N = "(0|[1-9][0-9]{0,17})"
_ROUTES = {
    "slide": rf"/slide/{_N}\.json",
    "zoom": rf"/slide/{_N}/{_N}/{_N}_{_N}\.jpg",
    "block": rf"/mosaic_files/{_N}/{_N}_{_N}\.jpg",
    "tile": rf"/tile/{_N}/{_N}\.jpg",
    "members": "/members",
    "server": r"/server\.js",
    "regions": r"/regions\.json",
}
_FILE = (
    r"/(?!tile/|slide/)((?:[A-Za-z0-9_-]{1,40}/){0,4}[A-Za-z0-9_-]{1,40}"
    r"\.(?:html|js|css|json|jpg|dzi|parquet))"
)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The rules of one server, and the names by which it may be called, in small letters.

    The cookie has a name of its own: cookies of a host are those of all ports.
    """

    token: str
    hosts: frozenset[str]
    cookie: str

    def refuses(self, asked: Request) -> Response | None:
        """The answer to who may not ask, or comes in by the token; None: may go on."""
        headers, path = asked.headers.getlist, asked.scope["path"]
        hosts = headers("host")
        name = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if name is None or name[1].lower() not in self.hosts:
            return said(400, "this server does not go by this Host (--allow-host)")
        given = asked.query_params.getlist("token")
        enters = bool(given) and (asked.method, path) == ("GET", "/")
        # A link with the token in it, as in a message or a notebook, may be followed.
        linked = enters and headers("sec-fetch-mode") == ["navigate"]
        own_site = linked or {"same-origin", "none"} >= {*headers("sec-fetch-site")}
        own = {f"{scheme}://{hosts[0]}".lower() for scheme in ("http", "https")}
        if not own_site or not own >= {one.lower() for one in headers("origin")}:
            return said(403, "a page of another site asks")
        shown = given if enters else [*given, asked.cookies.get(self.cookie, "")]
        if not all(map(self._is_token, shown)):
            return said(403, "open the address that was printed, with its token")
        if enters:
            answer = HTMLResponse(_DOOR)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        allowed = "POST" if path.endswith("/members") else "GET"
        if asked.method != allowed:
            return Response(status_code=405, headers={"Allow": allowed})
        return None

    def _is_token(self, text: str) -> bool:
        return compare_digest(text.encode("utf-8", "replace"), self.token.encode())


def said(status: int, text: str) -> Response:
    """An answer of one sentence."""
    return PlainTextResponse(f"{text}\n", status)


def route_of(path: str) -> Route | None:
    """What a decoded path asks for, None for nothing that there could be.

    >>> route_of("/tile/3/77.jpg"), route_of("/data/meta.js")
    (('tile', (3, 77)), ('file', ('data/meta.js',)))
    >>> route_of("/../run.json"), route_of("//etc/passwd"), route_of("/tile/03/1.jpg")
    (None, None, None)
    """
    for kind, pattern in _ROUTES.items():
        if found := re.fullmatch(pattern, path):
            return kind, tuple(map(int, found.groups()))
    found = re.fullmatch(_FILE, "/index.html" if path == "/" else path)
    return ("file", (found[1],)) if found else None


def hosts_of(host: str, allowed: Sequence[str]) -> frozenset[str]:
    """The names by which a server may be called that listens on an address.

    Raises:
        ConfigError: One of those allowed has a port, or cannot be a name.

    >>> sorted(hosts_of("::", ["Atlas.example"]) - LOOPBACK)
    ['atlas.example']
    """
    own = [] if host in _OF_ALL else [host]
    names = []
    for name in (*own, *allowed):
        bare = _bare(name)
        found = _HOST.fullmatch(bare)
        if found is None or found[1] != bare:
            message = f"--allow-host is {name!r}: give a name or address without port"
            raise ConfigError(message)
        names.append(bare.lower())
    return LOOPBACK | frozenset(names)


def name_of(host: str, allowed: Sequence[str]) -> str:
    """The name to open a server by that listens on an address: one of `hosts_of`."""
    return _bare([*allowed, _OF_ALL[host]][0] if host in _OF_ALL else host)


def _bare(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and name[0] != "[" else name
