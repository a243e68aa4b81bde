"""The live page in a real Chromium: accessible, fitting and alive, wide and narrow, light and dark.

`python -m pytest -m browser`; with SCREENSHOTS=FOLDER it leaves a picture of each there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.config import StatusConfig
from app.contract import SchedulerView
from app.gateway.errors import ApiError
from app.gateway.status import StatusFace
from app.gateway.tenants import ApiKeys
from app.status.page import main_html, page_html
from app.status.view import StatusView
from tests.fakes import FakeControlPlane
from tests.status.views import IDLE, busy

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: scripts/install --dev")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
]

SIZES = {"wide": (1280, 900), "narrow": (390, 844)}
VIEWS = {"idle": IDLE, "busy": busy()}
# Far more than an event takes.
WAIT_MS = 10_000


class Site:
    """The page behind a real HTTP server in a thread of its own; the scheduler's part is what a test sets."""

    def __init__(self, config: StatusConfig, **keys: list[str]) -> None:
        self.control = FakeControlPlane()
        self.control.state = SchedulerView(1, 0, 0, "", ())
        self._config = config
        self._keys = ApiKeys(keys, open_without_keys=not keys)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/status"
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._face,
                interface="asgi3",
                log_level="error",
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()

    async def _serve(self) -> None:
        async with aiohttp.ClientSession() as http:
            self._status = StatusFace(self.control, http, self._config, self._keys)
            await self._server.serve(sockets=[self._socket])

    async def _face(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the whole application does with an error that the page raises."""
        try:
            await self._status(scope, receive, send)
        except ApiError as error:
            await Response(error.body(), error.status)(scope, receive, send)


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(StatusConfig(open=True)) as site:
        yield site


@pytest.fixture
def page(browser) -> Iterator[playwright.Page]:
    """Fails the test when the browser complains, as it does of anything that the policy forbids."""
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    page.close()
    assert complaints == []


def show(site: Site, view: StatusView) -> None:
    site.control.status_view = replace(view, ranks=())


def live(page: playwright.Page) -> None:
    page.get_by_role("status").get_by_text("Live").wait_for(timeout=WAIT_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", VIEWS)
def test_it_is_accessible_and_fits(browser, name, size, scheme):
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    # Loads of ranks come from engines, which are not here: the value is shown without a server.
    page.set_content(page_html(VIEWS[name], main_html(VIEWS[name])))
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"status-{name}-{size}-{scheme}.png", full_page=True)
    violations = axe.Axe().run(page).response["violations"]
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in violations] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_figures_change_in_place_and_the_focus_stays(site, page):
    show(site, IDLE)
    page.goto(site.url)
    live(page)
    page.get_by_role("group", name="Queue by class").focus()
    page.evaluate("document.querySelector('h1').dataset.mark = 'same'")
    show(site, busy())
    page.get_by_role("cell", name="60,102").wait_for(timeout=WAIT_MS)
    assert page.evaluate("document.querySelector('h1').dataset.mark") is None
    assert page.evaluate("document.activeElement.getAttribute('aria-labelledby')") == "classes"
    assert page.get_by_role("heading", name="Engine 2").is_visible()
    show(site, IDLE)
    page.get_by_text("None has reported.").wait_for(timeout=WAIT_MS)
    assert page.get_by_role("heading", name="Engine 2").count() == 0


def test_it_says_when_the_figures_are_old_and_comes_back(site, page):
    show(site, IDLE)
    page.goto(site.url)
    live(page)
    site.control.status_view = None
    page.get_by_role("status").get_by_text("No news").wait_for(timeout=WAIT_MS)
    show(site, busy())
    live(page)
    page.get_by_role("cell", name="60,102").wait_for(timeout=WAIT_MS)


def test_without_scripts_it_shows_what_there_was(site, browser):
    show(site, busy())
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site.url)
    assert page.get_by_role("cell", name="60,102").is_visible()
    context.close()


def test_behind_a_key_the_browser_asks_for_it(browser):
    with Site(StatusConfig(tenants=["blue"]), blue=[sha256(b"blue's").hexdigest()]) as site:
        show(site, busy())
        stranger = browser.new_context()
        with pytest.raises(playwright.Error, match="ERR_INVALID_AUTH_CREDENTIALS"):
            stranger.new_page().goto(site.url)
        stranger.close()
        owner = browser.new_context(http_credentials={"username": "anybody", "password": "blue's"})
        page = owner.new_page()
        assert page.goto(site.url).status == 200
        live(page)
        owner.close()
