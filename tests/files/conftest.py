"""An empty root on disk that a test writes to."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flask_artifact_cache.files.artifact import Artifact
from flask_artifact_cache.files.manager import ArtifactManager


class Root:
    """A collection's root that a test writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, path: str | bytes, text: str | bytes = "") -> Path:
        """Write one file and the folders above it."""
        target = self.path / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        return target

    def write_json(self, path: str, value: Any) -> Path:
        return self.write(path, json.dumps(value))

    def write_md(
        self,
        path: str | bytes,
        name: str | None = None,
        description: str = "Does it.",
        **fields: str,
    ) -> Path:
        """Write a Markdown file with front matter."""
        known = {"name": name, "description": description, **fields}
        lines = [f"{key}: {value}" for key, value in known.items() if value is not None]
        return self.write(path, "\n".join(["---", *lines, "---", "Text.", ""]))

    def link(self, path: str, target: str) -> None:
        """Make a link at ``path``."""
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).symlink_to(target)

    @contextmanager
    def as_nobody(self) -> Iterator[None]:
        """Act as nobody if the tests run as root, whom no permission stops."""
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    def manager(self, **settings: Any) -> ArtifactManager:
        return ArtifactManager(self.path, **settings)

    def artifacts(self, **settings: Any) -> dict[str, Artifact]:
        """All artifacts by path."""
        found = self.manager(**settings).list()
        assert len({(one.type, one.path) for one in found}) == len(found)
        return {one.path: one for one in found}

    def found(self, **settings: Any) -> dict[str, str]:
        """Path to type of all that is discovered."""
        return {place.path: place.type for place in self.manager(**settings).scan().places}

    def problems(self, **settings: Any) -> set[tuple[str, str]]:
        """Code and path of what is wrong with the collection itself."""
        return {(one.code, one.path) for one in self.manager(**settings).scan().problems}


@pytest.fixture
def root() -> Iterator[Root]:
    # Not in tmp_path: nobody can get there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as above:
        Path(above).chmod(0o755)
        path = Path(above) / "collection"
        path.mkdir()
        yield Root(path)
