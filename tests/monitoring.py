"""Prometheus's own tool, for what only it can tell."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .conftest import CI


def promtool(*arguments, **options):
    """Run ``promtool``; skip where it is missing, but not under CI."""
    command = shutil.which("promtool")
    if command is None:
        message = "promtool is missing; Debian has it in the package 'prometheus'"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    return subprocess.run(
        [command, *map(str, arguments)], check=False, capture_output=True, text=True, **options
    )
