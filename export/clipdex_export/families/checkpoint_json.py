"""Reading of the JSON files in a checkpoint directory."""

from __future__ import annotations

from clipdex_export.json_files import peek_json, read_json

__all__ = ["peek_json", "read_json"]
