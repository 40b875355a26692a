"""The HTTP face in process: answers, refusals with their sentence, headers, escaping."""

import io
import json
import struct
import zlib

import pytest
from PIL import Image
from small_shop import COLORS, full_parts, open_pipeline, picture
from starlette.testclient import TestClient

from moontide.serving.app import OUR_FAULT, create_app
from moontide.serving.guard import HEADERS, MAX_BODY

FRAGMENT = {"x-fragment": "1"}


def upload(data, name="image", kind="image/jpeg"):
    return {"files": {name: ("picture", data, kind)}}


def bomb():
    """A PNG of 25 million pixels in a few kilobytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 5000, 5000, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(626) * 5000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_text_search_gives_what_the_pipeline_gives(client, pipeline):
    answer = client.get("/search", params={"q": " blue  lamp ", "shopper": "bob", "k": 5})
    assert answer.status_code == 200
    found = answer.json()
    expected = json.loads(json.dumps(pipeline.search("blue lamp", None, "bob", 5).to_dict()))
    for name in ("text", "has_image", "shopper_id", "ads", "products", "versions"):
        assert found[name] == expected[name], name
    assert [step["name"] for step in found["trace"]] == [step["name"] for step in expected["trace"]]
    assert found["text"] == "blue lamp"
    assert len(found["products"]) == 5


def test_pictures_are_searched_by_form_alone_and_with_words(client):
    image = picture(COLORS["green"], form="PNG")
    found = client.post("/search", **upload(image)).json()
    assert (found["text"], found["has_image"]) == (None, True)
    both = client.post("/search", data={"q": "lamp", "shopper": "ann", "k": "3"}, **upload(image)).json()
    assert (both["text"], both["has_image"], both["shopper_id"]) == ("lamp", True, "ann")
    assert len(both["products"]) == 3
    assert client.post("/search", data={"q": "lamp"}).json()["text"] == "lamp"


@pytest.mark.parametrize(
    ("asked", "status", "sentence"),
    [
        ("", 400, "type what you are looking for, or give a picture"),
        ("q=%20%09", 400, "type what you are looking for, or give a picture"),
        ("q=" + "x" * 301, 400, "the search text has 301 characters, more than 300: shorten it"),
        ("q=x&k=0", 400, "k must be from 1 to 48, got 0"),
        ("q=x&k=99999999999999999999", 400, "k must be from 1 to 48, got 99999999999999999999"),
        ("q=x&k=many", 400, "k: input should be a valid integer, unable to parse string as an integer"),
        ("q=x&shopper=" + "s" * 201, 400, "the shopper's id has 201 characters, more than 200"),
    ],
)
def test_a_bad_text_search_is_refused_in_one_sentence(client, asked, status, sentence):
    answer = client.get(f"/search?{asked}")
    assert answer.status_code == status
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize(
    ("data", "status", "sentence"),
    [
        (b"GIF89a" + bytes(40), 415, "the file is not a readable JPEG, PNG or WebP picture"),
        (b"<svg onload=alert(1)>", 415, "the file is not a readable JPEG, PNG or WebP picture"),
        (bomb(), 413, "the picture has 25,000,000 pixels, more than 24,000,000: shrink it"),
        (picture(COLORS["red"])[:-200], 400, "the picture cannot be decoded"),
        (picture(COLORS["red"]) + bytes(8 * 2**20), 413, "the picture has 8,3"),
        (bytes(9 * 2**20), 413, "the upload is larger than 8 MB: shrink the picture"),
    ],
    ids=["gif", "svg", "bomb", "broken", "over 8 MB", "9 MB"],
)
def test_a_bad_picture_is_refused_in_one_sentence(client, data, status, sentence):
    answer = client.post("/search", **upload(data))
    assert (answer.status_code, answer.json()["error"][: len(sentence)]) == (status, sentence)
    page = client.post("/", data={"q": "kept words"}, **upload(data))
    assert page.status_code == status
    assert 'role="alert"' in page.text
    assert sentence[1:] in page.text


def test_an_upload_without_a_declared_length_is_cut_off(client):
    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        yield from [bytes(2**20)] * 9

    kind = {"content-type": "multipart/form-data; boundary=x"}
    answer = client.post("/search", content=pieces(), headers=kind)
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "the upload is larger than 8 MB: shrink the picture",
    )
    assert MAX_BODY < 9 * 2**20


@pytest.mark.parametrize(
    ("sent", "status", "sentence"),
    [
        ({"json": {"q": "x"}}, 415, "send a form, as multipart/form-data, not application/json"),
        ({}, 415, "send a form, as multipart/form-data, not nothing"),
        ({"data": {"q": "x", "image": "aGk="}}, 400, "send the picture as a file in the field `image`"),
        ({"data": {"q": "x", "k": "-1"}}, 400, "k must be a whole number, got '-1'"),
        ({"data": {"q": "x", "k": "²"}}, 400, "k must be a whole number, got '²'"),
        ({"data": {f"f{n}": "x" for n in range(9)}}, 400, "Too many fields"),
        ({"data": {"q": "x" * 70_000}}, 400, "Field exceeded maximum size"),
        ({"files": [("image", ("a", b"1")), ("image", ("b", b"2"))]}, 400, "Too many files"),
        ({"content": b"--", "headers": {"content-type": "multipart/form-data"}}, 400, "Missing boundary"),
    ],
)
def test_a_bad_form_is_refused_in_one_sentence(client, sent, status, sentence):
    answer = client.post("/search", **sent)
    assert (answer.status_code, answer.json()["error"][: len(sentence)]) == (status, sentence)


def test_no_bytes_in_a_form_or_a_text_make_the_server_fail(client):
    for text in ("\x00", "\ud7ff\uffff", "🌙" * 300, "%", "' OR 1=1 --", "\u202e\u0301" * 100, "{{7*7}}"):
        for path in ("/search", "/"):
            assert client.get(path, params={"q": text, "shopper": text[:50]}).status_code == 200, text
    for raw in (b"q=%ff%fe", b"q=x&shopper=%00"):
        kind = {"content-type": "application/x-www-form-urlencoded"}
        assert client.post("/search", content=raw, headers=kind).status_code == 200


def test_wrong_places_and_methods_are_named(client):
    answer = client.get("/nowhere")
    assert (answer.status_code, answer.json()) == (404, {"error": "nothing is at /nowhere: the page is at /"})
    answer = client.put("/search")
    assert answer.status_code == 405
    assert answer.json()["error"].startswith("PUT is not possible here: use ")
    for path in ("/docs", "/redoc", "/static/", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code == 404, path


def test_stored_pictures_are_served_with_their_kind_and_a_tag(client, shop):
    answer = client.get("/image/i05")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.content == shop.images["i05"]
    again = client.get("/image/i05", headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("image_id", ["nothing", "../run.json", "", "i05/", "%00"])
def test_an_unknown_picture_is_a_404(client, image_id):
    answer = client.get(f"/image/{image_id}")
    assert answer.status_code == 404
    assert "error" in answer.json()


def test_an_unknown_picture_to_search_with_is_a_404_on_the_page(client):
    answer = client.get("/", params={"like": "<b>"})
    assert answer.status_code == 404
    assert "No picture has the id &#39;&lt;b&gt;&#39;." in answer.text


def test_health_names_what_is_missing(client, shop):
    assert client.get("/healthz").json() == {
        "status": "ok",
        "missing": {},
        "versions": {"encoder": "color-1", "vectors": "color-1", "click model": "blue-1"},
        "products": 24,
        "advertised": 9,
    }
    less = TestClient(create_app(open_pipeline(shop, clicks=False))).get("/healthz").json()
    assert (less["status"], less["missing"]) == ("degraded", {"rank": "no click model in this run"})


@pytest.mark.parametrize(
    "path",
    ["/", "/?q=lamp", "/search?q=x", "/search", "/healthz", "/image/i05", "/nowhere", "/static/page.js"],
)
def test_every_response_carries_the_safety_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert headers["cache-control"] in ("no-cache", "no-store")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_our_own_failure_is_a_500_that_tells_nothing(shop, pipeline, caplog):
    class Broken:
        def encode_query(self, text, image):
            raise ZeroDivisionError("secret")

    parts = full_parts(shop, pipeline.stock)
    parts.encoder = Broken()
    client = TestClient(create_app(open_pipeline(shop, parts=parts)), raise_server_exceptions=False)
    answer = client.get("/search?q=x")
    assert (answer.status_code, answer.json()) == (500, {"error": OUR_FAULT})
    assert answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert "GET /search failed" in caplog.text


# ---- the page


def test_the_start_page_offers_searches_pictures_and_shoppers(client):
    html = client.get("/").text
    assert "24 products" in html
    assert "9 advertised" in html
    assert 'href="/?q=red%20mug"' in html
    assert 'href="/?like=i05"' in html
    for shopper in ("ann", "bob"):
        assert f'name="shopper" value="{shopper}"' in html
    for outside in ("http://", "https://", "//cdn"):
        assert outside not in html


def test_results_show_scores_prices_and_the_trace(client, pipeline):
    html = client.get("/", params={"q": "blue lamp", "shopper": "bob"}).text
    answer = pipeline.search("blue lamp", None, "bob", 16)
    assert html.count('class="item ad"') == len(answer.ads)
    assert html.count('class="label">Ad<') == len(answer.ads)
    assert html.count("<li class=") == len(answer.ads) + len(answer.products)
    ad = answer.ads[0]
    for text in (f"${ad.bid_cents / 100:.2f}", f"${ad.charge_cents / 100:.2f}", f"{ad.rank_score:.2f}"):
        assert f"<dd>{text}</dd>" in html
    assert f"<dd>{100 * ad.p_click:.1f}%</dd>" in html
    for step in answer.trace.steps:
        assert f'<th scope="row">{step.name}</th>' in html
    assert 'value="bob" checked' in html
    assert 'value="blue lamp"' in html


def test_titles_queries_and_ids_are_escaped(client):
    evil = '"><script>alert(1)</script>'
    html = client.get("/", params={"q": evil, "shopper": evil}).text
    assert "<script>alert" not in html
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Blue mug &lt;No. 2&gt;" in client.get("/?q=blue+mug").text
    assert "Ebb &amp; Flow" in html
    assert "<No." not in html


def test_the_fragment_is_the_results_alone(client):
    whole, part = client.get("/?q=lamp").text, client.get("/?q=lamp", headers=FRAGMENT).text
    assert "<form" in whole
    assert "<form" not in part
    assert 'id="products-title"' in part
    refused = client.get("/?q=" + "x" * 301, headers=FRAGMENT)
    assert refused.status_code == 400
    assert "301 characters" in refused.text
    assert "<form" not in refused.text


def test_the_form_works_without_a_script(client):
    html = client.post("/", data={"q": "lamp", "shopper": "ann"}, **upload(b"")).text  # no picture chosen
    assert "“lamp”" in html
    assert 'value="ann" checked' in html
    shown = client.post("/", **upload(picture(COLORS["blue"]))).text
    assert "By picture" in shown
    assert 'src="data:image/jpeg;base64,' in shown
    stored = client.post("/", data={"like": "i05", "q": ""}).text
    assert "By picture" in stored
    assert 'src="/image/i05" alt="The picture searched with"' in stored
    nothing = client.post("/", data={"q": ""})
    assert (nothing.status_code, 'role="alert"' in nothing.text) == (400, True)
    kept = client.post("/", data={"q": "kept words"}, **upload(b"GIF89a"))
    assert 'value="kept words"' in kept.text


def test_a_page_that_runs_with_less_says_so(shop):
    client = TestClient(create_app(open_pipeline(shop, clicks=False)))
    html = client.get("/?q=lamp").text
    assert "Running with less." in html
    assert "No click model in this run: ordered by relevance alone." in html
    assert "<dd>–</dd>" in html


def test_a_search_without_results_says_so(shop, pipeline):
    parts = full_parts(shop, pipeline.stock)
    parts.shard = parts.creatives = None
    html = TestClient(create_app(open_pipeline(shop, parts=parts))).get("/?q=zzz").text
    assert "Nothing matches." in html


def test_a_picture_with_transparency_or_of_webp_is_searched(client):
    for form, mode in (("WEBP", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "CMYK")):
        file = io.BytesIO()
        Image.new(mode, (20, 30)).save(file, form)
        assert client.post("/search", **upload(file.getvalue())).status_code == 200, (form, mode)
        assert client.post("/", **upload(file.getvalue())).status_code == 200, (form, mode)
