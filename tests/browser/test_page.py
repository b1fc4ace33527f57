"""The page's own tests, which Node runs, and rules that its files keep."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "raylatent" / "explorer" / "page"
MOST_LINES = 300
MOST_LINES_OF_ALL = 2580  # with HTML and CSS


@pytest.mark.slow
def test_the_page_passes_its_tests_in_node() -> None:
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("CI"), "Node is not installed"
        pytest.skip("Node is not installed")
    tests = [str(path) for path in sorted(HERE.glob("*.test.js"))]
    assert tests
    found = subprocess.run(  # noqa: S603
        [node, "--test", *tests],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-4_000:]


def test_nothing_leaves_the_page() -> None:
    html = (PAGE / "index.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy[1].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    for rule in rules.values():
        assert set(rule.split()) <= {"'none'", "'self'", "file:", "data:", "blob:"}
    assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=", html)


@pytest.mark.parametrize("path", sorted(PAGE.iterdir()), ids=lambda path: path.name)
def test_files_of_the_page_are_short_and_write_no_markup(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    assert not re.search(r"https?://", text)
    markup = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    )
    assert not re.search(markup, text)


def test_the_page_is_small() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in PAGE.iterdir()}
    assert sum(lines.values()) <= MOST_LINES_OF_ALL, lines


def test_every_script_is_loaded_and_every_element_is_there() -> None:
    html = (PAGE / "index.html").read_text()
    loaded = set(re.findall(r'<script src="([^"]+)"', html)) - {"server.js"}
    assert loaded == {path.name for path in PAGE.glob("*.js")}
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for path in PAGE.glob("*.js"):
        used = set(re.findall(r'\$\("([\w-]+)"\)', path.read_text()))
        assert used <= set(ids), path.name
