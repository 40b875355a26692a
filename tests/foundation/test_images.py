"""Pictures from outside: what is refused, by which reason, and that what is taken looks as it should."""

import hashlib
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from moontide.foundation.errors import ImageError
from moontide.foundation.images import ImageLimits, decode, image_facts, open_image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def halves(size=(64, 64)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, size[0], size[1]))
    return image


def refusal(data: bytes, limits: ImageLimits = ImageLimits()) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        decode(data, limits=limits)
    return caught.value.reason, str(caught.value)


def test_jpeg_png_and_webp_are_decoded_to_rgb():
    for kind, options in (("JPEG", {"quality": 95}), ("PNG", {}), ("WEBP", {"lossless": True})):
        image = decode(encoded(halves(), kind, **options))
        assert (image.mode, image.size) == ("RGB", (64, 64))
        np.testing.assert_allclose(image.getpixel((5, 30)), (255, 0, 0), atol=4)
        np.testing.assert_allclose(image.getpixel((58, 30)), (0, 0, 255), atol=4)


def test_with_a_side_the_picture_becomes_a_square():
    image = decode(encoded(halves((90, 40)), "JPEG"), 32)
    assert image.size == (32, 32)
    np.testing.assert_allclose(image.getpixel((2, 16)), (255, 0, 0), atol=6)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ("empty", "the picture is empty (0 bytes): give a JPEG, PNG or WebP file")),
        (b"<svg></svg>", ("not_an_image", "the file is not a readable JPEG, PNG or WebP picture")),
        (encoded(halves(), "GIF"), ("not_an_image", "the file is not a readable JPEG, PNG or WebP picture")),
        (encoded(halves(), "BMP"), ("not_an_image", "the file is not a readable JPEG, PNG or WebP picture")),
        (encoded(halves((64, 3))), ("too_small", "the picture is 64x3 pixels, under 4 on a side")),
    ],
    ids=["empty", "svg", "gif", "bmp", "small"],
)
def test_what_is_no_usable_picture_is_refused_by_its_reason(data, expected):
    assert refusal(data) == expected


def test_a_file_of_too_many_bytes_is_refused():
    data = encoded(halves())
    text = f"the picture has {len(data):,} bytes, more than 50: shrink it"
    assert refusal(data, ImageLimits(max_bytes=50)) == ("too_many_bytes", text)


def test_a_decompression_bomb_is_refused_from_its_header():
    bomb = encoded(Image.new("1", (8000, 8000)))
    assert len(bomb) < 20_000
    text = "the picture has 64,000,000 pixels, more than 40,000,000: shrink it"
    assert refusal(bomb) == ("too_many_pixels", text)


def test_a_header_that_claims_more_than_pillow_allows_is_refused_too():
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in IHDR
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    assert refusal(bytes(data)) == ("too_many_pixels", "the picture has more than 40,000,000 pixels")


def test_a_truncated_jpeg_is_refused():
    data = encoded(Image.effect_noise((64, 64), 80), "JPEG")
    reason, text = refusal(data[: len(data) // 2])
    assert reason == "broken_pixels"
    assert text.startswith("the picture cannot be decoded (image file is truncated")
    assert text.endswith("): save it again")


def test_a_header_alone_is_opened_without_its_pixels():
    data = encoded(Image.effect_noise((64, 48), 80), "JPEG")
    assert open_image(data[: len(data) // 2]).size == (64, 48)


def test_camera_rotation_is_applied_and_counts_in_the_facts():
    tags = Image.Exif()
    tags[0x0112] = 6  # to be turned a quarter clockwise
    data = encoded(halves((64, 32)), "JPEG", exif=tags, quality=95)
    image = decode(data)
    assert image.size == (32, 64)
    np.testing.assert_allclose(image.getpixel((16, 5)), (255, 0, 0), atol=6)  # red was left, is on top
    facts = image_facts(data)
    assert (facts.width, facts.height) == (32, 64)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_camera_data_does_not_cost_the_picture():
    for junk in (b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        assert decode(encoded(halves((64, 32)), "JPEG", exif=junk)).size == (64, 32)


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    palette = halves((8, 8)).quantize(2)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert decode(encoded(clear)).getpixel((4, 4)) == (255, 255, 255)
    assert decode(encoded(clear.convert("LA"))).getpixel((4, 4)) == (255, 255, 255)
    image = decode(encoded(palette, transparency=palette.info["transparency"]))
    assert image.getpixel((1, 1)) == (255, 255, 255)
    assert image.getpixel((6, 1)) == (0, 0, 255)


def test_gray_of_16_bits_is_scaled_and_not_cut_off():
    ramp = np.repeat(np.array([0, 0x4000, 0x8000, 0xFFFF], np.uint16), 16).reshape(4, 16)
    image = decode(encoded(Image.fromarray(ramp)))
    assert [image.getpixel((8, row)) for row in range(4)] == [(v, v, v) for v in (0, 0x40, 0x80, 0xFF)]


def test_facts_are_those_of_the_bytes():
    ramp = np.tile(np.linspace(0, 255, 72, dtype=np.uint8), (64, 1))
    data = encoded(Image.fromarray(ramp))
    facts = image_facts(data)
    assert (facts.width, facts.height) == (72, 64)
    assert facts.sha256 == hashlib.sha256(data).hexdigest()
    assert facts.dhash == "f" * 16  # brighter to the right everywhere
    assert image_facts(encoded(Image.fromarray(ramp[:, ::-1]))).dhash == "0" * 16


def test_the_difference_hash_hardly_moves_when_a_picture_is_saved_again():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (8, 9)), np.ones((16, 16))).astype(np.uint8)
    first = Image.fromarray(blocks)
    hashes = [
        int(image_facts(encoded(image, "JPEG", quality=quality)).dhash, 16)
        for image, quality in ((first, 95), (first, 60), (first.resize((100, 90)), 80))
    ]
    assert max((hashes[0] ^ other).bit_count() for other in hashes[1:]) <= 2
