"""Which words and which parts of a picture carry the match of an item with another vector.

An item's vector is z / |z|, z a projected mean of token states; with q the other vector, the cosine is
s = q . z / |z|. Two accounts of it:

    gradient       what s would lose, to first order, if a part were like the rest of the item:
                   a patch   sum over its pixels of ds/dx (x - mean color of the picture)
                   a token   ds/de . (e - mean embedding of the item's text)
    contribution   what each last-layer state adds: q . (W h_j + b) / (n |z|); they sum to s exactly

In a market with true boxes gradients find the product and, in titles, the words of the query; contributions
hardly do, because attention has mixed the last states (`studies/maps.py`). Hence the default.

Paper: MOON, heat-maps (the procedure is not published; both accounts are ours).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch

from moontide.encoder.model.backbone import Backbone
from moontide.encoder.model.encoder import MoonEncoder
from moontide.encoder.model.inputs import Item, canonical
from moontide.encoder.model.pooling import Pooling
from moontide.encoder.model.prepared import Prepared
from moontide.foundation.errors import DataError, SettingsError

Method = Literal["gradient", "contribution"]
SAME = 1e-4  # from a cosine of 1: an item against itself, mapped by what makes its vector long


class Word(NamedTuple):
    """Characters `start` to `end` of the item's text, and how much of the match they carry."""

    text: str
    weight: float
    start: int
    end: int


@dataclass(frozen=True)
class Heat:
    """Where the match is: the weights of all words and cells sum to 1, what speaks against it is 0.

    Args:
        words: of the item's text, in order; punctuation has none.
        grids: (rows, columns) of each picture, in order.
        cosine: of the item and what it was held against.
    """

    words: tuple[Word, ...]
    grids: tuple[np.ndarray, ...]
    cosine: float

    @property
    def picture_share(self) -> float:
        """The share of the match that the pictures carry."""
        return float(sum(grid.sum() for grid in self.grids))


@dataclass(frozen=True)
class Parts:
    """The match in signed parts: of every token (L,), and of every picture's cells (rows, columns).

    By contribution the tokens sum to the cosine and the grids are those of their tokens; by gradient the
    tokens of pictures have 0 and the grids hold patches, which are finer.
    """

    tokens: np.ndarray
    grids: tuple[np.ndarray, ...]
    cosine: float


def heat(encoder: MoonEncoder, item: Any, against: np.ndarray | Item, method: Method = "gradient") -> Heat:
    """What of `item` carries its similarity with `against`.

    Args:
        item: as for `encode_items`; the words and grids are its.
        against: an item, or a vector of this encoder.
        method: see the module's text.

    Raises:
        DataError: nothing to embed, or a vector of another width. ImageError: a picture is refused.
        SettingsError: an unknown method, or contributions of an encoder that pools by the last token.
    """
    item = canonical(item)
    prepared = encoder.prepare(item)
    parts = parts_of(encoder, prepared, _unit(encoder, against), method)
    text = text_slice(encoder.backbone, prepared)
    words = join_words(item.text or "", _offsets(encoder.backbone, item.text), parts.tokens[text])
    weights = [np.array([word.weight for word in words]), *parts.grids]
    weights = [np.clip(weight, 0, None) for weight in weights]
    if not any(weight.any() for weight in weights):  # one word or a plain picture: nothing stands out
        weights = [np.ones_like(weight) for weight in weights]
    total = sum(weight.sum() for weight in weights)
    shares, *grids = (weight / total for weight in weights)
    return Heat(
        tuple(word._replace(weight=float(share)) for word, share in zip(words, shares, strict=True)),
        tuple(grids),
        parts.cosine,
    )


def mass_inside(grid: np.ndarray, box: Sequence[float]) -> float:
    """The share of a grid's mass that lies in a box; a cell that the edge cuts counts by area.

    Args:
        grid: (rows, columns), not negative; without any mass it counts as even.
        box: x0, y0, x1, y1 as shares of the picture's sides.

    Example:
        >>> mass_inside(np.array([[3.0, 1.0]]), (0, 0, 0.5, 0.5))
        0.375
        >>> mass_inside(np.ones((1, 1)), (0, 0, 0.5, 0.5))  # the area's share
        0.25
    """
    mass = grid if grid.any() else np.ones_like(grid)
    rows, columns = grid.shape
    inside = _overlap(rows, box[1], box[3]) @ mass @ _overlap(columns, box[0], box[2])
    return float(inside / mass.sum())


