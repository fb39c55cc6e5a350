"""The version of this package, for what must not outlive it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("flask-artifact-cache")
except PackageNotFoundError:  # a checkout that was not installed
    VERSION = "checkout"
