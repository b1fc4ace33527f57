"""Who may ask the explorer's server, and what paths mean: rules without a server."""

import re

import pytest
from starlette.requests import Request

from raylatent.errors import ConfigError
from raylatent.explorer.gate import LOOPBACK, Gate, hosts_of, name_of, route_of

TOKEN = "a" * 22
GATE = Gate(token=TOKEN, hosts=LOOPBACK | {"atlas.example"}, cookie="raylatent_80")
COOKIE = ("cookie", f"other=1; raylatent_80={TOKEN}")
HOST = ("host", "127.0.0.1:4321")

TRAVERSALS = [
    "/..",
    "/../run.json",
    "/../../etc/passwd",
    "/./index.html",
    "//etc/passwd",
    "///etc/passwd",
    "/etc/passwd",
    "/index.html/..",
    "/data/../../run.json",
    "/data/..%2f..%2frun.json",
    "/..%2f..%2frun.json",
    "/%2e%2e/run.json",
    "/..\\run.json",
    "\\..\\run.json",
    "/data\\meta.js",
    "/c:/windows/win.ini",
    "/C:\\windows\\win.ini",
    "/file:///etc/passwd",
    "/http://example.org/x.js",
    "/data/meta.js\0.jpg",
    "/data/meta.js\n",
    "/data/meta.js?x",
    "/data/meta.js#x",
    "/data/meta.js/",
    "/data//meta.js",
    "/.hidden.js",
    "/.git/config",
    "/a.b.js",
    "/run.txt",
    "/index.html ",
    " /index.html",
    "/data/ümlaut.js",
    "/tile/-1/0.jpg",
    "/tile/1/0.png",
    "/tile/1/00.jpg",
    "/tile/1/1e3.jpg",
    "/tile/1/0x1.jpg",
    "/tile/../1/2.jpg",
    "/tile/1.jpg",
    "/tile/٣/1.jpg",
    "/slide/0/label.jpg",
    "/slide/0/1/2.jpg",
    "/slide/0.dzi",
    "/slide/associated_images/label.jpg",
    "/slide/99999999999999999999/0/0_0.jpg",
    "/members/",
    "/MEMBERS",
    "",
    "index.html",
    "/" + "a/" * 6 + "b.js",
    "/" + "a" * 300 + ".js",
]


def asked(path="/", *headers, query="", method="GET", host=HOST):
    return request(path, (host, *headers), query, method)


def request(path, headers, query="", method="GET"):
    """What a server makes of the bytes that came."""
    raw = [(key.encode(), value.encode()) for key, value in headers]
    about = {"path": path, "query_string": query.encode(), "headers": raw}
    return Request({"type": "http", "method": method, **about})


@pytest.mark.parametrize("path", TRAVERSALS)
def test_paths_outside_of_the_vocabulary_ask_for_nothing(path):
    assert len(TRAVERSALS) >= 40
    assert route_of(path) is None


@pytest.mark.parametrize(
    ("path", "kind", "values"),
    [
        ("/", "file", ("index.html",)),
        ("/index.html", "file", ("index.html",)),
        ("/page.css", "file", ("page.css",)),
        ("/data/cells/7/0.js", "file", ("data/cells/7/0.js",)),
        ("/mosaic_files/12/3_4.jpg", "block", (12, 3, 4)),
        ("/slides/3.jpg", "file", ("slides/3.jpg",)),
        ("/tiles/1/104.jpg", "file", ("tiles/1/104.jpg",)),
        ("/slide/3.json", "slide", (3,)),
        ("/slide/3/12/0_17.jpg", "zoom", (3, 12, 0, 17)),
        ("/tile/0/123456789012.jpg", "tile", (0, 123456789012)),
        ("/members", "members", ()),
        ("/server.js", "server", ()),
        ("/regions.json", "regions", ()),
    ],
)
def test_what_there_is(path, kind, values):
    assert route_of(path) == (kind, values)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:1",
        "LOCALHOST:65535",
        "[::1]:4321",
        "atlas.example",
        "Atlas.Example:8080",
    ],
)
def test_own_names_with_any_port_may_ask(host):
    assert GATE.refuses(asked("/", COOKIE, host=("host", host))) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:4321",
        "localhost.",
        "localhost.evil.example",
        "evil.localhost",
        "localhost:4321@evil.example",
        "127.0.0.1@evil",
        "127.0.0.1:",
        "127.0.0.1:123456",
        "127.0.0.1:80:80",
        "127.0.0.1 ",
        "127.0.0.2",
        "0.0.0.0",  # noqa: S104
        "::1",
        "[::2]",
        "http://127.0.0.1",
    ],
)
def test_foreign_hosts_are_refused_whatever_else_is_right(host):
    for headers in ((), (COOKIE,)):
        answer = GATE.refuses(asked("/", *headers, host=("host", host)))
        assert answer.status_code == 400
    entering = asked(query=f"token={TOKEN}", host=("host", host))
    assert GATE.refuses(entering).status_code == 400