def _overlap(num: int, low: float, high: float) -> np.ndarray:
    """How much of each of `num` equal stretches of 0..1 lies between two bounds."""
    bounds = np.arange(num + 1) / num
    return np.clip(np.minimum(bounds[1:], high) - np.maximum(bounds[:-1], low), 0, None) * num


# --- the accounts ---------------------------------------------------------------------------------------


def parts_of(encoder: MoonEncoder, prepared: Prepared, vector: np.ndarray, method: Method) -> Parts:
    """The match of a prepared item with a unit vector (D,), in signed parts.

    Raises:
        SettingsError: as `heat`.
    """
    if method not in get_args(Method):
        raise SettingsError(f"no method is called {method!r}: the methods are {', '.join(get_args(Method))}")
    query_D = torch.from_numpy(vector).to(encoder.device)
    account = _by_gradient if method == "gradient" else _by_contribution
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.enable_grad():
            return account(encoder, prepared, query_D)
    finally:
        encoder.train(was_training)


def _by_gradient(encoder: MoonEncoder, prepared: Prepared, query_D: torch.Tensor) -> Parts:
    backbone = encoder.backbone
    # Copies: a picture that an item has twice is one for `collate`, and would have one gradient.
    prepared = replace(prepared, pictures=tuple(one.copy() for one in prepared.pictures))
    features = _features(encoder, prepared)
    leaves: list[torch.Tensor] = []
    if "patches" in features:
        leaves.append(features["patches"].float().requires_grad_())
        features["patches"] = leaves[0]

    def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hook = backbone.model.get_input_embeddings().register_forward_hook(keep)
    try:
        vector_D = _projected(encoder, backbone(features))
    finally:
        hook.remove()
    length = vector_D.norm()
    if query_D @ vector_D > (1 - SAME) * length:  # at its peak the cosine has no slope
        length = length.detach()
    score = query_D @ vector_D / length
    gradients = torch.autograd.grad(score, leaves)
    tokens_L = np.zeros(len(prepared), dtype=np.float32)
    text = text_slice(backbone, prepared)
    if text.start < text.stop:
        embedding_LD, gradient_LD = leaves[-1][0, text].float(), gradients[-1][0, text].float()
        rest_LD = embedding_LD - embedding_LD.mean(0)
        tokens_L[text] = (gradient_LD * rest_LD).sum(1).detach().cpu().numpy()
    grids, sizes = [], prepared.grids.prod(1).tolist()
    if prepared.pictures:
        pairs = zip(leaves[0].split(sizes), gradients[0].split(sizes), prepared.grids, strict=True)
        for pixels, gradient, grid in pairs:
            colors = pixels.detach().view(len(pixels), 3, -1)
            rest = (colors - colors.mean((0, 2), keepdim=True)).flatten(1)
            grids.append(_rows_of((gradient * rest).sum(1).cpu().numpy(), grid, backbone.merge))
    return Parts(tokens_L, tuple(grids), score.item())


