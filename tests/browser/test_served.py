"""The page of `raylatent serve` in a real browser: two maps, members, and no stranger."""

import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from raylatent.explorer import reach
from tests.explorer.explored_runs import explored, run_of_slides
from tests.explorer.selected_runs import SQUARE, inside_of, tiles_of
from tests.stored_maps import write_map

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The address of a run's server, with its token, and the run's points."""
    folder = tmp_path_factory.mktemp("served")
    run, points = run_of_slides(folder, {"a'b<script>": 40, "=%20 ü": 50})
    write_map(run, points, "other", unit=5)
    pages = folder / "run" / "explorer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "SAMPLE_POINTS", 30)
        explored(run, pages / "other", patch, map="other", max_size="4KB")
        explored(run, pages / "default", patch)
    argv = [sys.executable, "-m", "raylatent.cli", "serve", run.uri]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603
        assert running.stdout is not None
        yield SimpleNamespace(address=running.stdout.readline().strip(), points=points)
        running.terminate()
        assert running.wait(20) == 130


def selected(page: Any) -> list[tuple[str, int]]:
    found = page.evaluate("rings => window.raylatent.select(rings)", [SQUARE])
    return [(slide, tile) for slide, tile in found["rows"]]


def test_the_served_page_shows_both_maps(
    chromium: Any, served: SimpleNamespace, tmp_path: Path
) -> None:
    said: list[str] = []
    page = chromium.new_context().new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(served.address)
    page.wait_for_selector('body[data-ready="1"]')
    assert re.match(r"http://127\.0\.0\.1:\d+/(#.*)?$", page.url)
    expected = tiles_of(inside_of(served.points))
    assert selected(page) == sorted(expected)
    assert len(expected) > 5
    assert page.locator("#maps option").all_inner_texts() == ["default", "other"]
    page.select_option("#maps", "other")
    for _ in range(100):  # as `wait_for_function`, which the policy refuses
        if page.evaluate("raylatent.now.meta.map.name") == "other":
            break
        page.wait_for_timeout(50)
    # Of this map the folder has a sample: the server tells the members.
    assert page.evaluate("raylatent.now.meta.points.kind") == "sample"
    assert selected(page) == sorted(expected)
    page.screenshot(path=str(tmp_path / "served.png"))
    assert said == []
    page.context.close()


LINKS = """<!doctype html><a href="{address}">in</a>
<script src="{own}server.js"></script><iframe src="{own}"></iframe>
<form method="post" action="{own}members"><button>post</button></form>"""


@pytest.fixture
def elsewhere(served: SimpleNamespace) -> Iterator[str]:
    """The address of a page of another site, with a link to the explorer."""
    own = served.address.split("?")[0]
    text = LINKS.format(address=served.address, own=own).encode()

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://HOST:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_link_on_a_page_of_another_site_may_be_followed(
    chromium: Any, served: SimpleNamespace, elsewhere: str, host: str
) -> None:
    page = chromium.new_context().new_page()
    other = elsewhere.replace("HOST", host)
    page.goto(other)
    page.click("a")
    page.wait_for_selector('body[data-ready="1"]')
    assert "token" not in page.url
    page.reload()
    page.wait_for_selector('body[data-ready="1"]')
    # With the cookie the other page can do nothing but follow the link again.
    own = served.address.split("?")[0]
    documents: list[tuple[str, int]] = []

    def note(found: Any) -> None:
        if found.url.startswith(own):
            documents.append((found.request.method, found.status))

    page.on("response", note)
    page.goto(other)
    fetched = "url => fetch(url, {credentials: 'include'}).then(() => 1, () => 0)"
    assert page.evaluate(fetched, own) == 0
    assert page.evaluate("typeof raylatentServer") == "undefined"
    page.click("button")
    page.wait_for_load_state()
    assert sorted(documents) == [("GET", 403), ("POST", 403)]
    page.context.close()


def test_who_has_no_token_sees_nothing(chromium: Any, served: SimpleNamespace) -> None:
    page = chromium.new_context().new_page()
    for address in (served.address.split("?")[0], f"{served.address}x"):
        answer = page.goto(address)
        assert answer.status == 403
        assert "script" not in page.content()
    page.context.close()