def test_no_host_and_two_hosts_are_refused():
    without = request("/", (COOKIE,))
    assert GATE.refuses(without).status_code == 400
    assert GATE.refuses(asked("/", COOKIE, HOST)).status_code == 400


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://127.0.0.1",
        "http://127.0.0.1:4322",
        "http://127.0.0.1:4321.evil.example",
        "http://127.0.0.1:4321/",
        "ftp://127.0.0.1:4321",
        "127.0.0.1:4321",
    ],
)
def test_foreign_origins_are_refused(origin):
    for path, method in (("/members", "POST"), ("/", "GET")):
        one = asked(path, COOKIE, ("origin", origin), method=method)
        assert GATE.refuses(one).status_code == 403


def test_the_own_origin_may_ask_also_behind_a_tunnel():
    for host in ("127.0.0.1:4321", "localhost:9999"):
        own = ("origin", f"http://{host}")
        one = asked("/members", COOKIE, own, method="POST", host=("host", host))
        assert GATE.refuses(one) is None
    two = (("origin", "http://127.0.0.1:4321"), ("origin", "http://evil"))
    assert (
        GATE.refuses(asked("/members", COOKIE, *two, method="POST")).status_code == 403
    )


@pytest.mark.parametrize(
    ("site", "refused"),
    [
        ("none", False),
        ("same-origin", False),
        ("same-site", True),
        ("cross-site", True),
    ],
)
def test_pages_of_other_sites_are_refused(site, refused):
    answer = GATE.refuses(asked("/", COOKIE, ("sec-fetch-site", site)))
    assert (answer is not None) == refused


def test_the_token_becomes_a_cookie_and_leaves_the_address():
    answer = GATE.refuses(asked(query=f"token={TOKEN}"))
    assert answer.status_code == 200
    assert b'content="0;url=/"' in answer.body
    assert TOKEN.encode() not in answer.body
    crumb = answer.headers["Set-Cookie"]
    assert crumb.startswith(f"raylatent_80={TOKEN};")
    assert {"httponly", "samesite=strict"} <= set(re.split("; ?", crumb.lower()))


@pytest.mark.parametrize(
    "query",
    [
        "token=",
        "token=b",
        f"token={TOKEN}x",
        f"token={TOKEN[:-1]}",
        f"token={TOKEN}&token=b",
        "token=%FF%00ü",
        "token=" + "b" * 22,
    ],
)
def test_a_false_token_is_refused_also_with_the_cookie(query):
    for headers in ((), (COOKIE,)):
        assert GATE.refuses(asked("/", *headers, query=query)).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("cookie", ""),),
        (("cookie", TOKEN),),
        (("cookie", f"raylatent_81={TOKEN}"),),
        (("cookie", f"raylatent_80={TOKEN}x"),),
        (("cookie", "raylatent_80=ü"),),
        (("authorization", f"Bearer {TOKEN}"),),
    ],
)
def test_every_path_needs_the_cookie(headers):
    for path in ("/", "/index.html", "/data/meta.js", "/nothing", "/../x"):
        assert GATE.refuses(asked(path, *headers)).status_code == 403
    assert GATE.refuses(asked("/members", *headers, method="POST")).status_code == 403
    # The token in the address opens nothing but the door.
    one = asked("/data/meta.js", *headers, query=f"token={TOKEN}")
    assert GATE.refuses(one).status_code == 403


def test_only_get_and_one_post():
    for method in ("POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert (
            GATE.refuses(asked("/index.html", COOKIE, method=method)).status_code == 405
        )
    assert GATE.refuses(asked("/members", COOKIE)).status_code == 405
    assert GATE.refuses(asked("/members", COOKIE, method="POST")) is None


def test_names_by_which_a_server_may_be_called():
    assert hosts_of("127.0.0.1", ()) == LOOPBACK
    assert hosts_of("::", ()) == LOOPBACK
    assert hosts_of("10.0.0.7", ("Atlas", "fe80::1")) - LOOPBACK == {
        "10.0.0.7",
        "atlas",
        "[fe80::1]",
    }
    for name in ("atlas:80", "a/b", "http://atlas", "a b", "*", "[::1"):
        with pytest.raises(ConfigError, match="--allow-host"):
            hosts_of("127.0.0.1", (name,))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "0.0.0.0", "::", "::1", "fe80::1", "a"],  # noqa: S104
)
@pytest.mark.parametrize("allowed", [(), ("Atlas",), ("fe80::2", "atlas")])
def test_the_address_that_is_printed_is_one_that_may_be_called(host, allowed):
    name = name_of(host, allowed)
    gate = Gate(token=TOKEN, hosts=hosts_of(host, allowed), cookie="raylatent_80")
    assert gate.refuses(asked("/", COOKIE, host=("host", f"{name}:80"))) is None
    if host == "::" and not allowed:  # where 127.0.0.1 is not listened on
        assert name == "[::1]"
