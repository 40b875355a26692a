"""The page in a real browser, against a real server: typing, dropping, choosing, the keyboard."""

import base64
import shutil
import socket
import threading
import time

import pytest
import uvicorn
from small_shop import COLORS, picture

from moontide.serving.app import create_app

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DROP = """([type, name, data, more]) => {
  const start = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const bytes = new Uint8Array(start.length + more);
  bytes.set(start);
  const carried = new DataTransfer();
  carried.items.add(new File([bytes], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"])
    window.dispatchEvent(new DragEvent(kind, { dataTransfer: carried, bubbles: true, cancelable: true }));
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(pipeline):
    """A real server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(pipeline), log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A fresh page at the start; at the end, nothing was asked of another host and no script failed."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda line: failed.append(line.text) if "Content Security" in line.text else None)
    page.goto(address)
    yield page
    outside = [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))]
    context.close()
    assert asked
    assert outside == []
    assert failed == []


def drop(page, data, name="picture.jpg", kind="image/jpeg", more=0):
    """Drop a file of `data` and `more` zeros on the page."""
    page.evaluate(DROP, [kind, name, base64.b64encode(data).decode(), more])


def test_a_person_types_a_query_and_sees_ads_and_products_with_scores(page, pipeline):
    page.fill("#q", "blue lamp")
    page.keyboard.press("Enter")
    page.wait_for_selector(".summary strong")
    assert page.inner_text(".summary strong") == "“blue lamp”"
    assert page.title() == "blue lamp – moontide"
    assert page.url.endswith("/?q=blue+lamp")
    answer = pipeline.search("blue lamp", num=16)
    titles = [title.inner_text() for title in page.query_selector_all(".item h3")]
    assert titles == [shown.title for shown in (*answer.ads, *answer.products)]
    assert page.locator(".item.ad .label").all_inner_texts() == ["Ad"] * len(answer.ads)
    scores = page.locator(".item.ad").first.locator("dt").all_inner_texts()
    assert scores == ["Relevance", "p(click)", "Auction score", "Bid per click", "Pays per click"]
    assert page.locator("#status").inner_text().startswith("“blue lamp”")
    page.click("details summary")
    assert page.locator("tbody th").all_inner_texts()[:2] == ["check", "encode"]


def test_results_come_without_a_reload_and_back_leads_back(page):
    page.evaluate("window.mark = 1")
    page.fill("#q", "lamp")
    page.click("button.go")
    page.wait_for_selector(".summary strong")
    assert page.evaluate("window.mark") == 1
    page.go_back()
    page.wait_for_selector(".welcome h1")
    assert page.input_value("#q") == ""


def test_choosing_a_shopper_answers_again_for_them(page, pipeline):
    page.fill("#q", "blue lamp")
    page.keyboard.press("Enter")
    page.wait_for_selector(".summary strong")
    page.locator("label.shopper", has_text="bob").click()
    page.wait_for_url("**/?q=blue+lamp&shopper=bob")
    page.click("details summary")
    page.wait_for_selector("text=3 products in the shopper's past")
    expected = pipeline.search("blue lamp", None, "bob").ads[0]
    assert f"{100 * expected.p_click:.1f}%" in page.locator(".item.ad").first.inner_text()


def test_a_dropped_picture_is_shown_and_searched_and_can_be_removed(page):
    drop(page, picture(COLORS["green"]))
    page.wait_for_selector(".summary img")
    assert page.inner_text(".summary strong") == "By picture"
    assert page.is_visible("#preview-image")
    assert page.get_attribute("#preview-image", "src").startswith("blob:")
    assert any("Green" in title for title in page.locator(".item h3").all_inner_texts()[:4])
    page.fill("#q", "clock")
    page.keyboard.press("Enter")
    page.wait_for_selector(".summary strong:text('“clock”')")
    assert page.locator(".summary img").count() == 1
    page.click("#remove")
    page.wait_for_selector(".summary img", state="detached")
    assert page.is_hidden("#preview")
    assert page.inner_text(".summary strong") == "“clock”"


def test_a_picture_is_chosen_by_the_button_and_another_by_find_similar(page):
    page.set_input_files(
        "#image", {"name": "a.png", "mimeType": "image/png", "buffer": picture(COLORS["blue"], form="PNG")}
    )
    page.wait_for_selector(".summary img")
    page.locator(".item .similar").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/?like=*")
    assert page.get_attribute("#preview-image", "src").startswith("/image/")
    assert page.locator(".item").count() > 0


def test_mistakes_are_said_on_the_page_and_the_words_stay(page):
    page.fill("#q", "my words")
    drop(page, b"not a picture", "notes.txt", "text/plain")
    assert "Give a JPEG, PNG or WebP picture." in page.inner_text(".alert")
    drop(page, b"\xff\xd8\xff broken")
    page.wait_for_selector("text=The file is not a readable JPEG, PNG or WebP picture.")
    drop(page, b"\xff\xd8\xff", more=9 * 2**20)
    page.wait_for_selector("text=The picture is larger than 8 MB: shrink it.")
    assert page.input_value("#q") == "my words"


def test_the_page_is_used_by_keyboard_alone(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.type("mug")
    seen, focused = [], "((one) => one.id || one.className || one.name)(document.activeElement)"
    for _ in range(3):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    assert seen == ["image", "go", "shopper"]
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".summary strong")
    assert page.evaluate("document.querySelector('input[name=shopper]:checked').value") != ""
    outline = page.evaluate(
        "getComputedStyle(document.querySelector('input[name=shopper]:checked + .card')).outlineStyle"
    )
    assert outline == "solid"


def test_every_input_and_picture_has_a_name_and_nothing_overflows_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 800})
    page.fill("#q", "blue lamp")
    page.keyboard.press("Enter")
    page.wait_for_selector(".summary strong")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    unnamed = page.evaluate(
        """[...document.querySelectorAll('input:not([type=hidden]), button, a, img')].filter((one) =>
          !one.getAttribute('aria-label') && !(one.labels && one.labels.length) && !one.innerText.trim()
          && !one.hasAttribute('alt')).map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_hostile_titles_and_queries_stay_text(page):
    page.fill("#q", "<img src=x onerror=window.hacked=1> mug")
    page.keyboard.press("Enter")
    page.wait_for_selector(".summary strong")
    assert "<img src=x" in page.inner_text(".summary strong")
    assert page.evaluate("window.hacked") is None
    assert any("<No. 0>" in title for title in page.locator(".item h3").all_inner_texts())


def test_an_unreachable_server_is_said(page):
    page.route("**/?q=*", lambda route: route.abort())
    page.fill("#q", "lamp")
    page.keyboard.press("Enter")
    said = page.wait_for_selector("text=The server cannot be reached")
    assert said.inner_text() == "That did not work. The server cannot be reached: is it still running?"
