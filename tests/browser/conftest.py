"""What the tests of the page in browsers share."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.browser.made_folder import made_points, write_folder

LEVELS = 4
WITHOUT_GPU = ["--disable-webgl", "--disable-3d-apis"]
LOCAL = ("file:", "data:", "blob:")


def found(*names: str, required: bool = True) -> str:
    """The path of a program, else the test is skipped, or fails where CI needs it."""
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        missing = f"{names[0]} is not installed"
        assert not (required and os.environ.get("CI")), missing
        pytest.skip(missing)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder with known tiles, and its points."""
    folder = tmp_path_factory.mktemp("explorer") / "umap"
    points = made_points()
    meta = write_folder(folder, points, levels=LEVELS)
    return SimpleNamespace(folder=folder, points=points, meta=meta)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's chromium without WebGL, closed at the end."""
    where = found("chromium")
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=WITHOUT_GPU)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[[Path], Any]]:
    """Opens a folder's page; nothing but files may be asked for, nothing be said.

    The page has `asked`, all addresses that it asked for.
    """
    contexts: list[Any] = []
    asked: list[str] = []
    said: list[str] = []

    def opened(folder: Path) -> Any:
        contexts.append(chromium.new_context(viewport={"width": 1300, "height": 900}))
        page = contexts[-1].new_page()
        page.asked = asked
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((folder / "index.html").as_uri())
        # Under the page's policy `wait_for_function` would be refused now and then.
        page.wait_for_selector('body[data-ready="1"]')
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [url for url in asked if not url.startswith(LOCAL)]
    assert not said


@pytest.fixture
def page(opened: Callable[[Path], Any], made: SimpleNamespace) -> Any:
    """The page of the known tiles, when it is ready."""
    return opened(made.folder)
