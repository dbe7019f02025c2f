"""The page in a real browser: every screen opened, searched, edited, restored, erased, and looked at for accessibility.

It needs PyPI's playwright and axe-playwright-python, and a Chromium of the system (Debian: chromium-headless-shell).
"""

import shutil
import threading
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra agentmem[server] is not installed")

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]

SCREENS = [
    "/owners", "/memories?user_id=ana", "/memories", "/memory?id=m1&user_id=ana", "/recall?user_id=ana",
    "/recall?query=lisbon&user_id=ana&other=vector", "/time?user_id=ana", "/time?user_id=ana&since=1000000000",
    "/now", "/health?check=1", "/login", "/docs", "/memory?id=nope",
]  # fmt: skip


@contextmanager
def served(store, path):
    from agentmem.server.app import Settings, make_app

    app = make_app(store, Settings(path=str(path), write=True))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def address(store, store_path):
    """Serves a store with a few memories."""
    store.add("Lives in Porto", user_id="ana", run_id="r1", id="m1", metadata={"topic": "home"})
    store.add("Prefers window seats", user_id="ana", run_id="r1", id="m2", metadata={"topic": "travel"})
    store.add("Plays the cello", user_id="ben", id="b1")
    store.update("m1", "Lives in Lisbon", user_id="ana")
    with served(store, store_path) as address:
        yield address


@pytest.fixture(params=["light", "dark"])
def page(request, address):
    """A tab that fails the test for an error of a script, a blocked resource, or a request to another host."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_context(color_scheme=request.param, base_url=address).new_page()
        faults = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.on("console", lambda said: said.type == "error" and "404" not in said.text and faults.append(said.text))
        tab.on("request", lambda asked: asked.url.startswith(address) or faults.append(asked.url))
        yield tab
        browser.close()
        assert faults == []


def test_every_screen_is_accessible_and_has_no_fault(page, tmp_path):
    for number, screen in enumerate(SCREENS):
        page.goto(screen)
        page.screenshot(path=tmp_path / f"{number}.png", full_page=True)
        found = axe.Axe().run(page).response["violations"]
        grave = [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]
        assert grave == [], screen


def test_a_visitor_finds_corrects_deletes_restores_and_erases(page, store):
    page.goto("/")
    page.get_by_role("link", name="ana", exact=True).first.click()
    page.get_by_text("2 in all").wait_for()
    page.get_by_role("link", name="topic: travel").click()
    page.get_by_role("link", name="Prefers window seats").click()
    page.get_by_text("Edit", exact=True).click()
    page.get_by_label("Text").fill("Prefers aisle seats")
    page.get_by_role("button", name="Save a new version").click()
    assert page.locator("blockquote").inner_text() == "Prefers aisle seats"
    assert (page.locator("del").inner_text(), page.locator("ins").inner_text()) == ("window", "aisle")
    page.get_by_role("button", name="Delete").click()
    page.get_by_text("This memory is deleted.").wait_for()
    page.get_by_role("button", name="Restore").click()
    assert page.locator("blockquote").inner_text() == "Prefers aisle seats"
    page.get_by_role("link", name="Recall").click()
    page.get_by_label("Query").fill("which seats?")
    page.keyboard.press("Enter")
    page.locator("mark", has_text="seats").first.wait_for()
    page.goto("/owners")
    page.get_by_role("button", name="Erase ana").click()
    page.get_by_label("Type ana to erase").fill("ana")
    page.get_by_role("button", name="Erase", exact=True).click()
    assert "Receipt: 2 memories of ana" in page.get_by_role("status").inner_text()
    assert (store.count(user_id="ana"), store.count(user_id="ben")) == (0, 1)


def test_the_page_works_with_the_keyboard_alone(page):
    page.goto("/memories?user_id=ana")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('td a')?.textContent") == "Prefers window seats":
            break
    page.keyboard.press("Enter")
    page.locator("blockquote", has_text="Prefers window seats").wait_for()


def test_the_plots_of_now_are_drawn(page, store):
    page.goto("/now")
    page.locator("[data-value=memories]", has_text="3").wait_for()
    store.add("One more", user_id="ana")
    page.locator("[data-value=memories]", has_text="4").wait_for()
    assert "," in page.locator("[data-plot=writes] polyline").get_attribute("points")
