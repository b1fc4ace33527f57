"""What the explorer's server answers: without a server, and over a socket."""

import asyncio
import http.client
import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.responses import FileResponse, Response

from raylatent import cli
from raylatent.config import ServeConfig
from raylatent.errors import ConfigError, MapError
from raylatent.explorer import deeper, gate, server
from raylatent.explorer import polygon as polygon_room
from raylatent.explorer.pictures import dzi_level
from raylatent.explorer.polygon import MAX_BYTES
from tests.engine.slide_files import write_slide
from tests.explorer.selected_runs import (
    SQUARE,
    digest_of,
    inside_of,
    mapped_run,
    regions_file,
    tiles_of,
)
from tests.explorer.test_gate import TRAVERSALS
from tests.stored_maps import write_map

INDEX = b"<!doctype html><title>map</title>"
WINDOW = 40


def about_page(run, name="default"):
    """What explorer.json says of a page of one level."""
    one = {"digest": digest_of(run, name), "lower": [-4.0, -4.0], "side": 8.0}
    rule = {"select": "nearest", "ties": "hash", "seed": 0, "max_dist": None}
    levels = [{"level": 0, "side": 8, "cells": 1}]
    return {"maps": [one], "levels": levels, "rule": rule, "cell_px": 16}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A run of one slide with a page of its map; the run, points by slide, the slide."""
    folder = tmp_path_factory.mktemp("served")
    slide = write_slide(folder / "s.tif", 1, width=900, height=700)
    about = {"window_px": WINDOW, "tile_px": 32, "mpp": 0.5, "uri": str(slide)}
    run, points = mapped_run(folder / "run", {"s": 60, "t": 20}, **about)
    page = folder / "run" / "explorer" / "default"
    (page / "data").mkdir(parents=True)
    (page / "index.html").write_bytes(INDEX)
    (page / "data" / "meta.js").write_bytes(b"raylatent.meta({})")
    (page / "secret.txt").write_bytes(b"x")
    (page / "link.js").symlink_to(folder / "run" / "run.json")
    (page / "explorer.json").write_text(json.dumps(about_page(run)))
    return run, points, slide


@pytest.fixture(scope="module")
def explorer(served):
    return server.Explorer(ServeConfig(run=served[0].uri))


def get(explorer, path, body=b""):
    return explorer.answer(path, body)


def polygon(run, **more):
    return json.dumps({"map": digest_of(run), "rings": [SQUARE], **more}).encode()


def named(told):
    """The rows of an answer without places."""
    return [(slide, tile) for slide, tile, _, _ in told["rows"]]


def test_the_page_is_served_and_nothing_else(explorer):
    assert str(get(explorer, "/").path).endswith("/run/explorer/default/index.html")
    assert get(explorer, "/data/meta.js").media_type.startswith("text/javascript")
    assert get(explorer, "/server.js").body.startswith(b'"use strict";')
    for path in (
        *TRAVERSALS,
        "/link.js",
        "/secret.txt",
        "/data.js",
        "/data",
        "/none.js",
    ):
        answer = get(explorer, path)
        assert answer.status_code == 404, path
        assert not isinstance(answer, FileResponse)


def test_members_are_those_of_the_plain_loop(explorer, served):
    run, points, _ = served
    answer = get(explorer, "/members", polygon(run))
    expected = inside_of(points)
    told = json.loads(answer.body)
    assert told["n"] == len(expected) > 5
    assert told["slides"] == len(dict(expected))
    assert named(told) == tiles_of(expected)
    for slide, tile, *place in told["rows"]:
        point = points[slide].slice(tile, 1).to_pylist()[0]
        assert place == [point["loc_x"], point["loc_y"]]


def test_members_of_a_cell(explorer, served):
    run, points, _ = served
    n = 0
    for row in range(8):
        for col in range(8):
            body = json.dumps({"map": digest_of(run), "cell": [0, row, col]}).encode()
            told = json.loads(get(explorer, "/members", body).body)
            n += told["n"]
            for slide, tile in named(told):
                point = points[slide].slice(tile, 1).to_pylist()[0]
                assert int(point["x"] + 4) == col
                assert int(point["y"] + 4) == row
    assert n == 80


def test_of_very_many_members_only_numbers_are_told(explorer, served, monkeypatch):
    monkeypatch.setattr(server, "MOST_ROWS", 3)
    told = json.loads(get(explorer, "/members", polygon(served[0])).body)
    assert told["n"] == len(inside_of(served[1]))
    assert told["rows"] is None


def test_time_is_bounded(explorer, served, monkeypatch):
    monkeypatch.setattr(server, "_MOST_S", -1.0)
    answer = get(explorer, "/members", polygon(served[0]))
    assert answer.status_code == 503
    assert b"raylatent select" in answer.body
    monkeypatch.setattr(deeper, "MOST_S", -1.0)
    dzi = dzi_level(1, 16)
    assert get(explorer, f"/mosaic_files/{dzi}/0_0.jpg").status_code == 503


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]x",
        b'{"map": "0", "polygon": [[0,0],[1,0],[0,1]]}',
        json.dumps({"map": "0", "polygon": [[0, 0]] * 10_001}).encode(),
        b'{"cell": [0, 1]}',
        b'{"cell": [0, 1, 1], "map": "0"}',
        b'{"cell": [99, 0, 0]}',
        b'{"cell": [0, 0.5, 0]}',
        b'{"cell": "../run.json"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_polygon_of_the_map_is_refused(explorer, body):
    answer = get(explorer, "/members", body)
    assert answer.status_code == 400
    assert b"/run" not in answer.body.replace(b"../run.json", b"")


@pytest.mark.parametrize(
    "cell",
    [[14, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 10**4000], [0, 0, True], [0, 0], 5],
)
def test_a_cell_beyond_all_levels_is_refused(explorer, served, cell):
    body = json.dumps({"map": digest_of(served[0]), "cell": cell}).encode()
    answer = get(explorer, "/members", body)
    assert answer.status_code == 400
    assert b"a cell is" in answer.body


def test_a_tile_at_its_own_size_is_that_of_the_slide(explorer, served):
    slide = served[2]
    # By reference(): tile i of a slide is at (10 i, 20 i).
    answer = get(explorer, "/tile/0/20.jpg")
    assert answer.media_type == "image/jpeg"
    found = Image.open(io.BytesIO(answer.body))
    assert found.size == (32, 32)
    whole = pixels_of(slide)
    x, y = 200 - WINDOW // 2, 400 - WINDOW // 2
    window = Image.fromarray(whole[y : y + WINDOW, x : x + WINDOW]).resize((32, 32))
    apart = np.abs(np.asarray(found, int) - np.asarray(window, int)).mean()
    assert apart < 12
    for path in ("/tile/0/60.jpg", "/tile/1/20.jpg", "/tile/2/0.jpg", "/tile/9/0.jpg"):
        assert get(explorer, path).status_code == 404


def pixels_of(slide):
    from raylatent.source.slides import LocalSlide
    from raylatent.source.wsi.handle import SlideHandle

    handle = SlideHandle(LocalSlide(slide))
    return handle.read(0, 0, 0, *handle.dimensions)


def test_the_slide_is_shown_by_deep_zoom(explorer, served):
    told = json.loads(get(explorer, "/slide/0.json").body)
    assert (told["width"], told["height"]) == (900, 700)
    whole, last = pixels_of(served[2]), told["levels"] - 1
    side, overlap = told["tile"], told["overlap"]
    for col, row in ((0, 0), (1, 0), (1, 1)):
        data = get(explorer, f"/slide/0/{last}/{col}_{row}.jpg").body
        found = np.asarray(Image.open(io.BytesIO(data)), int)
        x, y = (max(0, at * side - overlap) for at in (col, row))
        own = whole[y : y + found.shape[0], x : x + found.shape[1]].astype(int)
        assert np.abs(found - own).mean() < 12
    for path in (
        f"/slide/0/{last}/2_0.jpg",
        f"/slide/0/{last}/0_2.jpg",
        f"/slide/0/{last + 1}/0_0.jpg",
        "/slide/2.json",
        "/slide/2/0/0_0.jpg",
    ):
        assert get(explorer, path).status_code == 404


def test_a_slide_that_is_gone_says_nothing_of_its_path(served, tmp_path, caplog):
    run = served[0]
    explorer = server.Explorer(ServeConfig(run=run.uri))
    explorer._slide_files["s"] = str(tmp_path / "gone.svs")
    with caplog.at_level(logging.WARNING):
        answer = get(explorer, "/slide/0.json")
    assert answer.status_code == 500
    assert b"gone" not in answer.body
    assert "gone.svs" in caplog.text


def test_pseudonyms_are_shown_and_translated_back(tmp_path):
    run, points = mapped_run(tmp_path / "run", {"a": 20, "b": 20})
    page = tmp_path / "run" / "explorer" / "default"
    (page / "data").mkdir(parents=True)
    about = {**about_page(run), "pseudonyms": True}
    (page / "explorer.json").write_text(json.dumps(about))
    with pytest.raises(MapError, match=r"pseudonyms\.csv lacks 2 slides"):
        server.Explorer(ServeConfig(run=run.uri))
    (tmp_path / "run" / "pseudonyms.csv").write_text("slide,pseudonym\na,p2\nb,p1\n")
    explorer = server.Explorer(ServeConfig(run=run.uri))
    assert explorer.slides == ["b", "a"]
    told = json.loads(get(explorer, "/members", polygon(run)).body)
    names = {"a": "p2", "b": "p1"}
    expected = sorted((names[s], tile) for s, tile in tiles_of(inside_of(points)))
    assert named(told) == expected


def test_a_run_without_page_or_with_another_maps_is_refused(served, tmp_path):
    run, _ = mapped_run(tmp_path / "run")
    with pytest.raises(MapError, match="holds no explorer: run `raylatent explore"):
        server.Explorer(ServeConfig(run=run.uri))
    other = f"{served[0].uri}/explorer/default"
    with pytest.raises(MapError, match="is of another map"):
        server.Explorer(ServeConfig(run=run.uri, explorer=other))


def test_regions_of_the_map_that_is_there_now(tmp_path):
    run, _ = mapped_run(tmp_path / "run", {"a": 40})
    page = tmp_path / "run" / "explorer" / "default"
    page.mkdir(parents=True)
    (page / "explorer.json").write_text(json.dumps(about_page(run)))
    explorer = server.Explorer(ServeConfig(run=run.uri))
    assert json.loads(get(explorer, "/regions.json").body) == []
    file = regions_file(tmp_path / "r.json", run, tumor=[SQUARE])
    assert cli.main(["label", run.uri, str(file)]) == 0
    told = json.loads(get(explorer, "/regions.json").body)
    assert told == json.loads(file.read_text())
    stale = json.loads(file.read_text())
    stale[0]["map"] = "0" * 32
    kept = tmp_path / "run" / "maps" / "default" / "regions.json"
    kept.write_text(json.dumps(stale))
    assert json.loads(get(explorer, "/regions.json").body) == []


def test_other_maps_of_the_run_are_beside_it(tmp_path):
    run, points = mapped_run(tmp_path / "run", {"a": 40})
    for name, text in (("default", "1"), ("ü b", "2")):
        if name != "default":
            write_map(run, points, name, unit=7)
        page = tmp_path / "run" / "explorer" / name
        (page / "data").mkdir(parents=True)
        (page / "data" / "meta.js").write_text(text)
        (page / "explorer.json").write_text(json.dumps(about_page(run, name)))
    # A map that is called as a folder of a page takes none of the page's files.
    (tmp_path / "run" / "explorer" / "data").mkdir()
    (tmp_path / "run" / "explorer" / "data" / "explorer.json").write_text("{}")
    explorer = server.Explorer(ServeConfig(run=run.uri))
    for path, text in (("", "1"), ("/default", "1"), ("/ü b", "2")):
        answer = get(explorer, f"{path}/data/meta.js")
        assert Path(answer.path).read_text() == text
    of_map = polygon(run, map=digest_of(run, "ü b"))
    told = json.loads(get(explorer, "/ü b/members", of_map).body)
    assert told["n"] == len(inside_of(points))
    for path in ("/ü b/../default/data/meta.js", "/ü b//data/meta.js", "/c/data/x.js"):
        assert get(explorer, path).status_code == 404


def test_without_the_extra_one_sentence_says_so(served, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "raylatent.explorer.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve", served[0].uri]) == 2
    assert "pip install 'raylatent[serve]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told():
    taken = server._listen("127.0.0.1", 0)
    with taken, pytest.raises(ConfigError, match="cannot listen on 127"):
        server._listen("127.0.0.1", taken.getsockname()[1])


def test_of_all_addresses_one_is_told_that_is_not_refused(served, monkeypatch):
    run = SimpleNamespace(run=lambda sockets: [one.close() for one in sockets])
    monkeypatch.setattr(server.uvicorn, "Server", lambda _: run)
    said = []
    for allow_host in ((), ("atlas", "other")):
        config = ServeConfig(run=served[0].uri, host="0.0.0.0", allow_host=allow_host)  # noqa: S104
        server.serve(config, said.append)
    names = [re.match(r"http://([^:]*):\d+/\?token=", one)[1] for one in said]
    assert names == ["127.0.0.1", "atlas"]


@pytest.fixture(scope="module")
def process(served):
    """`raylatent serve` as a process; its port and token."""
    pytest.importorskip("uvicorn", reason="the extra serve is not installed")
    pytest.importorskip("starlette")
    argv = [sys.executable, "-m", "raylatent.cli", "serve", served[0].uri]
    with subprocess.Popen(  # noqa: S603  (ours)
        argv, stdout=subprocess.PIPE, text=True
    ) as running:
        address = running.stdout.readline().strip()
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{22})", address)
        assert found, address
        yield int(found[1]), found[2]
        running.terminate()
        assert running.wait(20) == 130


def ask(port, path, *, method="GET", body=None, **headers):
    """Status, headers and body; the path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_over_a_socket(process, served):
    run, points, _ = served
    port, token = process
    for path in ("/", "/index.html", "/nothing", "/slide/0.json", "/?token=x"):
        assert ask(port, path)[0] == 403
    status, headers, body = ask(port, f"/?token={token}")
    assert (status, b"url=/" in body) == (200, True)
    cookie = headers["set-cookie"].split(";")[0]
    status, headers, body = ask(port, "/", cookie=cookie)
    assert (status, body) == (200, INDEX)
    assert "connect-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert not [name for name in headers if name.startswith("access-control")]
    assert "server" not in headers
    status, _, body = ask(
        port, "/members", method="POST", body=polygon(run), cookie=cookie
    )
    assert json.loads(body)["n"] == len(inside_of(points))
    assert ask(port, "/tile/0/20.jpg", cookie=cookie)[1]["content-type"] == "image/jpeg"
    too_large = b" " * (MAX_BYTES + 1)
    assert ask(port, "/members", method="POST", body=too_large, cookie=cookie)[0] == 413
    for host in ("evil.example", "localhost.", f"localhost:{port}@evil"):
        assert ask(port, "/", cookie=cookie, host=host)[0] == 400
    for origin in ("http://evil.example", "null"):
        assert ask(port, "/", cookie=cookie, origin=origin)[0] == 403
    tunnel = {"host": "localhost:9999", "origin": "http://localhost:9999"}
    assert ask(port, "/", cookie=cookie, **tunnel)[0] == 200
    sendable = [
        p for p in TRAVERSALS if p.isascii() and p.isprintable() and "?" not in p
    ]
    assert len(sendable) >= 40
    for path in [p.replace(" ", "%20") for p in sendable if p.startswith("/")]:
        assert 400 <= ask(port, path, cookie=cookie)[0] < 500, path