def _by_contribution(encoder: MoonEncoder, prepared: Prepared, query_D: torch.Tensor) -> Parts:
    backbone, pooling = encoder.backbone, encoder[1]
    assert isinstance(pooling, Pooling)
    if pooling.mode != "mean":
        raise SettingsError(
            "contributions are those of a mean, and this encoder pools by its last token: use gradient"
        )
    with torch.no_grad():
        features = backbone(_features(encoder, prepared))
    states_BLD = features["token_embeddings"].float().requires_grad_()
    vector_D = _projected(encoder, features | {"token_embeddings": states_BLD})
    score = query_D @ vector_D / vector_D.norm().detach()  # linear in the states
    (gradient_BLD,) = torch.autograd.grad(score, states_BLD)
    parts_L = (gradient_BLD * states_BLD).detach().sum(2)[0]
    parts_L = parts_L + (score.detach() - parts_L.sum()) / len(parts_L)  # the projection's bias, evenly
    tokens_L = parts_L.cpu().numpy()
    spans = [span for span in prepared.spans if span.kind == "image"]
    grids = [
        tokens_L[span.start : span.end].reshape(grid // backbone.merge)
        for span, grid in zip(spans, prepared.grids, strict=True)
    ]
    return Parts(tokens_L, tuple(grids), score.item())


def _features(encoder: MoonEncoder, prepared: Prepared) -> dict[str, Any]:
    return {name: x.to(encoder.device) for name, x in encoder.backbone.collate([prepared]).items()}


def _projected(encoder: MoonEncoder, features: dict[str, Any]) -> torch.Tensor:
    """z (D,) of the one item of a batch."""
    pooled_BD = encoder[1](features)["sentence_embedding"]
    return encoder.matryoshka.projection(pooled_BD).float()[0]


def _rows_of(values: np.ndarray, grid: np.ndarray, merge: int) -> np.ndarray:
    """Values of patches, in the order of `patchify`, as (rows, columns)."""
    rows, columns = grid
    blocks = values.reshape(rows // merge, columns // merge, merge, merge)
    return blocks.transpose(0, 2, 1, 3).reshape(rows, columns)


def _unit(encoder: MoonEncoder, against: np.ndarray | Item) -> np.ndarray:
    if isinstance(against, Item):
        return encoder.encode_items([against])[0]
    vector, dim = np.asarray(against, dtype=np.float32), encoder.get_embedding_dimension()
    if vector.shape != (dim,) or not np.linalg.norm(vector) > 0:
        raise DataError(f"the other vector must have {dim} components and a length, got {vector.shape}")
    return vector / np.linalg.norm(vector)


# --- tokens to words ------------------------------------------------------------------------------------


def text_slice(backbone: Backbone, prepared: Prepared) -> slice:
    """Which tokens of a prepared item are its text."""
    images = [span.end for span in prepared.spans if span.kind == "image"]
    settings = backbone.settings
    start = images[-1] + 1 if images else len(backbone.tokens(settings.before))  # + 1: end of the picture
    return slice(start, len(prepared) - len(backbone.tokens(settings.after)))


def _offsets(backbone: Backbone, text: str | None) -> list[tuple[int, int]]:
    """Characters of each token of a text, as `Backbone.prepare` cuts it into tokens."""
    options = {"add_special_tokens": False, "return_offsets_mapping": True, "split_special_tokens": True}
    return backbone.tokenizer(text, **options)["offset_mapping"] if text else []


def join_words(text: str, offsets: Sequence[tuple[int, int]], weights: np.ndarray) -> list[Word]:
    """Tokens put together to the words they spell; every ideograph is a word, punctuation is none.

    Args:
        offsets: characters of each token; those beyond the last weight were cut away.

    Example:
        >>> join_words("t-shirt 12", [(0, 1), (1, 2), (2, 4), (4, 7), (7, 9), (9, 10)], np.arange(6.0))
        [Word(text='t', weight=0.0, start=0, end=1), Word(text='shirt', weight=5.0, start=2, end=7),
         Word(text='12', weight=9.0, start=8, end=10)]
    """
    words: list[Word] = []
    for (start, end), weight in zip(offsets, weights.tolist(), strict=False):
        said = text[start:end]
        start, end = start + len(said) - len(said.lstrip()), end - len(said) + len(said.rstrip())
        if start >= end:
            continue
        last = words[-1] if words else None
        if last and (start < last.end or (start == last.end and _is_one(text[start - 1 : start + 1]))):
            start, weight = last.start, weight + last.weight
            end = max(end, last.end)
            words.pop()
        words.append(Word(text[start:end], weight, start, end))
    return [word for word in words if any(map(str.isalnum, word.text))]


def _is_one(pair: str) -> bool:
    """Whether two neighboring characters belong to one word."""
    return all(one.isalnum() and not "\u2e80" <= one <= "\u9fff" for one in pair)
