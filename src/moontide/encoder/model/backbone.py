"""The vision-language model under a MoonEncoder: items to token states.

`prepare` works on one item without the model (worker threads may call it), `collate` makes a batch,
`forward` runs the model. Text is cut to `max_text_tokens` between words and pictures are bounded in number
and size, so that no limit ever falls inside a picture's tokens. B batch, L tokens, D width.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pydantic
import torch
from PIL import Image
from sentence_transformers.base.modules import Module
from transformers import AutoConfig, AutoModelForImageTextToText, Cache
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from moontide.encoder.model.adapters import add_adapters, merged_weights
from moontide.encoder.model.attention import Attention, attention_mask, rope_positions
from moontide.encoder.model.completion import extended
from moontide.encoder.model.endings import WritingHalf
from moontide.encoder.model.inputs import (
    KINDS,
    Cropped,
    Crops,
    Item,
    Part,
    Picture,
    ProductView,
    canonical,
    edges,
    opened,
)
from moontide.encoder.model.norm import quicken
from moontide.encoder.model.prepared import Album, Prepared, cut, image_spans, text_spans
from moontide.encoder.model.processor import load_processor, save_processor
from moontide.encoder.model.slots import LayerSlots, hub_arguments, load_slot, save_slot
from moontide.encoder.model.vision import Sight, patchify, see
from moontide.foundation.errors import CheckpointError, DataError, ImageError, SettingsError
from moontide.foundation.images import open_image
from moontide.foundation.settings import Settings

if TYPE_CHECKING:
    from moontide.catalog.regions import Regions

FAMILIES = ("qwen3_vl", "qwen2_5_vl")
REMEMBERED = 2_048  # layouts of items, some 4 kB each: two windows of an embedding job


class BackboneSettings(Settings):
    """How items become tokens, and how the model attends; saved beside the weights."""

    image_side: int | None = pydantic.Field(
        None, ge=28, description="pictures are squeezed to this square, pixels; None keeps their shape"
    )
    max_pixels: int = pydantic.Field(448 * 448, ge=28 * 28, description="area limit where the shape is kept")
    max_images: int = pydantic.Field(4, ge=1, le=64, description="pictures of one item; more are an error")
    num_images: int = pydantic.Field(1, ge=1, le=64, description="pictures of a product it is shown")
    crops: Crops = pydantic.Field("none", description="core-product regions: added to pictures, or only them")
    max_text_tokens: int = pydantic.Field(256, ge=1, description="longer texts are cut between words")
    attention: Attention = pydantic.Field("bidirectional", description="who attends to whom")
    before: str = pydantic.Field("", description="text in front of every item, for instance a chat header")
    after: str = pydantic.Field("", description="text behind every item")
    precision: Literal["float32", "bfloat16"] = pydantic.Field("float32", description="of the computation")
    lora_rank: int = pydantic.Field(0, ge=0, le=512, description="rank of the adapters; 0 trains all weights")
    reasoning_tokens: int = pydantic.Field(
        0, ge=0, description="most tokens between an item and its `<emb>`; 0: an encoder that does not reason"
    )
    reasons: Literal["none", "query", "item", "both"] = pydantic.Field(
        "none", description="the side that is reasoned about when vectors are served"
    )


class Backbone(WritingHalf, Module):
    """First module of a MoonEncoder: a transformers Qwen-VL model, its processor, and two slots.

    Args:
        model: a Qwen3-VL or Qwen2.5-VL model with its language head.
        processor: of the same checkpoint.
        settings: see `BackboneSettings`.

    Raises:
        SettingsError: `image_side` is no multiple of the model's patch x merge size.
    """

    config_file_name = "moontide_backbone.json"
    save_in_root = True
    modalities = ["text", "image", "message", ("image", "text")]

    def __init__(self, model: Any, processor: Any, settings: BackboneSettings):
        super().__init__()
        self.model, self.processor, self.settings = model, processor, settings
        self.tokenizer = processor.tokenizer
        quicken(model)
        self.experts: torch.nn.Module | None = None
        self.residual: torch.nn.Module | None = None
        self._remembered = REMEMBERED
        self._layouts: dict[Any, Prepared] = {}
        self._tokens: dict[str, np.ndarray] = {}
        self._layer_slots = LayerSlots(self.language.layers, self)
        vision = self.visual.config
        self.patch, self.merge = vision.patch_size, vision.spatial_merge_size
        if settings.image_side and settings.image_side % (self.patch * self.merge):
            raise SettingsError(
                f"image_side must be a multiple of {self.patch * self.merge} (patch x merge), "
                f"got {settings.image_side}"
            )
        if settings.lora_rank:
            add_adapters(model, settings.lora_rank)

    @property
    def language(self) -> Any:
        """The decoder."""
        return self.model.model.language_model

    @property
    def visual(self) -> Any:
        """The vision tower."""
        return self.model.model.visual

    @cached_property
    def _frame(self) -> tuple[np.ndarray, np.ndarray]:
        return self.tokens(self.settings.before), self.tokens(self.settings.after)

    # --- items to numbers -------------------------------------------------------------------------------

    def tokens(self, text: str) -> np.ndarray:
        """Token ids of a text, special tokens understood, nothing added; remembered, hence read-only."""
        found = self._tokens.get(text)
        if found is None:
            found = np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
            found.flags.writeable = False
            if len(self._tokens) >= self._remembered:
                self._tokens.clear()
            self._tokens[text] = found
        return found

    def prepare(self, value: Any) -> Prepared:
        """The numbers of one item; needs no model and no GPU.

        Raises:
            DataError: nothing to embed, or too many pictures.
            ImageError: a picture is refused.
        """
        return self.prepare_all([value])[0]

    def prepare_all(self, values: Sequence[Any]) -> list[Prepared]:
        """`prepare` of many, a picture object that several of them hold being decoded once."""
        return self._prepared(values)

    def prompts(self, values: Sequence[Any]) -> list[Prepared]:
        """`prepare_all` without what stands at the end: reasoning and `<emb>` are still to be written."""
        return self._prepared(values, is_open=True)

    def _prepared(self, values: Sequence[Any], is_open: bool = False) -> list[Prepared]:
        seen: dict[Any, tuple[tuple[int, int], np.ndarray]] = {}
        found = []
        for value in values:
            item = canonical(value)
            self._check_number(item.images)
            pictures = []
            for image in item.images:
                key = (id(image.source), image.box) if isinstance(image, Cropped) else id(image)
                if key not in seen:
                    pixels = self.pixels(image)
                    size = (pixels.shape[0], pixels.shape[1])
                    seen[key] = (size, patchify(pixels, self.patch, self.merge))
                pictures.append(seen[key])
            layout = self._layout(item, [size for size, _ in pictures], is_open)
            found.append(replace(layout, pictures=tuple(patches for _, patches in pictures)))
        return found

    def num_tokens(self, value: Any) -> int:
        """Tokens of one item, from its text and, where the model keeps their shape, its pictures' headers.

        Raises:
            DataError: nothing to embed, or too many pictures.
            ImageError: a header is refused.
        """
        item = canonical(value)
        self._check_number(item.images)
        return len(self._layout(item, [self._size_from_header(image) for image in item.images]))

    def _size_from_header(self, picture: Picture) -> tuple[int, int]:
        side = self.settings.image_side
        if side:  # all pictures are squeezed to it: nothing to look up
            return side, side
        box = (0.0, 0.0, 1.0, 1.0)
        if isinstance(picture, Cropped):
            picture, box = picture.source, picture.box
        if isinstance(picture, np.ndarray):
            height, width = picture.shape[:2]
        else:
            width, height = open_image(picture).size
        left, top, right, bottom = edges(box, width, height)
        return self._seen_size(bottom - top, right - left)

    @contextmanager
    def remembering(self, num: int) -> Generator[None]:
        """Keep the layouts of `num` items within the block: training comes back to all of them."""
        before, self._remembered = self._remembered, num
        try:
            yield
        finally:
            self._remembered = before
            self._layouts.clear()
            self._tokens.clear()

    def picture_pieces(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[str, np.ndarray]]:
        """Pieces for `assemble`: the (height, width) of every picture between its start and end token."""
        config, pieces = self.model.config, []
        for size in sizes:
            pieces.append(("special", np.array([config.vision_start_token_id])))
            pieces.append(("image", np.array(size)))
            pieces.append(("special", np.array([config.vision_end_token_id])))
        return pieces

    def assemble(
        self, pieces: Sequence[tuple[str, np.ndarray]], pictures: Sequence[np.ndarray] = ()
    ) -> Prepared:
        """Join pieces (kind, token ids) and ("image", (height, width)) into one sequence with its positions.

        Args:
            pictures: the pixels of the pictures, in order.
        """
        ids, kinds, grids = [], [], []
        for kind, piece in pieces:
            if kind == "image":
                grids.append(piece // self.patch)
                num = int(np.prod(piece // (self.patch * self.merge)))
                piece = np.full(num, self.model.config.image_token_id)
            ids.append(piece)
            kinds.append(np.full(len(piece), KINDS.index(kind), dtype=np.int64))
        token_kinds = np.concatenate(kinds)
        merged = [(int(height) // self.merge, int(width) // self.merge) for height, width in grids]
        return Prepared(
            np.concatenate(ids).astype(np.int64),
            token_kinds,
            rope_positions(token_kinds == KINDS.index("image"), merged),
            tuple(patchify(picture, self.patch, self.merge) for picture in pictures),
            np.array(grids, dtype=np.int64).reshape(-1, 2),
        )

    def _layout(self, item: Item, sizes: Sequence[tuple[int, int]], is_open: bool = False) -> Prepared:
        """All of an item but its pixels, remembered: training and embedding come back to the same texts."""
        key = (item.text, item.parts, item.reasoning, is_open, *sizes)
        found = self._layouts.get(key)
        if found is None:
            found = self._new_layout(item, sizes)
            if self.settings.reasoning_tokens and not is_open:
                found = extended(found, self._ending(item.reasoning))
            for array in (found.ids, found.kinds, found.positions, found.grids):
                array.flags.writeable = False  # shared by all items of this layout
            if len(self._layouts) >= self._remembered:
                self._layouts.clear()
            self._layouts[key] = found
        return found

    def _new_layout(self, item: Item, sizes: Sequence[tuple[int, int]]) -> Prepared:
        before, after = self._frame
        pieces = [("special", before), *self.picture_pieces(sizes)]
        ids, offsets = self._text_tokens(item.text) if item.text is not None else (before[:0], [])
        layout = self.assemble([*pieces, ("query", ids), ("special", after)])
        images = image_spans(layout.kinds)
        if item.text is None:
            return replace(layout, spans=tuple(images))
        at = len(layout) - len(after) - len(ids)
        spans, codes = text_spans(item, offsets, at)
        layout.kinds[at : at + len(ids)] = codes
        return replace(layout, spans=(*images, *spans))

    def _check_number(self, images: Sequence[Picture]) -> None:
        if len(images) > self.settings.max_images:
            raise DataError(f"an item has {len(images)} pictures, more than {self.settings.max_images}")

    def pixels(self, picture: Picture) -> np.ndarray:
        """Decode to (height, width, 3) uint8 at the size the model sees; pixels of that size pass through.

        Raises:
            ImageError: the picture is refused.
        """
        side = self.settings.image_side
        if side and isinstance(picture, np.ndarray) and picture.shape[:2] == (side, side):
            return picture
        image = opened(picture, side)
        height, width = self._seen_size(image.height, image.width)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def _seen_size(self, height: int, width: int) -> tuple[int, int]:
        side, factor = self.settings.image_side, self.patch * self.merge
        if side:
            return side, side
        try:
            return smart_resize(height, width, factor, factor * factor, self.settings.max_pixels)
        except ValueError as error:
            raise ImageError(
                "too_long", f"a picture of {width}x{height} pixels is refused: {error}"
            ) from None

    def _text_tokens(self, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Ids and character offsets, cut to the limit between words."""
        coded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
        )
        offsets = [(start, end) for start, end in coded["offset_mapping"]]
        num = cut(text, offsets, self.settings.max_text_tokens)
        return np.asarray(coded["input_ids"][:num], dtype=np.int64), offsets[:num]

    def collate(self, batch: Sequence[Prepared], has_pictures: bool = True) -> dict[str, torch.Tensor]:
        """One batch, padded on the right; equal pictures are in it once, `picture_of` has their places."""
        length = max(map(len, batch))
        shape = (len(batch), length)
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        real, kinds = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        positions = np.zeros((len(batch), 3, length), dtype=np.int64)
        for row, one in enumerate(batch):
            num = len(one)
            ids[row, :num], real[row, :num], kinds[row, :num] = one.ids, 1, one.kinds
            positions[row, :, :num] = one.positions
        arrays = {"input_ids": ids, "attention_mask": real, "token_kinds": kinds, "position_ids": positions}
        if has_pictures and any(len(one.grids) for one in batch):
            album = Album.of(batch)
            arrays["patches"], arrays["grids"] = np.concatenate(album.patches), album.grids
            arrays["picture_of"] = np.array([number for own in album.places for number in own])
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """What sentence-transformers calls before `forward`; a prompt goes in front of the text."""
        items = [canonical(value) for value in inputs]
        if prompt:
            items = [_prompted(item, prompt) for item in items]
        return self.collate([self.prepare(item) for item in items])

    # --- numbers to states ------------------------------------------------------------------------------

    def look(self, album: Album, numbers: Sequence[int] | None = None) -> Sight:
        """What the vision tower makes of an album's pictures, or of those with these numbers."""
        numbers = range(len(album)) if numbers is None else numbers
        patches = torch.from_numpy(np.concatenate([album.patches[number] for number in numbers]))
        device = next(self.parameters()).device
        return self._see(patches.to(device), torch.from_numpy(album.grids[list(numbers)]).to(device))

    def _see(self, patches: torch.Tensor, grids: torch.Tensor) -> Sight:
        images = self.processor.image_processor
        mean, std = (torch.tensor(x, device=patches.device) for x in (images.image_mean, images.image_std))
        with self._precision(patches.device.type):
            visual, deep = see(self.visual, patches, grids, mean, std)
        return Sight((visual, *deep), tuple((grids.prod(1) // self.merge**2).tolist()))

    def _precision(self, kind: str) -> torch.autocast:
        return torch.autocast(kind, torch.bfloat16, enabled=self.settings.precision == "bfloat16")

    def states(
        self, features: dict[str, Any], attention: Attention, cache: Cache | None = None
    ) -> torch.Tensor:
        """Last-layer states (B, L, D) of a collated batch.

        `features["seen"]`, if given, has the visual tokens and deep-stack features of all its pictures, in
        order; else they are computed from `patches`. An empty `cache` is filled, for `next_states`.
        """
        with self._precision(features["input_ids"].device.type):
            embeds = self.model.get_input_embeddings()(features["input_ids"])
            extra: dict[str, Any] = {}
            if "patches" in features:
                sight = self._see(features["patches"], features["grids"])
                features["seen"] = sight.of(features["picture_of"].tolist())
            if "seen" in features:
                visual, *deep = features["seen"]
                is_image_BL = features["input_ids"] == self.model.config.image_token_id
                visual = visual.to(embeds.dtype)
                embeds = embeds.masked_scatter(is_image_BL.unsqueeze(-1), visual)
                features["visual_states"] = visual
                if deep:
                    features["middle_states"] = deep[-1]
                    extra = {"visual_pos_masks": is_image_BL, "deepstack_visual_embeds": deep}
            features["text_embeddings"] = embeds
            mask = attention_mask(features["attention_mask"], attention)
            return self._decoded(features, embeds, mask, features["position_ids"], cache, extra)

    def _decoded(
        self,
        features: dict[str, Any],
        embeds: torch.Tensor,
        mask: torch.Tensor,
        position_B3L: torch.Tensor,
        cache: Cache | None,
        extra: dict[str, Any],
    ) -> torch.Tensor:
        positions = position_B3L.transpose(0, 1)
        self._layer_slots.features = features
        try:
            output = self.language(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=torch.cat((positions[:1], positions)),
                past_key_values=cache,
                use_cache=cache is not None,
                **extra,
            )
        finally:
            self._layer_slots.features = None
        return output.last_hidden_state

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["token_embeddings"] = self.states(features, self.settings.attention)
        return features

    def view(self, regions: Regions | None) -> ProductView:
        """How this model is shown products, given the regions of a dataset."""
        settings = self.settings
        return ProductView(settings.num_images, regions if settings.crops != "none" else None, settings.crops)

    def get_embedding_dimension(self) -> int:
        return self.language.config.hidden_size

    # --- folders ----------------------------------------------------------------------------------------

    def get_config_dict(self) -> dict[str, Any]:
        return self.settings.model_dump(mode="json")

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """A transformers model folder, adapters folded into the weights, plus our settings and slots."""
        self.model.save_pretrained(output_path, state_dict=merged_weights(self.model))
        save_processor(self.processor, output_path)
        self.save_config(output_path)
        save_slot(self.experts, os.path.join(output_path, "experts"))
        save_slot(self.residual, os.path.join(output_path, "residual"))

    @classmethod
    def load(  # ty: ignore[incompatible-method-override]  upstream's other parameters are in kwargs
        cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any
    ) -> Self:
        values = cls.load_config(model_name_or_path, subfolder=subfolder, **hub_arguments(kwargs))
        settings = BackboneSettings.model_validate(values | {"lora_rank": 0})  # adapters are folded in
        backbone = cls.from_checkpoint(model_name_or_path, settings, **(kwargs.get("model_kwargs") or {}))
        backbone.experts = load_slot(os.path.join(model_name_or_path, "experts"))
        backbone.residual = load_slot(os.path.join(model_name_or_path, "residual"))
        return backbone

    @classmethod
    def from_checkpoint(cls, path: str, settings: BackboneSettings, **model_kwargs: Any) -> Self:
        """Load a Qwen3-VL, Qwen3-VL-Embedding or Qwen2.5-VL from a folder or the Hub.

        Raises:
            CheckpointError: nothing loadable there, or another family.
        """
        try:
            config = AutoConfig.from_pretrained(path)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"no model can be loaded from {path}: {reason}") from None
        if config.model_type not in FAMILIES:
            raise CheckpointError(f"{path} is a {config.model_type}: the encoder takes {', '.join(FAMILIES)}")
        model_kwargs.setdefault("dtype", torch.float32 if not torch.cuda.is_available() else "auto")
        model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa", **model_kwargs)
        return cls(model, load_processor(path), settings)


def _prompted(item: Item, prompt: str) -> Item:
    shifted = tuple(
        Part(part.kind, part.start + len(prompt), part.end + len(prompt), part.key) for part in item.parts
    )
    return Item(prompt + (item.text or ""), item.images, shifted)
