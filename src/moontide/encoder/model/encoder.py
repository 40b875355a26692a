"""MoonEncoder: items in, unit vectors out; a sentence-transformers model made of our modules.

    MoonEncoder(path)                 a saved encoder, or a published Qwen3-VL, Qwen3-VL-Embedding, Qwen2.5-VL
    MoonEncoder.tiny(texts, settings) a small one with random weights
    encoder.encode_items(items)       vectors of any mix of forms
    encoder.save(path)                a folder that plain sentence-transformers loads too

Plain `SentenceTransformer(path, trust_remote_code=True)` gives the same vectors where moontide is installed:
the folder names our modules, whose code stays in the package.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from sentence_transformers.util import load_file_path
from torch import nn

from moontide.catalog.dataset import Dataset
from moontide.encoder.model import tiny
from moontide.encoder.model.attention import Attention
from moontide.encoder.model.backbone import Backbone, BackboneSettings
from moontide.encoder.model.completion import Completed, Scored
from moontide.encoder.model.inputs import Crops, Item, Picture, ProductView, canonical
from moontide.encoder.model.matryoshka import Matryoshka, prefix_of
from moontide.encoder.model.pooling import Pooling
from moontide.encoder.model.prepared import Album, Prepared, distinct, token_batches
from moontide.encoder.model.processor import new_processor
from moontide.encoder.model.slots import SLOTS, hub_arguments
from moontide.encoder.model.vision import Sight
from moontide.encoder.model.writing import write
from moontide.foundation.errors import CheckpointError, SettingsError
from moontide.foundation.progress import track
from moontide.foundation.settings import Settings
from moontide.foundation.storage import read_json, storage_errors

BATCH_TOKENS = 2_048  # measured: larger batches leave the cache of a CPU core
TRAINING_TOKENS = 4_096  # measured: with a graph, fewer calls weigh more
PADDING = 192  # tokens of it in a training batch at most: another pass costs about as much
PATCHES = 2  # patches that take the vision tower as long as a token takes the decoder, about

# What the libraries raise over a folder that lacks files, has broken ones, or names classes that are gone.
BROKEN = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class Outputs:
    """What a pass gives: unit vectors (n, D), and (n, layers, 3, experts) of the experts, if there are any.

    The three figures of the routing, an item and expert layer: mean gate of each expert over its tokens, sum
    of router probabilities, tokens sent there divided by the experts a token goes to.
    """

    vectors: torch.Tensor
    routing: torch.Tensor | None = None

    @classmethod
    def in_order(cls, parts: Sequence[Outputs], batches: Sequence[Sequence[int]]) -> Outputs:
        """Parts joined, rows back where they were before they were put in batches."""
        place = np.argsort([row for rows in batches for row in rows])
        index = torch.from_numpy(place).to(parts[0].vectors.device)
        vectors = torch.cat([part.vectors for part in parts])[index]
        routing = [part.routing for part in parts if part.routing is not None]
        return cls(vectors, torch.cat(routing)[index] if routing else None)

    def __getitem__(self, rows: Any) -> Outputs:
        return Outputs(self.vectors[rows], None if self.routing is None else self.routing[rows])


class EncoderSettings(Settings):
    """Shape of an encoder; `depth` sets layers, width (32 per layer), heads and learning rate."""

    depth: int = pydantic.Field(4, ge=1, le=32, description="layers of each tower; width is 32 x depth")
    image_side: int = pydantic.Field(112, ge=28, description="side of the pictures it sees, pixels")
    patch: int = pydantic.Field(14, ge=4, description="side of a patch, pixels")
    merge: int = pydantic.Field(2, ge=1, le=4, description="patches merged into a token, per side")
    vocab_size: int = pydantic.Field(
        4_096, ge=300, description="tokens of the tokenizer trained on the texts"
    )
    dim: int | None = pydantic.Field(128, ge=1, description="width of the vectors; None: the model's own")
    widths: tuple[int, ...] = pydantic.Field((32, 64, 128), description="prefixes that are vectors, too")
    attention: Attention = pydantic.Field("bidirectional", description="who attends to whom")
    pooling: Literal["mean", "last"] = pydantic.Field("mean", description="token states to one vector")
    max_text_tokens: int = pydantic.Field(96, ge=1, description="longer texts are cut between words")
    max_images: int = pydantic.Field(4, ge=1, description="pictures of one item at most")
    num_images: int = pydantic.Field(1, ge=1, description="pictures of a product it is shown")
    crops: Crops = pydantic.Field("none", description="core-product regions: added to pictures, or only them")
    lora_rank: int = pydantic.Field(0, ge=0, description="0 trains all weights, else adapters of this rank")

    @pydantic.model_validator(mode="after")
    def _agree(self) -> EncoderSettings:
        if self.image_side % (self.patch * self.merge):
            raise ValueError(
                f"image_side must be a multiple of patch x merge = {self.patch * self.merge}, "
                f"got {self.image_side}"
            )
        shown = self.num_images * (2 if self.crops == "added" else 1)
        if shown > self.max_images:
            raise ValueError(
                f"a product is shown with {shown} pictures, more than max_images {self.max_images}"
            )
        if self.dim and any(width > self.dim for width in self.widths):
            raise ValueError(f"widths must not exceed dim {self.dim}, got {self.widths}")
        return self

    @property
    def learning_rate(self) -> float:
        """The learning rate that goes with `depth`."""
        return tiny.learning_rate(self.depth)


class MoonEncoder(SentenceTransformer):
    """A sentence-transformers model over a vision-language backbone.

    Args:
        path: folder or Hub id of a saved encoder or of a published Qwen-VL model.
        backbone: settings for a published model, which brings none of its own.
        kwargs: as for SentenceTransformer.

    Raises:
        CheckpointError: nothing loadable there.

    Paper: MOON Embedding 3.3 (paper reported: bidirectional attention, mean pooling, Matryoshka output).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        backbone: BackboneSettings | None = None,
        pooling: Literal["mean", "last"] = "mean",
        **kwargs: Any,
    ):
        self._published = (backbone or BackboneSettings(), pooling)
        if path is not None and Path(path).is_file():
            raise CheckpointError(f"{path} is a file: name the folder of a model")
        if path is not None and not Path(path).exists() and str(path).count("/") != 1:
            raise CheckpointError(f"no model at {path}: name a model folder or a Hub id")
        try:
            super().__init__(None if path is None else str(path), **kwargs)
        except BROKEN as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(f"no encoder can be loaded from {path}: {reason}") from error

    @classmethod
    def tiny(
        cls, texts: Iterable[str], settings: EncoderSettings | None = None, seed: int = 0, **kwargs: Any
    ) -> MoonEncoder:
        """A small encoder with random weights, its tokenizer trained on `texts`.

        Raises:
            DataError: no texts.
        """
        settings = settings or EncoderSettings()
        tokenizer = tiny.new_tokenizer(texts, settings.vocab_size)
        side, patch, merge = settings.image_side, settings.patch, settings.merge
        model = tiny.new_model(settings.depth, tokenizer, side, patch, merge, seed)
        names = ("image_side", "max_images", "num_images", "crops", "max_text_tokens", "attention")
        names += ("lora_rank",)
        backbone = Backbone(
            model,
            new_processor(tokenizer, side, patch, merge),
            BackboneSettings(**{name: getattr(settings, name) for name in names}),
        )
        width = backbone.get_embedding_dimension()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            last = Matryoshka(width, settings.dim, settings.widths)
        return cls(modules=[backbone, Pooling(width, settings.pooling), last], **kwargs)

    # --- the three slots --------------------------------------------------------------------------------

    @property
    def backbone(self) -> Backbone:
        """The first module."""
        first = self[0]
        assert isinstance(first, Backbone)
        return first

    @property
    def widths(self) -> list[int]:
        """The prefixes that are vectors of their own, the full width last."""
        return self.matryoshka.widths

    @property
    def matryoshka(self) -> Matryoshka:
        """The last module."""
        last = self[-1]
        assert isinstance(last, Matryoshka)
        return last

    @property
    def slots(self) -> dict[str, nn.Module | None]:
        """What fills `experts`, `fusion` and `residual`; None is identity."""
        return {name: getattr(self._place(name), name) for name in SLOTS}

    def fill(self, **modules: nn.Module | None) -> MoonEncoder:
        """Put modules into slots (see `slots.py`); None empties one.

        Raises:
            SettingsError: there is no such slot.
        """
        for name, module in modules.items():
            if name not in SLOTS:
                raise SettingsError(f"no slot is called {name!r}: the slots are {', '.join(SLOTS)}")
            setattr(self._place(name), name, module if module is None else module.to(self.device))
        return self

    def _place(self, slot: str) -> Any:
        return self[1] if slot == "fusion" else self[0]

    # --- vectors ----------------------------------------------------------------------------------------

    def prepare(self, value: Any) -> Prepared:
        """The numbers of one item: pixels and token ids; threads may call it.

        Raises:
            DataError: nothing to embed. ImageError: a picture is refused.
        """
        return self.backbone.prepare(value)

    def prepare_all(self, values: Sequence[Any]) -> list[Prepared]:
        """`prepare` of many; a picture object that several hold is decoded, and later seen, once."""
        return self.backbone.prepare_all(values)

    def pixels(self, picture: Picture) -> np.ndarray:
        """Decode to (height, width, 3) uint8 at the size the model sees."""
        return self.backbone.pixels(picture)

    def remembering(self, num: int) -> AbstractContextManager[None]:
        """Keep the layouts of `num` items within the block: training comes back to all of them."""
        return self.backbone.remembering(num)

    def shown(self, **changes: Any) -> MoonEncoder:
        """Change how products are shown: `num_images`, `crops`, and with them `max_images` where it is small.

        Raises:
            SettingsError: no such setting.
        """
        if unknown := sorted(set(changes) - {"num_images", "crops", "max_images"}):
            raise SettingsError(f"products are shown by num_images, crops and max_images, not {unknown[0]}")
        settings = self.backbone.settings.but(**changes)
        needed = settings.num_images * (2 if settings.crops == "added" else 1)
        self.backbone.settings = settings.but(max_images=max(settings.max_images, needed))
        return self

    def view(self, dataset: Dataset) -> ProductView:
        """How this encoder is shown the products of a dataset: number of pictures, regions.

        Raises:
            DataError: it was trained with core-product regions, and the dataset has none.
        """
        if self.backbone.settings.crops == "none":
            return self.backbone.view(None)
        from moontide.catalog.regions import Regions

        dataset.require("an encoder with crops", "regions")
        return self.backbone.view(Regions.read(dataset))

    def forward_prepared(self, batch: Sequence[Prepared]) -> torch.Tensor:
        """Unit vectors (n, D) of prepared items, with gradients where they are enabled."""
        return self._outputs(self.backbone.collate(batch)).vectors

    def encode_all(self, prepared: Sequence[Prepared], batch_tokens: int = TRAINING_TOKENS) -> Outputs:
        """Vectors, and the routing of experts, of prepared items, with gradients where they are enabled.

        The vision tower sees every distinct picture once, however many items hold it, and the decoder every
        distinct item. It takes items of like length together: padding is most of a mixed batch, and a small
        batch stays in the cache of a core. The graph of every batch is kept: the gradient is that of one
        forward pass.
        """
        own, index = distinct(prepared)
        album = Album.of(own)
        sight = self.look(album, batch_tokens)
        batches = token_batches([len(one) for one in own], batch_tokens, PADDING)
        parts = [self.read(own, rows, album, sight) for rows in batches]
        return Outputs.in_order(parts, batches)[torch.from_numpy(index).to(self.device)]

    def look(self, album: Album, batch_tokens: int = TRAINING_TOKENS) -> Sight | None:
        """What the vision tower makes of an album, some pictures at a time; None of an empty one."""
        parts = [self.backbone.look(album, numbers) for numbers in album.pieces(PATCHES * batch_tokens)]
        return Sight.join(parts) if parts else None

    def read(
        self, prepared: Sequence[Prepared], rows: Sequence[int], album: Album, sight: Sight | None
    ) -> Outputs:
        """One pass of the decoder over some of the items, their pictures having been seen."""
        return self._outputs(self._seen_features(prepared, rows, album, sight))

    def _seen_features(
        self, prepared: Sequence[Prepared], rows: Sequence[int], album: Album, sight: Sight | None
    ) -> dict[str, Any]:
        features: dict[str, Any] = dict(self.backbone.collate([prepared[row] for row in rows], False))
        numbers = [number for row in rows for number in album.places[row]]
        if numbers:
            assert sight is not None
            features["seen"] = sight.of(numbers)
        return features

    def _outputs(self, features: dict[str, Any]) -> Outputs:
        moved = self._passed(features)
        routing = moved.get("routing")
        return Outputs(moved["sentence_embedding"], torch.stack(routing, 1) if routing else None)

    def _passed(self, features: dict[str, Any]) -> dict[str, Any]:
        return self({name: x.to(self.device) if torch.is_tensor(x) else x for name, x in features.items()})

    # --- what a reasoner writes before its vector, see `reasoner.py` ------------------------------------

    @property
    def is_reasoner(self) -> bool:
        """Whether items end in `<emb>`, and text may be written before it."""
        return self.backbone.settings.reasoning_tokens > 0

    def reasoned(self, items: Sequence[Any], budget: int | None = None, progress: bool = False) -> list[Item]:
        """The items with what this reasoner writes about them, greedily; those that carry a text keep it.

        Args:
            budget: tokens of a text; None: the encoder's own.

        Raises:
            SettingsError: no reasoner. DataError, ImageError: an item that cannot be shown.
        """
        found = [canonical(item) for item in items]
        todo = [row for row, item in enumerate(found) if item.reasoning is None]
        with track(len(todo) if progress else 0, "reasoning") as meter:
            for start in range(0, len(todo), 1_024):
                rows = todo[start : start + 1_024]
                prompts = self.backbone.prompts([found[row] for row in rows])
                texts = write(self, prompts, budget or self.backbone.settings.reasoning_tokens, temperature=0)
                for row, (one,) in zip(rows, texts, strict=True):
                    found[row] = replace(found[row], reasoning=one.text)
                meter.step(len(rows))
        return found

    def score(self, completed: Sequence[Completed], batch_tokens: int = TRAINING_TOKENS) -> Scored:
        """Vectors and log-probabilities of completed prompts in one teacher-forced pass, with gradients where
        they are enabled.

        Paper: MOON3.0 3.4: the contrastive and the policy term see the same pass (ours).
        """
        own = [one.prepared for one in completed]
        most = max(1, *(int(one.is_action.sum()) for one in completed))
        album = Album.of(own)
        sight = self.look(album, batch_tokens)
        batches = token_batches([len(one) for one in own], batch_tokens, PADDING)
        parts = []
        for rows in batches:
            features = self._passed(self._seen_features(own, rows, album, sight))
            is_action = [completed[row].is_action for row in rows]
            parts.append(self._scored(features, is_action, most))
        place = np.argsort([row for rows in batches for row in rows])
        index = torch.from_numpy(place).to(self.device)
        vectors, log_p, is_action, entropy, gates = zip(*parts, strict=True)
        joined = [torch.cat(column)[index] for column in (vectors, log_p, is_action, entropy)]
        return Scored(*joined, None if gates[0] is None else torch.cat(gates)[index])

    def _scored(
        self, features: dict[str, Any], is_action: Sequence[np.ndarray], most: int
    ) -> tuple[Any, ...]:
        """Vectors, log_p, is_action, entropy and gates of one batch."""
        device = self.device
        row_A = np.concatenate([np.full(int(own.sum()), row) for row, own in enumerate(is_action)])
        at_A = np.concatenate([np.flatnonzero(own) for own in is_action])
        column_A = np.concatenate([np.arange(int(own.sum())) for own in is_action])
        row, at, column = (torch.from_numpy(x).to(device) for x in (row_A, at_A, column_A))
        log_p_AV = self.backbone.next_log_p(features["token_embeddings"][row, at - 1])
        token_A = features["input_ids"][row, at]
        shape = (len(is_action), most)
        zeros = log_p_AV.new_zeros(shape)
        log_p = zeros.index_put((row, column), log_p_AV.gather(1, token_A[:, None])[:, 0])
        entropy_A = -(log_p_AV.detach().exp() * log_p_AV.detach()).sum(1)
        is_real = torch.zeros(shape, dtype=torch.bool, device=device)
        is_real[row, column] = True
        entropy = zeros.index_put((row, column), entropy_A)
        return features["sentence_embedding"], log_p, is_real, entropy, features.get("gates")

    @torch.no_grad()
    def center(self, prepared: Sequence[Prepared]) -> None:
        """Bring the mean vector of these items to 0, before contrastive training; see `Matryoshka.center`."""
        pooled = []
        for rows in token_batches([len(one) for one in prepared], TRAINING_TOKENS):
            batch = self.backbone.collate([prepared[row] for row in rows])
            features = {name: x.to(self.device) for name, x in batch.items()}
            pooled.append(self[1](self[0](features))["sentence_embedding"])
        self.matryoshka.center(torch.cat(pooled))

    def num_tokens(self, value: Any) -> int:
        """Tokens an item will cost, from its text and the headers of its pictures; nothing is decoded."""
        return self.backbone.num_tokens(value)

    @torch.inference_mode()
    def encode_items(
        self,
        items: Sequence[Any],
        batch_tokens: int = BATCH_TOKENS,
        width: int | None = None,
        progress: bool = False,
    ) -> np.ndarray:
        """Unit vectors of items in any mix of forms; neither order nor neighbors change a vector.

        Args:
            items: `Item`s, or anything `canonical` takes.
            batch_tokens: tokens of one forward pass, padding included.
            width: a Matryoshka prefix; None: the full vector.

        Returns:
            (n, width) float32

        Raises:
            DataError, ImageError: an item that cannot be embedded.
            SettingsError: a width beyond the vector's.
        """
        dim = self.get_embedding_dimension() or 0
        if width is not None and not 0 < width <= dim:
            raise SettingsError(
                f"width must lie in 1..{dim}, the width of this encoder's vectors, got {width}"
            )
        was_training = self.training
        self.eval()
        vectors = np.zeros((len(items), dim), dtype=np.float32)
        try:
            with track(len(items) if progress else 0, "embedding") as meter:
                for start in range(0, len(items), 1_024):  # prepared pixels stay within some 100 MB
                    chunk = [self.prepare(item) for item in items[start : start + 1_024]]
                    for rows in token_batches([len(one) for one in chunk], batch_tokens):
                        batch = self.forward_prepared([chunk[row] for row in rows])
                        vectors[[start + row for row in rows]] = batch.float().cpu().numpy()
                        meter.step(len(rows))
        finally:
            self.train(was_training)
        return vectors if width is None else prefix_of(vectors, width)

    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any weight or setting: the version id of its vectors."""
        digest = hashlib.sha256()
        for module in self:
            assert isinstance(module, Module)
            digest.update(repr(sorted(module.get_config_dict().items())).encode())
        for name, slot in sorted(self.slots.items()):
            if isinstance(slot, Module):
                digest.update(repr((name, sorted(slot.get_config_dict().items()))).encode())
        for name, weight in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    # --- folders ----------------------------------------------------------------------------------------

    def save(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a sentence-transformers model folder.

        Raises:
            StorageError: the folder cannot be written.
        """
        kwargs.setdefault("create_model_card", False)
        with storage_errors(path):
            super().save(str(path), *args, **kwargs)

    def _load_modules(self, path: str, **kwargs: Any) -> Any:  # ty: ignore[incompatible-method-override]
        if not _is_ours(path, kwargs):
            return self._load_default_modules(path, **kwargs)
        return super()._load_modules(path, **kwargs)

    def _load_default_modules(  # ty: ignore[incompatible-method-override]  upstream passes all by name
        self, path: str, **kwargs: Any
    ) -> Any:
        """A published model: its backbone, our pooling, its own width."""
        settings, mode = self._published
        backbone = Backbone.from_checkpoint(path, settings, **(kwargs.get("model_kwargs") or {}))
        width = backbone.get_embedding_dimension()
        return [backbone, Pooling(width, mode), Matryoshka(width)], {}

    def _load_module_class_from_ref(self, class_ref: str, *args: Any, **kwargs: Any) -> type:
        if class_ref.startswith("moontide."):  # installed, hence trusted: no flag needed
            module, _, name = class_ref.rpartition(".")
            return getattr(importlib.import_module(module), name)
        return super()._load_module_class_from_ref(class_ref, *args, **kwargs)


def _is_ours(path: str, kwargs: dict[str, Any]) -> bool:
    file = load_file_path(path, "modules.json", **hub_arguments(kwargs))
    return file is not None and all(
        module["type"].startswith("moontide.") for module in read_json(Path(file))
    )
