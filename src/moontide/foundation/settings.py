"""Settings: frozen pydantic models that report all their mistakes at once.

A settings class stands beside the class it configures. Recipes (`recipes/`) build them; nothing is read from
environment variables here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

import pydantic

from moontide.foundation.errors import SettingsError


class Settings(pydantic.BaseModel):
    """Base of every settings class: frozen, unknown names refused, every mistake named in one error.

    Example:
        >>> class Sampling(Settings):
        ...     temperature: float = pydantic.Field(0.05, gt=0, description="softmax temperature")
        >>> Sampling(temperature=0)
        Traceback (most recent call last):
        moontide.foundation.errors.SettingsError: Sampling: temperature: input should be greater than 0, got 0
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def __init__(self, **values: Any):
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise SettingsError(f"{type(self).__name__}: {_mistakes(error)}") from None

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like a new one."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).model_fields}, **changes})

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any setting changes."""
        return fingerprint(self.model_dump(mode="json"))


def fingerprint(value: Any) -> str:
    """Twelve hex digits of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _mistakes(error: pydantic.ValidationError) -> str:
    parts = []
    for mistake in error.errors():
        name = ".".join(str(part) for part in mistake["loc"])
        text = mistake["msg"][0].lower() + mistake["msg"][1:]
        text = text.removeprefix("value error, ")
        if name and mistake["type"] != "missing":  # its input is everything else
            text = f"{text}, got {mistake['input']!r}"
        parts.append(f"{name}: {text}" if name else text)
    return "; ".join(parts)
