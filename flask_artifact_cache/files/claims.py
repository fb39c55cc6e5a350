"""What manifests say: plugin.json, marketplace.json, collection.toml and the files they name.

A claim is a manifest's word that a file or folder is an artifact. It holds for what lies in the
manifest's own folder, so reading the manifests from the top of the tree downwards suffices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from ..errors import VanishedError
from . import documents, manifest, plugins, servers
from .problems import Problem, UnreadableError
from .reading import Reader
from .walk import Folder, Tree, shown

# Artifacts in one JSON file; the largest marketplace lists 286.
PART_LIMIT = 1_000
T = TypeVar("T")

SERVER_FILES = (".mcp.json", "mcp.json")


class Claim(NamedTuple):
    """What a manifest says about a file or folder.

    :ivar file: the name of the metadata file in a folder that is one artifact.
    """

    type: str
    plugin: str | None = None
    entry: manifest.Entry | manifest.Server | None = None
    file: str = ""


class Part(NamedTuple):
    """An artifact that stands in a manifest itself."""

    type: str
    folder: Folder
    file: str
    name: str
    fragment: str | None
    plugin: str | None
    entry: manifest.Server | None = None
    problems: tuple[Problem, ...] = ()


class _Listed(NamedTuple):
    """A plugin that only a marketplace describes."""

    name: str
    plugin: plugins.Plugin
    folder: Folder  # of the marketplace's manifest


class Claims:
    """What the manifests read so far say.

    :ivar files: folder -> file -> claim.
    :ivar owned: folder -> claim on the folder as one artifact.
    :ivar declared: folder -> claim on every Markdown file in it.
    :ivar listed: folder -> the plugins that a marketplace finds there.
    :ivar problems: what is wrong with manifests that are no artifacts themselves.
    :ivar uncertain: files and folders of which a manifest could not be read.
    """

    def __init__(self, tree: Tree, read: Reader, manifests: manifest.Manifests) -> None:
        self._tree = tree
        self._read = read
        self._manifests = manifests
        self.files: dict[str, dict[str, Claim]] = {}
        self.owned: dict[str, Claim] = {}
        self.declared: dict[str, Claim] = {}
        self.listed: dict[str, list[_Listed]] = {}
        self.problems: list[Problem] = []
        self.uncertain: set[str] = set()
        self._untyped: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self.files or self.owned or self.declared)

    def on(self, folder: Folder) -> Mapping[str, Claim]:
        """Return the claims on the files of ``folder``."""
        return self.files.get(folder.path, {})

    # JSON files

    def value(self, path: str) -> Any:
        """Read a JSON file; None if there is nothing to be had, and why is noted."""
        try:
            return documents.load(self._read(path, documents.JSON_LIMIT + 1))[0]
        except VanishedError:
            return None
        except UnreadableError as error:
            self.problems.append(error.problem.at(shown(path)))
            self.uncertain.add(path)
            return None

    def servers(self, folder: Folder, file: str) -> list[Part]:
        """Read the MCP servers of a file."""
        names = self._limited(servers.servers(self.value(folder.join(file))), folder.join(file))
        return [Part("mcp", folder, file, shown(name), name, None) for name in names]

    def _limited(self, parts: Iterable[T], path: str) -> list[T]:
        kept = list(parts)
        if len(kept) > PART_LIMIT:
            text = f"only the first {PART_LIMIT} of {len(kept)} parts are looked at"
            self.problems.append(Problem("W_TOO_MANY_PARTS", text, shown(path)))
            self.uncertain.add(path)
        return kept[:PART_LIMIT]

    def settings(self, folder: Folder, file: str) -> bool:
        """Tell whether an assistant's settings define hooks."""
        value = self.value(folder.join(file))
        return isinstance(value, Mapping) and bool(servers.hooks(plugins.inline_hooks(value)))

    # Plugins

    def enter_plugin(self, folder: Folder, outer: str | None) -> tuple[str | None, list[Part]]:
        """Read the manifests of a plugin or marketplace at ``folder`` (R7, R8).

        :param outer: the plugin that encloses it.
        :returns: the plugin that encloses what is in the folder, and the plugins themselves.
        """
        inner = folder.folders.get(".claude-plugin")
        if inner is not None and "marketplace.json" in inner.files:
            self._enter_marketplace(folder, inner)
        listed = self.listed.pop(folder.path, [])
        if inner is not None and "plugin.json" in inner.files:
            return self._enter_own(folder, inner, outer)
        parts: list[Part] = []
        for item in listed:
            name = shown(item.name)
            path = shown(item.folder.join("marketplace.json"))
            problems = tuple(self._declare(folder, item.plugin, name, path))
            part = Part("plugin", item.folder, "marketplace.json", name, item.name, outer)
            parts.append(part._replace(problems=problems))
        # Several plugins may share one folder; then only what they declare tells whose it is.
        return (parts[0].name if len(parts) == 1 else outer), parts

    def _enter_own(
        self, folder: Folder, inner: Folder, outer: str | None
    ) -> tuple[str, list[Part]]:
        path = inner.join("plugin.json")
        known = len(self.problems)
        plugin = plugins.plugin(self.value(path))
        if len(self.problems) > known:
            # Its artifact tells the same; what it declares cannot be known.
            del self.problems[known:]
            self.uncertain.add(folder.path)
        name = shown(plugin.name or folder.name or self._tree.name)
        problems = tuple(self._declare(folder, plugin, name, shown(path)))
        parts = [Part("plugin", inner, "plugin.json", name, None, outer, None, problems)]
        if plugin.hooks:
            parts.append(Part("hook", inner, "plugin.json", name, "hooks", name))
        parts += [
            Part("mcp", inner, "plugin.json", shown(server), f"mcp:{server}", name)
            for server in self._limited(plugin.servers, path)
        ]
        return name, parts

    def enter_other_plugin(self, folder: Folder, inner: Folder) -> None:
        """Claim what another assistant's manifest names; it is no further plugin (R8)."""
        if "plugin.json" in inner.files and inner.name != ".claude-plugin":
            plugin = plugins.plugin(self.value(inner.join("plugin.json")))
            for _ in self._declare(folder, plugin, None, ""):
                pass  # what is wrong with it is not ours to tell

    def _enter_marketplace(self, folder: Folder, inner: Folder) -> None:
        """Note the plugins that a marketplace lists and that have no manifest of their own."""
        path = inner.join("marketplace.json")
        value = self.value(path)
        if value is None:
            self.uncertain.add(folder.path)
        for entry in self._limited(plugins.entries(value), path):
            source = plugins.local_source(value, entry)
            if source is None:
                continue
            name = servers.text(entry["name"])
            target = plugins.inside(folder.path, source)
            there = None if target is None else self._tree.folder(target)
            if target is None:
                text = f"the source of plugin {shown(name)} leads out of the marketplace"
                self.problems.append(Problem("W_PATH_OUTSIDE", text, shown(path)))
            elif there is None:
                text = f"the folder of plugin {shown(name)} is missing"
                self.problems.append(Problem("W_MISSING_FILE", text, shown(path)))
            elif not _has_manifest(there):
                listed = _Listed(name, plugins.plugin(entry), inner)
                self.listed.setdefault(target, []).append(listed)

    def _declare(
        self, folder: Folder, plugin: plugins.Plugin, name: str | None, path: str
    ) -> Iterable[Problem]:
        """Claim what a plugin names, after checking that it stays inside the plugin (R7)."""
        for type_, written in plugin.paths:
            target = plugins.inside(folder.path, written)
            if target is None:
                yield Problem(
                    "W_PATH_OUTSIDE", f"a path to a {type_} leads out of the plugin", path
                )
                continue
            claim = Claim(type_, name)
            there = self._tree.folder(target)
            if self._tree.file(target) is not None:
                self._claim_file(target, claim)
            elif there is None:
                yield Problem("W_MISSING_FILE", f"a path to a {type_} leads to nothing", path)
            elif type_ in ("command", "agent"):
                self.declared.setdefault(target, claim)
            elif type_ == "skill":
                file = metadata_file(type_, there.files)
                if file is not None:
                    self._claim_file(there.join(file), claim)

    def _claim_file(self, path: str, claim: Claim) -> None:
        above, _, file = path.rpartition("/")
        self.files.setdefault(above, {}).setdefault(file, claim)

    # SkillMeat collections

    def enter_collection(self, folder: Folder) -> list[Part]:
        """Read the manifest and the lock of a SkillMeat collection at ``folder``.

        :returns: the servers that stand in the manifest itself.
        """
        path = folder.join(manifest.NAME)
        parts = []
        try:
            found = self._manifests.read(
                self._read, folder.path, lock=manifest.LOCK_NAME in folder.files
            )
        except VanishedError:
            return []
        except UnreadableError as error:
            self.problems.append(error.problem.at(shown(error.problem.path or path)))
            self.uncertain.add(folder.path)
        else:
            if found is None:
                return []  # somebody else's collection.toml
            problems = [*found.problems, *self._claim_entries(folder, found.entries)]
            self.problems += [problem.at(shown(path)) for problem in problems]
            parts = [
                Part("mcp", folder, manifest.NAME, shown(server.name), server.name, None, server)
                for server in found.servers
            ]
        # Elsewhere hooks have no container; and what the manifest names came first.
        for shelf in ("hooks", "artifacts/hooks"):
            above = self._tree.folder(folder.join(shelf))
            for inner in above.folders.values() if above else ():
                file = metadata_file("hook", inner.files)
                if file is not None:
                    self.owned.setdefault(inner.path, Claim("hook", file=file))
        return parts

    def _claim_entries(
        self, folder: Folder, entries: Iterable[manifest.Entry]
    ) -> Iterable[Problem]:
        # An import may write absolute paths.
        root = self._tree.root.joinpath(folder.path).as_posix() + "/"
        for entry in entries:
            label = f"{entry.type} {shown(entry.name)}"
            target = plugins.inside(folder.path, entry.path.removeprefix(root))
            if entry.type not in manifest.TYPES:
                if target is not None and entry.type not in manifest.OTHER_TYPES:
                    self._untyped.update(self._candidates(target))
                continue
            if target is None:
                text = f"the path of {label} leads out of the collection"
                yield Problem("W_PATH_OUTSIDE", text)
                continue
            if self._tree.file(target) is not None:
                self._claim_file(target, Claim(entry.type, entry=entry))
                continue
            there = self._tree.folder(target)
            file = metadata_file(entry.type, there.files) if there else None
            if file is None:
                yield Problem("W_MISSING_FILE", f"the file of {label} is missing")
            else:
                self.owned.setdefault(target, Claim(entry.type, entry=entry, file=file))

    def untyped(self) -> set[str]:
        """Files of which a manifest gives a type that nobody knows, and no other entry tells.

        Known when all manifests are read: one further down may tell of them. Until it is mended,
        the last readable word on what is there holds.
        """
        return {path for path in self._untyped if not self._is_claimed(path)}

    def _candidates(self, target: str) -> Iterable[str]:
        """List what may be the metadata file of the artifact at a path, whatever its type."""
        if self._tree.file(target) is not None:
            return {target}
        there = self._tree.folder(target)
        if there is None:
            return ()
        files = (metadata_file(type_, there.files) for type_ in manifest.TYPES)
        return {there.join(file) for file in files if file is not None}

    def _is_claimed(self, path: str) -> bool:
        above, _, file = path.rpartition("/")
        claim = self.owned.get(above) or self.files.get(above, {}).get(file)
        return claim is not None and claim.entry is not None


def metadata_file(type_: str, files: Iterable[str]) -> str | None:
    """Pick the file of a folder that holds the metadata.

    The first that is there: the type's name (``HOOK.md``, ``hook.md``), the type's JSON file,
    any other Markdown file by name, a README. Of a skill only ``SKILL.md``, in any case.
    """
    by_name = sorted(files)
    texts = [file for file in by_name if file[-3:].lower() == ".md"]
    for file in texts:
        if file.lower() == f"{type_}.md":
            return file
    if type_ == "skill":
        return None
    for file in {"hook": ("hooks.json",), "mcp": SERVER_FILES}.get(type_, ()):
        if file in by_name:
            return file
    texts.sort(key=lambda file: file.lower().startswith("readme"))
    return texts[0] if texts else None


def _has_manifest(folder: Folder) -> bool:
    inner = folder.folders.get(".claude-plugin")
    return inner is not None and "plugin.json" in inner.files
