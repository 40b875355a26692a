"""Pictures in a folder or a zip: found by a table's paths, and never read from outside."""

import os
import zipfile

import pytest

from catalog.shop import picture, write_pictures, zipped
from moontide.catalog.pictures import guess_pattern, matching, open_pictures, safe_path
from moontide.foundation.errors import DataError, ImageError, StorageError
from moontide.foundation.images import LIMITS


def reason_of(function, *arguments) -> str:
    with pytest.raises(ImageError) as caught:
        function(*arguments)
    return caught.value.reason


@pytest.fixture(params=["folder", "zip", "zip of a folder"])
def pictures(request, tmp_path):
    folder = write_pictures(tmp_path / "shop", ["p0", "p1"])
    if request.param == "folder":
        return open_pictures(folder)
    prefix = "shop/" if request.param == "zip of a folder" else ""
    return open_pictures(zipped(folder, tmp_path / "shop.zip", prefix))


def test_pictures_are_found_and_read(pictures):
    assert pictures.read(pictures.find("pics/p1.jpg")) == picture(1)
    for path in ("./pics/p1.jpg", r"pics\p1.jpg", "shop/pics/p1.jpg"):
        assert pictures.read(pictures.find(path)) == picture(1), path
    assert [name.rpartition("/")[2] for name in pictures.names()] == ["p0.jpg", "p1.jpg"]


def test_what_is_not_there_or_leads_out_is_refused(pictures):
    assert reason_of(pictures.find, "pics/p9.jpg") == "missing_image"
    assert reason_of(pictures.find, "pics") == "missing_image"
    for path in (
        "../secret.jpg",
        "pics/../../secret.jpg",
        "/etc/passwd",
        r"..\secret.jpg",
        r"C:\a.jpg",
        "a\0.jpg",
    ):
        assert reason_of(pictures.find, path) == "unsafe_path", path
    assert reason_of(pictures.find, "https://shop.example/p1.jpg") == "image_is_url"


def test_an_absolute_path_into_the_folder_is_allowed(tmp_path):
    folder = write_pictures(tmp_path / "shop", ["p0"])
    pictures = open_pictures(folder)
    assert pictures.find(str(folder / "pics" / "p0.jpg")) == "pics/p0.jpg"


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(picture(5))
    folder = write_pictures(tmp_path / "shop", ["p0"])
    (folder / "pics" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "pics" / "in.jpg").symlink_to(folder / "pics" / "p0.jpg")
    pictures = open_pictures(folder)
    assert reason_of(pictures.read, pictures.find("pics/out.jpg")) == "unsafe_path"
    assert pictures.read(pictures.find("pics/in.jpg")) == picture(0)


def test_a_pipe_is_no_picture(tmp_path):
    folder = write_pictures(tmp_path / "shop", ["p0"])
    os.mkfifo(folder / "pipe.jpg")
    assert reason_of(open_pictures(folder).find, "pipe.jpg") == "missing_image"


def test_members_of_a_zip_that_lead_out_cannot_be_asked_for(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../evil.jpg", picture(0))
        archive.writestr("/abs.jpg", picture(0))
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    pictures = open_pictures(tmp_path / "a.zip")
    assert pictures.names() == ["link.jpg"]
    assert reason_of(pictures.find, "../evil.jpg") == "unsafe_path"
    assert reason_of(pictures.find, "/abs.jpg") == "unsafe_path"
    assert reason_of(pictures.read, "link.jpg") == "unsafe_path"
    assert not (tmp_path.parent / "evil.jpg").exists()


def test_a_zip_bomb_and_a_broken_member_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.jpg", bytes(LIMITS.max_bytes + 1))
        archive.writestr("good.jpg", picture(0, side=240), zipfile.ZIP_LZMA)
    pictures = open_pictures(tmp_path / "a.zip")
    assert reason_of(pictures.read, "bomb.jpg") == "too_many_bytes"
    assert pictures.read("good.jpg") == picture(0, side=240)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    start = data.rindex(b"good.jpg", 0, data.rindex(b"good.jpg")) + 40
    data[start : start + 60] = bytes(60)
    (tmp_path / "b.zip").write_bytes(data)
    assert reason_of(open_pictures(tmp_path / "b.zip").read, "good.jpg") == "broken_file"


def test_a_file_of_too_many_bytes_is_not_read_whole(tmp_path):
    with (tmp_path / "big.jpg").open("wb") as file:
        file.truncate(LIMITS.max_bytes + 1)
    assert reason_of(open_pictures(tmp_path).read, "big.jpg") == "too_many_bytes"


def test_the_pattern_of_names_is_guessed(tmp_path):
    pictures = open_pictures(write_pictures(tmp_path / "shop", ["p0", "p1", "logo"]))
    assert guess_pattern(pictures, ["p0", "p1", "p2"]) == "pics/{id}.jpg"
    assert guess_pattern(pictures, ["p0", "q1", "q2"]) is None
    (tmp_path / "shop" / "pics" / "p2.png").write_bytes(picture(3, kind="PNG"))
    pictures = open_pictures(tmp_path / "shop")
    assert guess_pattern(pictures, ["p0", "p1", "p2"]) == "pics/{id}.*"
    assert matching(pictures, "pics/p2.*") == ["pics/p2.png"]


def test_a_star_matches_in_order_and_an_escaped_one_only_itself(tmp_path):
    pictures = open_pictures(write_pictures(tmp_path / "shop", ["a*", "ab_2", "ab_1"]))
    assert matching(pictures, "pics/ab_*.jpg") == ["pics/ab_1.jpg", "pics/ab_2.jpg"]
    assert matching(pictures, "pics/a[*].*") == ["pics/a*.jpg"]
    assert reason_of(matching, pictures, "pics/zz*.jpg") == "missing_image"
    assert reason_of(matching, pictures, "../*.jpg") == "unsafe_path"


def test_a_place_without_pictures_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"no folder or zip of pictures at .*none: check --images"):
        open_pictures(tmp_path / "none")
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(DataError, match=r"a.zip is neither a folder nor a whole zip file: check --images"):
        open_pictures(tmp_path / "a.zip")


def test_safe_paths_are_plain():
    assert safe_path("./a//b/./c.jpg") == "a/b/c.jpg"
