"""``flask artifact-cache``: each command calls what a program would call, and prints it."""

from __future__ import annotations

from . import changing, reading, tables
from .group import cli

__all__ = ["changing", "cli", "reading", "tables"]
