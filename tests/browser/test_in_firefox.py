"""The page in Firefox ESR, opened from a disk, where one file may not read another."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from tests.browser.conftest import found
from tests.browser.marionette import Firefox

pytestmark = pytest.mark.slow

_LISTEN = """
  const asked = (window.asked = []);
  Services.obs.addObserver((channel) => asked.push(
    channel.QueryInterface(Ci.nsIChannel).URI.spec), "http-on-modify-request");
  Services.console.reset();
"""
_SAID = """
  const { asked } = window;
  const said = Services.console.getMessageArray().map((one) => String(one.message));
  return [asked, said.filter((text) => /file:|Content-Security/.test(text))];
"""


@pytest.fixture(scope="module")
def firefox() -> Iterator[Firefox]:
    """Debian's Firefox ESR, or any; closed at the end."""
    with Firefox(found("firefox-esr", "firefox", required=False)) as browser:
        yield browser


def test_the_page_opens_selects_and_shows_a_cell(
    firefox: Firefox, made: SimpleNamespace
) -> None:
    strict = (
        "return Services.prefs.getBoolPref('security.fileuri.strict_origin_policy');"
    )
    assert firefox.run(strict, system=True) is True
    firefox.run(_LISTEN, system=True)
    firefox.ask("Marionette:SetContext", {"value": "content"})
    firefox.ask("WebDriver:Navigate", {"url": (made.folder / "index.html").as_uri()})
    for _ in range(100):
        if firefox.run("return document.body.dataset.ready;"):
            break
        time.sleep(0.1)
    told = firefox.run(
        """const [ring] = given;
        const told = await raylatent.select(ring);
        raylatent.page.open({ level: 0, row: 3, col: 3 });
        for (let i = 0; i < 50 && document.getElementById("panel").hidden; i += 1) {
          await new Promise((done) => setTimeout(done, 100));
        }
        const { dataset } = document.getElementById("panel");
        return [told.n, told.slides, dataset.slide, Number(dataset.n)];""",
        [[-99, -99], [99, -99], [99, 99], [-99, 99]],
    )
    assert told[:2] == [3_000, 10]
    assert told[2] in {slide["name"] for slide in made.meta["slides"]}
    assert told[3] > 0
    # A file may not be read by another here, so that what works does so for people.
    refused = "return fetch('data/meta.js').then(() => 'read', () => 'refused');"
    assert firefox.run(refused) == "refused"
    asked, said = firefox.run(_SAID, system=True)
    assert not [url for url in asked if "mozilla" not in url]
    assert not [text for text in said if "data/meta.js" not in text]
    # The page may ask nobody, and a page without its policy would have been seen to ask.
    out = "return fetch('http://127.0.0.1:8099/').catch(() => 'refused');"
    assert firefox.run(out) == "refused"
    assert "http://127.0.0.1:8099/" not in firefox.run(_SAID, system=True)[0]
    firefox.ask("Marionette:SetContext", {"value": "content"})
    firefox.ask("WebDriver:Navigate", {"url": "data:text/html,without"})
    firefox.run(out)
    assert "http://127.0.0.1:8099/" in firefox.run(_SAID, system=True)[0]
