"""The commands that change files: the files first, then the cache is told.

It is told by the commands themselves, and once. So they change files without announcing it, which
would have this process look at the same files a second time, in the background.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import (
    ArtifactCacheError,
    ConfigurationError,
    InvalidRequestError,
    RootUnavailableError,
)
from ..files.contained import reason
from ..files.drift import ADDABLE, NOT_IN_MANIFEST, Difference
from ..files.editing import UNCHANGED, Change
from ..files.manager import CollectionManager
from ..files.manifest import LOCK_NAME
from ..files.sources import Fetched, local
from ..freshness import isoformat
from ..population import DEFAULT
from ..refresh.selection import Selection
from ..upstream import following
from ..upstream.following import Asked
from ..upstream.github import GitHub
from ..upstream.sources import parse
from .group import FAILED, cli
from .host import the_service
from .output import as_json, echo_json, lines, plain, problem, progress
from .target import Target, options, target

CHANGE = "the collection's files cannot be changed"


@contextmanager
def resolve(source: str, type_: str | None = None, name: str | None = None) -> Iterator[Fetched]:
    """Find what SOURCE means, as something that can be put into a collection.

    What comes from GitHub lies in a temporary folder until the end.

    :raises ConfigurationError: if it is nothing that can be had.
    """
    if not _is_upstream(source):
        yield local(source, type_, name)
        return
    with (
        closing(_github()) as github,
        tempfile.TemporaryDirectory(prefix="artifact-cache-") as staging,
    ):
        with _allowed("what is fetched cannot be written"):
            fetched = github.fetch(source, Path(staging), type=type_, name=name)
        yield fetched


def _github() -> GitHub:
    """The GitHub of the settings, whose answers are counted and remembered.

    :raises ConfigurationError: if what it needs is not installed.
    """
    service = the_service()
    settings = service.settings
    return GitHub(
        settings.github_api_url,
        settings.github_token,
        settings.github_state_folder,
        observe=service.counters.asked_upstream,
        clock=lambda: service.now().timestamp(),
        monotonic=service.monotonic,
    )


def _is_upstream(source: str) -> bool:
    """Tell a place on GitHub from a path: what exists is a path, as is what says so."""
    if "://" in source:
        return True
    if source.startswith((".", "/", "~")) or os.path.lexists(source):
        return False
    try:
        parse(source)
    except InvalidRequestError:
        return False
    return True


@cli.command()
@click.argument("source")
@click.option("--type", "type_", type=click.Choice(ADDABLE), help="Else what SOURCE looks like.")
@click.option("--name", help="Else that of the file or folder.")
@click.option("--collection", help="Where to; needed if there are several.")
@click.option("--tag", "tags", multiple=True, help="For the manifest; may be given several times.")
@click.option("--replace", is_flag=True, help="Replace one of the same type and name.")
@as_json
@options
def add(
    source: str,
    type_: str | None,
    name: str | None,
    collection: str | None,
    tags: tuple[str, ...],
    replace: bool,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """Put the artifact at SOURCE, a path or owner/repo/path@ref, into a collection."""
    cache = target(api_url, token_file, quiet=as_json)
    collections = the_service().collections
    collection_id = _chosen(collections, collection)
    files = collections.artifacts(collection_id)
    put = files.update if replace else files.add
    with resolve(source, type_, name) as fetched, _allowed(CHANGE):
        change = put(fetched, tags=tags)
    _finish(collection_id, [change], as_json, cache)


@cli.command()
@click.argument("artifact_id")
@click.option("--collection", help="Where from; needed if there are several.")
@as_json
@options
def remove(
    artifact_id: str,
    collection: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """Take an artifact out of a collection, by uid, type:name or path; deletes its files."""
    cache = target(api_url, token_file, quiet=as_json)
    collections = the_service().collections
    collection_id = _chosen(collections, collection)
    with _allowed(CHANGE):
        change = collections.artifacts(collection_id).remove(artifact_id)
    _finish(collection_id, [change], as_json, cache)


@cli.command("collections")
@as_json
def list_collections(as_json: bool) -> None:
    """List the configured collections with what their manifests say; asks no database."""
    collections = the_service().collections
    listed = []
    failed = False
    for one in collections.ids():
        manager = collections.artifacts(one)
        about: dict[str, Any] = {"id": one, "path": str(manager.root.absolute())}
        try:
            about |= manager.summary()
        except ArtifactCacheError as error:
            failed = True
            about["error"] = {"code": error.code, "message": str(error)}
        listed.append(about)
    if as_json:
        echo_json({"collections": listed})
    else:
        for about in listed:
            if "error" in about:
                text = about["error"]["message"]
            elif about["manifest"] is None:
                text = "no manifest"
            else:
                text = f"'{about['manifest']}', {about['listed']} artifacts listed"
            click.echo(plain(f"{about['id']}: {text} ({about['path']})"))
    sys.exit(FAILED if failed else 0)


@cli.command()
@click.argument("collection", required=False)
@click.option("--check", is_flag=True, help="Change nothing; end with 1 if anything differs.")
@click.option("--offline", is_flag=True, help="Do not ask GitHub.")
@click.option("--replace", is_flag=True, help="Replace what was changed here by what GitHub has.")
@click.option("--adopt", is_flag=True, help="List what lies in the collection and was never added.")
@as_json
@options
def sync(
    collection: str | None,
    check: bool,
    offline: bool,
    replace: bool,
    adopt: bool,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """Bring a collection, or all, up to date with GitHub, and manifest and lock with the files."""
    if replace and (check or offline):
        raise ConfigurationError("'--replace' needs GitHub, and changes files")
    if adopt and check:
        raise ConfigurationError("'--adopt' changes files")
    cache = target(api_url, token_file, quiet=as_json)
    collections = the_service().collections
    chosen = [_chosen(collections, collection)] if collection else collections.ids()
    documents = []
    code = 0
    with ExitStack() as stack:
        # One for all collections, once one of them needs it.
        github = once(lambda: stack.enter_context(closing(_github())))
        for one in chosen:
            try:
                with _allowed(CHANGE):
                    found = _synced(one, github, check, offline, replace, adopt, quiet=as_json)
            except ArtifactCacheError as error:
                if len(chosen) == 1:
                    raise
                # One collection does not fail the others.
                code = FAILED
                documents.append(_failed(one, error))
                if not as_json:
                    click.echo(f"{plain(one)}: {lines(str(error))}", err=True)
                continue
            if not as_json:
                _echo_synced(one, found, offline, adopt)
            document = _synced_as_dict(one, found)
            if found.changes or found.noted:
                told, cache_code = _tell(one, found.changes, as_json, cache, noted=found.noted)
                document |= told
                code = max(code, cache_code)
            if not found.is_in_line:
                code = FAILED
            documents.append(document)
    if as_json:
        echo_json({"collections": documents})
    sys.exit(code)


# --- parts ---------------------------------------------------------------------------------------


@contextmanager
def _allowed(what: str) -> Iterator[None]:
    """Say in a sentence what the system does not allow.

    :raises RootUnavailableError: if it does not let files be read or written.
    """
    try:
        yield
    except OSError as error:
        raise RootUnavailableError(f"{what}: {reason(error)}") from error


def _chosen(collections: CollectionManager, given: str | None) -> str:
    """The collection that is meant, from the settings alone."""
    ids = collections.ids()
    if given is not None:
        if given not in ids:
            known = ", ".join(ids) or "none"
            raise ConfigurationError(
                f"'{given}' is not in ARTIFACT_CACHE_COLLECTIONS (configured: {known})"
            )
        return given
    if len(ids) == 1:
        return ids[0]
    if DEFAULT in ids:
        return DEFAULT
    known = ", ".join(ids) or "none is configured"
    raise ConfigurationError(f"say which collection with '--collection': {known}")


@dataclass(frozen=True, slots=True)
class Found:
    """What a sync has changed in a collection, and what it has left.

    :ivar asked: what comes from GitHub, as it stands there now.
    :ivar noted: whether the lock says something else of that than before.
    """

    changes: tuple[Change, ...]
    drift: tuple[Difference, ...]
    asked: tuple[Asked, ...]
    noted: bool

    @property
    def is_in_line(self) -> bool:
        """Whether nothing differs, as far as everything could be told."""
        return not self.drift and all(one.standing.state != "unknown" for one in self.asked)


def _synced(
    collection_id: str,
    github: Callable[[], GitHub],
    check: bool,
    offline: bool,
    replace: bool,
    adopt: bool,
    *,
    quiet: bool,
) -> Found:
    """Manifest, lock and disk first, then what GitHub has."""
    files = the_service().collections.artifacts(collection_id)
    if check:
        synced = files.compare()
    else:
        with progress(collection_id, hidden=quiet) as update:
            synced = files.sync(update, adopt=adopt)
    changes, left = synced.changes, synced.left
    # A new entry says something of files that the cache may know already.
    noted = adopt and bool(changes)
    entries = () if offline else following.from_github(synced.entries)
    asked: tuple[Asked, ...] = ()
    if entries:
        try:
            upstream = github()
        except ConfigurationError as error:
            asked = following.unknown(entries, error)
        else:
            with progress(f"{collection_id}: asking GitHub", hidden=quiet) as update:
                asked = following.ask(upstream, entries, update)
            if not check:
                with progress(f"{collection_id}: fetching", hidden=quiet) as update:
                    brought = following.bring(
                        upstream,
                        asked,
                        files.root,
                        partial(files.follow, replace=replace),
                        also=following.untold(left, replace=replace),
                        progress=update,
                    )
                changes, asked = (*changes, *brought.changes), brought.asked
                settled = {(one.type, one.name) for one in brought.changes}
                left = tuple(one for one in left if (one.type, one.name) not in settled)
                left_behind = following.left_behind(asked)
                noted |= bool(left_behind) and files.note(left_behind, entries)
    return Found(changes, (*left, *following.drift(asked)), asked, noted)


def _synced_as_dict(collection_id: str, found: Found) -> dict[str, Any]:
    return {
        "collection_id": collection_id,
        "changes": [_about(change) for change in found.changes],
        "drift": [asdict(difference) for difference in found.drift],
        "upstream": [
            {
                "artifact_id": one.id,
                "state": one.standing.state,
                "message": one.standing.message,
                "until": one.standing.until and isoformat(_utc(one.standing.until)),
            }
            for one in found.asked
            if one.standing.message
        ],
        "error": None,
    }


def _failed(collection_id: str, error: ArtifactCacheError) -> dict[str, Any]:
    return {
        "collection_id": collection_id,
        "changes": [],
        "drift": [],
        "upstream": [],
        "error": {"code": error.code, "message": str(error)},
    }


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def _about(change: Change) -> dict[str, Any]:
    return {
        "change": change.change,
        "artifact_id": change.id,
        "path": change.path,
        "content_hash": change.content_hash,
    }


def _finish(
    collection_id: str,
    changes: list[Change],
    as_json: bool,
    cache: Target,
) -> None:
    """Say what was done to the files, tell the cache, and end."""
    if not as_json:
        for change in changes:
            click.echo(plain(f"{collection_id}: {change.change} {change.id} ({change.path})"))
    told, code = _tell(collection_id, changes, as_json, cache)
    if as_json:
        [change] = changes
        echo_json({"collection_id": collection_id, **_about(change), **told})
    sys.exit(code)


def _tell(
    collection_id: str,
    changes: list[Change] | tuple[Change, ...],
    as_json: bool,
    cache: Target,
    *,
    noted: bool = False,
) -> tuple[dict[str, Any], int]:
    """Ask the cache to look at what has changed; whatever it says, the files stay as they are.

    So the code is that of something half done: the others say that nothing is, and that the same
    command may be run again.
    """
    paths = tuple(change.path for change in changes if change.change != UNCHANGED)
    if noted:
        # What it says is a part of the artifacts that it lists.
        paths += (LOCK_NAME,)
    selection = Selection(collection_id=collection_id, paths=paths)
    try:
        done = cache.refresh(selection) if paths else None
    except ArtifactCacheError as error:
        if not as_json:
            again = "flask artifact-cache refresh " + collection_id
            click.echo(f"the cache was not told: {lines(str(error))}", err=True)
            click.echo(
                f"  The files are changed. The daemon tells it, or '{again}' does.", err=True
            )
        failure = {"code": error.code, "message": str(error)}
        return {"cache": None, "cache_error": failure}, FAILED
    if done is not None and not as_json:
        _echo_told(done)
    failed = done is not None and bool(done["errors"])
    return {"cache": done, "cache_error": None}, FAILED if failed else 0


def _echo_told(done: Mapping[str, Any]) -> None:
    counts = [
        f"{done[name]} {name}"
        for name in ("created", "updated", "unchanged", "removed")
        if done[name]
    ]
    click.echo(f"cache: {', '.join(counts) or 'nothing to do'}")
    for error in done["errors"]:
        click.echo(f"  {problem(error)}", err=True)


def _echo_synced(collection_id: str, found: Found, offline: bool, adopt: bool) -> None:
    for change in found.changes:
        click.echo(plain(f"{collection_id}: {change.change} {change.id} ({change.path})"))
    for one in found.drift:
        click.echo(plain(f"{collection_id}: {one.kind} {one.type}:{one.name} {one.path}"), err=True)
    if any(one.kind == NOT_IN_MANIFEST for one in found.drift):
        hint = f"'sync {collection_id} --adopt' lists what the manifest does not"
        if adopt:
            hint = (
                "what is left is broken, lies at the top or in a hidden folder, or has the type"
                " and name of another"
            )
        click.echo(f"  {hint}", err=True)
    # Said once, however many it is about.
    messages: dict[tuple[float | None, str], list[str]] = {}
    for asked in found.asked:
        if asked.standing.message:
            until = asked.standing.until
            key = (until, "" if until else asked.standing.message)
            messages.setdefault(key, []).append(asked.id)
    for (until, message), ids in messages.items():
        those = ids[0] if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more"
        if until:
            message = (
                f"GitHub's limit is used up until {_utc(until):%H:%M} UTC;"
                " sync again then for the rest"
            )
        click.echo(plain(f"{collection_id}: {message} ({those})"), err=True)
    if not found.changes and found.is_in_line:
        those = "manifest, lock and files"
        those += " agree" if not found.asked or offline else " agree, also with GitHub"
        click.echo(f"{collection_id}: {those}")
