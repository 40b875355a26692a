"""What an embedding job did, counted by kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

NAMED = 20  # failed ids a report names per kind


@dataclass
class KindCounts:
    """What became of the entities of one kind; the four first add up to all of them."""

    encoded: int = 0  # went through the encoder
    copied: int = 0  # content equal to another entity's
    reused: int = 0  # the store had this version of this content
    failed: int = 0  # no vector; the reasons say why
    text_only: int = 0  # of those encoded or copied: a picture was missing or broken and left out
    reasons: Counter[str] = field(default_factory=Counter)
    failed_ids: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Entities seen."""
        return self.encoded + self.copied + self.reused + self.failed

    def fail(self, entity_id: str, reason: str) -> None:
        """Count an entity that gets no vector."""
        self.failed += 1
        self.reasons[reason] += 1
        if len(self.failed_ids) < NAMED:
            self.failed_ids.append(entity_id)


@dataclass
class EmbedReport:
    """What a job did: counts by kind, wall time in seconds, batches that went through the encoder."""

    version: str
    counts: dict[str, KindCounts] = field(default_factory=dict)
    seconds: float = 0.0
    num_batches: int = 0

    @property
    def encoded(self) -> int:
        """Entities that went through the encoder, all kinds together."""
        return sum(counts.encoded for counts in self.counts.values())

    @property
    def copied(self) -> int:
        """Entities whose content equals another one's, all kinds together."""
        return sum(counts.copied for counts in self.counts.values())

    @property
    def reused(self) -> int:
        """Entities whose vector was there already, all kinds together."""
        return sum(counts.reused for counts in self.counts.values())

    @property
    def failed(self) -> int:
        """Entities without a vector, all kinds together."""
        return sum(counts.failed for counts in self.counts.values())

    @property
    def rate(self) -> float:
        """Entities a second."""
        return sum(counts.total for counts in self.counts.values()) / max(self.seconds, 1e-9)

    def lines(self) -> list[str]:
        """The report for people, one line a kind, one more for what failed."""
        lines = []
        for kind, counts in self.counts.items():
            lines.append(
                f"{kind}: {counts.encoded:,} encoded, {counts.copied:,} equal to another, "
                f"{counts.reused:,} kept, {counts.failed:,} failed"
            )
            if counts.reasons:
                why = ", ".join(f"{reason} {number:,}" for reason, number in counts.reasons.most_common())
                lines.append(f"  reasons: {why}; {counts.text_only:,} embedded from their words alone")
            if counts.failed_ids:
                lines.append(f"  without a vector: {', '.join(counts.failed_ids)}")
        return [*lines, f"{self.seconds:,.1f} s, {self.rate:,.0f} entities/s, version {self.version}"]
