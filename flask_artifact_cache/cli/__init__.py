"""``flask artifact-cache``: each command calls what a program would call, and prints it."""

from __future__ import annotations

from . import changing, filing, reading, tables
from .group import cli

__all__ = ["changing", "cli", "filing", "reading", "tables"]
