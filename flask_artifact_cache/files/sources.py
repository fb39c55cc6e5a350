"""Where an artifact comes from, as a folder or file that lies ready to be put into a collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError, RefusedError

# For the sake of one entry with another SkillMeat reads nothing of a manifest.
ORIGINS = frozenset({"local", "github", "marketplace"})


@dataclass(frozen=True, slots=True)
class Fetched:
    """An artifact that lies in a staging folder, ready to be put into a collection."""

    path: Path  # the folder of a skill, or the one file of a command or agent
    name: str
    type: str
    origin: str = "local"  # one of ORIGINS
    upstream: str | None = None  # https://github.com/<owner>/<repo>/tree/<sha>/<path>
    version_spec: str | None = None  # as asked for: a tag, branch, sha or "latest"
    resolved_sha: str | None = None
    resolved_version: str | None = None


def local(source: str, type_: str | None = None, name: str | None = None) -> Fetched:
    """Take a file or folder of this machine.

    :param type_: what it is; else a folder with ``SKILL.md`` is a skill, and a Markdown file in a
        folder called ``agents`` or ``commands`` is one.
    :param name: else the last part of the path, without its suffix.
    :raises ConfigurationError: if there is nothing, or it does not tell what it is.
    :raises RefusedError: if it is a link.
    """
    try:
        path = Path(source).expanduser()
        if path.name == "SKILL.md":
            path = path.parent
        # Of '.' and '..', too.
        path = path.absolute() if path.name not in ("", "..") else path.resolve()
        if path.is_symlink():
            raise RefusedError(f"'{source}' is a link; give what it leads to")
        is_folder, is_file = path.is_dir(), path.is_file()
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigurationError(f"{source!r} is no path: {error}") from None
    if not is_folder and not is_file:
        raise ConfigurationError(f"there is no file or folder '{source}'")
    if type_ is None:
        above = path.parent.name
        if is_folder and (path / "SKILL.md").is_file():
            type_ = "skill"
        elif is_file and above in ("commands", "agents"):
            type_ = above[:-1]
        else:
            raise ConfigurationError(f"say with '--type' what '{source}' is")
    if is_folder != (type_ == "skill"):
        wanted = "a folder" if type_ == "skill" else "a file"
        raise ConfigurationError(f"'{source}' is not {wanted}, as a {type_} has to be")
    return Fetched(path, name or (path.name if is_folder else path.stem), type_)
