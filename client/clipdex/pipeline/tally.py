"""Counting a run's files: every one that comes in must come out."""

from __future__ import annotations

from dataclasses import dataclass

from clipdex.base.errors import ClipdexError

__all__ = ["Tally"]


@dataclass
class Tally:
    """What became of the files so far."""

    found: int = 0  # as they came from the source, failures too; counted in the decoder's thread
    indexed: int = 0
    recognised: int = 0
    touched: int = 0
    same: int = 0  # counted in the decoder's thread
    unseen: int = 0
    failed_now: int = 0
    failed_before: int = 0  # counted in the decoder's thread

    @property
    def failed(self) -> int:
        """Files in the ledger."""
        return self.failed_now + self.failed_before

    @property
    def unchanged(self) -> int:
        """Files whose row stays."""
        return self.same + self.touched + self.unseen

    def check(self) -> None:
        """Every file that came in must have come out, and a file that was dropped must not go unnoticed."""
        accounted = self.indexed + self.unchanged + self.failed
        if self.found != accounted:
            raise ClipdexError(
                f"{self.found:,} files came from the source, and {accounted:,} are accounted for: "
                "this is a fault of clipdex, please report it; what was indexed is committed"
            )