def test_many_clients_at_once(process):
    port, token = process
    cookie = ask(port, f"/?token={token}")[1]["set-cookie"].split(";")[0]
    found = []

    def client():
        paths = [f"/slide/0/{level}/0_0.jpg" for level in range(8)]
        found.extend(ask(port, path, cookie=cookie)[0] for path in paths)

    threads = [threading.Thread(target=client) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - started < 60
    assert found == [200] * 64


def test_serve_is_a_verb(capsys):
    assert cli.main(["serve", "--port", "99999", "run"]) == 2
    assert "--port is 99999" in capsys.readouterr().err


def test_a_page_that_was_written_anew_is_not_served_on(served, tmp_path):
    run, _, _ = served
    page = tmp_path / "page"
    page.mkdir()
    told = page / "explorer.json"
    told.write_text(json.dumps(about_page(run)))
    (page / "index.html").write_bytes(INDEX)
    own = server.Explorer(ServeConfig(run=run.uri, explorer=str(page)))
    assert get(own, "/").status_code == 200
    told.unlink()
    told.write_text(json.dumps(about_page(run)) + " ")
    for path in ("/", "/tile/0/0.jpg", "/members"):
        answer = get(own, path, polygon(run))
        assert answer.status_code == 409
        assert b"start serve again" in answer.body


def test_no_picture_is_kept_by_browsers(explorer):
    answer = get(explorer, "/tile/0/0.jpg")
    assert answer.status_code == 200
    assert "cache-control" not in answer.headers  # the gate says no-store


class Slow:
    """Explorers whose members and deeper blocks take until they are let go."""

    def __init__(self, root):
        self.go, self.begun, self.root = threading.Event(), [], root

    find = server.Explorer.find
    _beside = frozenset()

    def answer(self, path, body):
        self.begun.append((path, len(body)))
        if self.find(path)[1][0] in {"members", "block"}:
            self.go.wait(20)
        return Response(path)


async def sent(app, path, method="GET", body=b"", headers=()):
    """Status and body of an answer of an ASGI application, which has the headers."""
    answers = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        answers.append(message)

    given = {"host": "localhost", "cookie": f"c={'t' * 22}", **dict(headers)}
    raw = [(key.encode(), value.encode()) for key, value in given.items()]
    about = {"path": path, "query_string": b"", "headers": raw}
    await app({"type": "http", "method": method, **about}, receive, send)
    told = {key.decode(): value.decode() for key, value in answers[0]["headers"]}
    assert {
        key.lower(): value for key, value in gate.HEADERS.items()
    }.items() <= told.items()
    return answers[0]["status"], b"".join(one.get("body", b"") for one in answers)


def test_who_waits_for_members_or_blocks_holds_up_no_picture(monkeypatch, tmp_path):
    slow = Slow(tmp_path)
    (tmp_path / "mosaic_files" / "8").mkdir(parents=True)
    for i in range(20):
        (tmp_path / "mosaic_files" / "8" / f"{i}_0.jpg").write_bytes(b"written")
    rules = gate.Gate(token="t" * 22, hosts=gate.LOOPBACK, cookie="c")
    monkeypatch.setattr(server, "_WAIT_S", 0.3)

    async def ask_all():
        app = server.application(slow, rules)
        posts = [sent(app, "/members", "POST", b"{}") for _ in range(20)]
        blocks = [sent(app, f"/mosaic_files/9/{i}_0.jpg") for i in range(20)]
        held = [asyncio.create_task(one) for one in (*posts, *blocks)]
        await asyncio.sleep(0.1)
        tiles = [sent(app, f"/tile/0/{i}.jpg") for i in range(20)]
        tiles += [sent(app, f"/mosaic_files/8/{i}_0.jpg") for i in range(20)]
        tiles = await asyncio.wait_for(asyncio.gather(*tiles), 10)
        await asyncio.sleep(0.5)
        slow.go.set()
        return tiles, await asyncio.gather(*held)

    tiles, others = asyncio.run(ask_all())
    assert {status for status, _ in tiles} == {200}
    for some in (others[:20], others[20:]):
        assert sorted(status for status, _ in some) == [200, *[503] * 19]
    assert len(slow.begun) == 42


def test_nothing_is_done_for_who_may_not_ask_or_sends_too_much(monkeypatch, tmp_path):
    slow = Slow(tmp_path)
    slow.go.set()
    rules = gate.Gate(token="t" * 22, hosts=gate.LOOPBACK, cookie="c")
    app = server.application(slow, rules)
    for wrong in (
        {"host": "evil.example"},
        {"cookie": f"c={'t' * 21}"},
        {"origin": "http://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        for path, method in (("/tile/0/0.jpg", "GET"), ("/members", "POST")):
            status, _ = asyncio.run(sent(app, path, method, headers=wrong))
            assert status in {400, 403}, (wrong, path)
    monkeypatch.setattr(polygon_room, "MAX_BYTES", 10)
    assert asyncio.run(sent(app, "/members", "POST", b"x" * 11))[0] == 413
    assert slow.begun == []
    assert asyncio.run(sent(app, "/members", "POST", b"x" * 10))[0] == 200
    assert slow.begun == [("/members", 10)]


def test_a_polygon_of_very_many_points_is_refused(explorer, served, monkeypatch):
    monkeypatch.setattr(server, "MOST_POINTS", 8)
    body = {"map": digest_of(served[0]), "rings": [SQUARE, SQUARE]}
    assert get(explorer, "/members", json.dumps(body).encode()).status_code == 200
    body["rings"].append(SQUARE)
    answer = get(explorer, "/members", json.dumps(body).encode())
    assert answer.status_code == 400
    assert b"at most 8 points" in answer.body


def test_nobody_waits_without_end_and_what_goes_on_keeps_its_turn(
    monkeypatch, tmp_path
):
    slow = Slow(tmp_path)
    rules = gate.Gate(token="t" * 22, hosts=gate.LOOPBACK, cookie="c")
    monkeypatch.setattr(server, "_MOST_S", 0.2)
    monkeypatch.setattr(server, "_WAIT_S", 0.2)

    async def ask_thrice():
        app = server.application(slow, rules)
        first = [await sent(app, "/mosaic_files/9/0_0.jpg") for _ in range(2)]
        slow.go.set()
        return [*first, await sent(app, "/mosaic_files/9/0_0.jpg")]

    late, busy, last = asyncio.run(ask_thrice())
    assert (late[0], b"did not suffice" in late[1]) == (503, True)
    assert (busy[0], b"busy" in busy[1]) == (503, True)
    assert last[0] == 200


def test_what_nobody_thought_of_is_answered_with_the_headers(tmp_path, caplog):
    slow = Slow(tmp_path)
    slow.answer = lambda path, body: {}[path]
    rules = gate.Gate(token="t" * 22, hosts=gate.LOOPBACK, cookie="c")
    app = server.application(slow, rules)
    status, body = asyncio.run(sent(app, "/tile/0/0.jpg"))
    assert (status, b"the terminal says why" in body) == (500, True)
    assert "KeyError: '/tile/0/0.jpg'" in caplog.text
