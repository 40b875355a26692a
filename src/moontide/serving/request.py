"""What a request may ask for, and the one sentence it is refused with otherwise."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from PIL import Image

from moontide.foundation.errors import DataError, ImageError
from moontide.foundation.images import ImageLimits, decode

MAX_TEXT = 300  # characters
MAX_ID = 200  # characters of a shopper's id
MAX_RESULTS = 48
_DECODING = threading.BoundedSemaphore(2)  # a picture unpacks to 70 MB and more: few at a time
LIMITS = ImageLimits(max_bytes=8 * 1024 * 1024, max_pixels=24_000_000)
IMAGE_STATUS = {"too_many_bytes": 413, "too_many_pixels": 413, "not_an_image": 415}


class RequestError(DataError):
    """A request that is refused.

    Args:
        text: the sentence for people.
        status: the HTTP status, 400 to 499.
    """

    def __init__(self, text: str, status: int = 400):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Request:
    """One checked search: `text` (spaces tidied) or `image` or both; `num` organic products are wanted."""

    text: str | None
    image: bytes | None
    shopper_id: str | None
    num: int


def checked(
    text: str | None = None, image: bytes | None = None, shopper_id: str | None = None, num: int = 12
) -> Request:
    """A request within bounds.

    Raises:
        RequestError: nothing is asked, the text or the id is too long, `num` is out of range, or the picture
            is refused (too large, of another format, broken).

    Example:
        >>> checked("  red   boots ").text
        'red boots'
        >>> checked("")
        Traceback (most recent call last):
        moontide.serving.request.RequestError: type what you are looking for, or give a picture
    """
    text = " ".join((text or "").split())
    if not text and not image:
        raise RequestError("type what you are looking for, or give a picture")
    if len(text) > MAX_TEXT:
        raise RequestError(f"the search text has {len(text):,} characters, more than {MAX_TEXT}: shorten it")
    if shopper_id and len(shopper_id) > MAX_ID:
        raise RequestError(f"the shopper's id has {len(shopper_id):,} characters, more than {MAX_ID}")
    if not 1 <= num <= MAX_RESULTS:
        raise RequestError(f"k must be from 1 to {MAX_RESULTS}, got {num}")
    if image:
        try:
            decoded(image, 64)
        except ImageError as error:
            raise RequestError(str(error), IMAGE_STATUS.get(error.reason, 400)) from None
    return Request(text or None, image or None, shopper_id or None, num)


def decoded(image: bytes, side: int | None = None) -> Image.Image:
    """A picture of a request as pixels, see `foundation.images.decode`; at most two threads unpack at once.

    Raises:
        ImageError: it is refused.
    """
    with _DECODING:
        return decode(image, side, LIMITS)
