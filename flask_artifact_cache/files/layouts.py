"""The files seen -> where artifacts are, and of which type.

The rules were measured on 69 public repositories; a comment names the rule where it is applied.

- R0 Links, tools and history are left out (see :mod:`walk`).
- R1 A folder that holds SKILL.md, in any case, is a skill, at any depth.
- R2 A lower-case skill.md in a folder of commands or agents is one of these.
- R3 Inside a skill nothing else is found but deeper skills, unless it is a plugin as well.
- R4 Markdown below the innermost folder called commands or agents is one; the folders between
  are the namespace.
- R5 Documents (README.md, NOTES.md), supporting folders and pages of a site are no artifacts.
- R6 Agents outside of such folders: ``*.agent.md``, or front matter that only agents have.
- R7 What a manifest names counts, wherever it lies in the plugin.
- R8 Plugins, marketplaces, MCP servers and hooks stand in JSON files of known names.
- R9 What no rule can know is configured.

A manifest wins over a rule, and the innermost folder over the outer ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import VanishedError
from . import frontmatter, manifest, servers
from .claims import SERVER_FILES, Claim, Claims, Part
from .problems import Problem, UnreadableError
from .reading import Reader
from .walk import Evidence, Folder, Tree, described, settled, shown

# R4. Singular forms and "workflows" only add false hits.
CONTAINERS = {
    "commands": "command",
    "slash-commands": "command",
    "agents": "agent",
    "subagents": "agent",
}
# R5. Below a container these folders hold what belongs to its artifacts.
_SUPPORT = frozenset({"references", "templates", "examples", "assets", "resources", "scripts"})
# The end of section 2: above a container these folders hold copies and fixtures.
_SECONDARY = frozenset(
    {"docs", "backups", "tests", "fixtures", "test-fixtures", "testdata", "examples", "templates"}
    | {"archive", "dist", "planned-skills"}
)
# R6. Folders in which a Markdown file with a name and a model is no agent.
_TOPICS = frozenset(
    {"docs", "doc", "documentation", "wiki", "test", "tests", "__tests__", "fixtures", "testdata"}
    | {"prompts", "prompt", "rules", "rule", "workflows", "workflow", "examples", "templates"}
    | {"references"}
)
# R6. One of these beside name and description makes a Markdown file an agent.
_AGENT_KEYS = frozenset(
    {"tools", "model", "color", "emoji", "vibe", "permissionmode", "capabilities"}
    | {"disallowedtools", "activation-triggers", "expertise-level"}
)
# R6 opens files to know. More candidates than this are a documentation tree, no collection.
LOOSE_LIMIT = 2_000

# R5. README*.md, CLAUDE.md, WORKFLOW_NOTES.md; but COMMAND.md and AGENT.md name their folder.
_DOCUMENT = re.compile(
    r"(?:[Rr][Ee][Aa][Dd][Mm][Ee].*|(?=.*[A-Z])[A-Z0-9_-]+)\.[Mm][Dd]", re.DOTALL
)
_NAMES_FOLDER = frozenset({"COMMAND.md", "AGENT.md"})
# R6. Where there is one of these, agents lie in it.
_AGENT_FOLDERS = frozenset({"agents", "Agents", "AGENTS", "subagents"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where one artifact is, and all that is known of it without reading it.

    :ivar type: skill, command, agent, hook, mcp or plugin.
    :ivar path: as text, with ``#fragment`` where one file holds several; with the type, the
        identity of the artifact in its collection.
    :ivar file: the file that holds the metadata, as the system names it.
    :ivar name: from the path, for an artifact that names itself nowhere.
    :ivar folder: the folder that the artifact owns; None where it is a file or part of one.
    :ivar namespace: the folders between the container and the file: ``team:sprint``.
    :ivar parent: the outer skill's folder, of a skill inside a skill.
    :ivar entry: the artifact in the manifest of its collection.
    :ivar problems: what was wrong with the manifest's paths.
    :ivar by_content: whether it is an artifact only because of what stands in the file.
    :ivar is_listed: whether a marketplace makes a plugin of its folder.
    """

    type: str
    path: str
    file: str
    evidence: Evidence
    name: str
    folder: Folder | None = None
    fragment: str | None = None
    plugin: str | None = None
    secondary: bool = False
    namespace: str | None = None
    parent: str | None = None
    entry: manifest.Entry | manifest.Server | None = None
    problems: tuple[Problem, ...] = ()
    by_content: bool = False
    is_listed: bool = False

    def stands_alone(self, root_name: str) -> bool:
        """Whether no file but its own says anything about it, and they about nothing else.

        Such a place is found again by :func:`place_again` without a look at anything else.
        """
        return (
            self.type in _BY_PATH
            and not (self.by_content or self.is_listed or self.problems)
            and self.fragment is None
            and self.entry is None
            and self.file == self.path
            and (self.folder is None) == (self.type != "skill")
            and not (self.folder is not None and _holds_more(self.folder))
            and self.name == _name_of(self.type, self.path, root_name)
        )

    def settled(self, looked_at_ns: int) -> bool:
        """Whether :meth:`digest` can be relied on: see :func:`walk.settled`."""
        if isinstance(self.entry, manifest.Server):
            return True
        return settled(self.folder or self.evidence, looked_at_ns)

    def digest(self) -> str:
        """Tell by stat alone whether reading the artifact again can give something else.

        Covers the files that it owns and what other files say about it.
        """
        # A server that only a manifest describes is in no file of its own.
        alone = isinstance(self.entry, manifest.Server)
        evidence = None if alone else self.folder or self.evidence
        around = (self.plugin, self.secondary, self.namespace, self.parent, self.entry)
        marks = (self.by_content, self.is_listed)
        if around == _NOTHING_AROUND and not any(marks) and not self.problems:
            said = _NOTHING_SAID  # of most artifacts; to write it out takes a third of all this
        else:
            said = f"{around}{marks}{self.problems}"
        text = f"{described(evidence) if evidence else ''}\0{said}"
        # Names that are not UTF-8 hold surrogates, and each has to count.
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


_NOTHING_AROUND = (None, False, None, None, None)
_NOTHING_SAID = f"{_NOTHING_AROUND}{(False, False)}{()}"

_BY_PATH = ("skill", "command", "agent")


def _holds_more(skill: Folder) -> bool:
    """Whether there may be other artifacts in a skill's folder (R3)."""
    return any(
        manifest.NAME in inner.files
        or inner.name.endswith("-plugin")
        or (inner is not skill and _skill_file(inner.files, inner.name.lower()) is not None)
        for inner in skill.walk()
    )


def place_again(
    type_: str,
    path: str,
    seen: Folder | Evidence,
    root_name: str,
    *,
    plugin: str | None,
    secondary: bool,
    namespace: str | None,
    parent: str | None,
) -> Place | None:
    """Make the place that stood alone at ``path`` before; None if it does not any more.

    :param seen: the folder of a skill, else the evidence of the file.
    """
    folder = seen if isinstance(seen, Folder) else None
    evidence = seen.files.get(path.rpartition("/")[2]) if isinstance(seen, Folder) else seen
    if evidence is None:
        return None
    name = _name_of(type_, path, root_name)
    return Place(
        type_, path, path, evidence, name, folder, None, plugin, secondary, namespace, parent
    )


def _name_of(type_: str, path: str, root_name: str) -> str:
    """The name that a path gives to a skill, a command or an agent."""
    above, _, file = path.rpartition("/")
    if type_ == "skill" or file in _NAMES_FOLDER:
        return shown(above.rpartition("/")[2] or root_name)
    stem = file[: file.rfind(".")] if "." in file[1:] else file
    return shown(stem[:-6] if stem[-6:].lower() == ".agent" and len(stem) > 6 else stem)


@dataclass(frozen=True, slots=True)
class Discovery:
    """What was found.

    :ivar problems: of files that are no artifacts themselves.
    :ivar uncertain: files and folders, as text, whose manifest could not be read, or gives a type
        that nobody knows. An artifact known to be in one of them may still be there, although no
        place says so.
    """

    places: list[Place]
    problems: list[Problem]
    uncertain: frozenset[str]

    def is_uncertain(self, path: str) -> bool:
        """Whether a manifest that could not be read may tell of the artifact at ``path``."""
        if not self.uncertain:
            return False
        # The path itself, and all that it may be in: entries can make these as many as artifacts.
        ends = (index for index, character in enumerate(path) if character in "/#")
        return not self.uncertain.isdisjoint(("", path, *(path[:end] for end in ends)))


class _Context(NamedTuple):
    """What the folders above say about a folder."""

    type: str | None = None  # of the innermost container
    container: str = ""  # its path
    support: bool = False  # in a support folder below the container
    secondary: bool = False  # a folder above the container marks copies
    shelved: bool | None = None  # the same for skills: above the innermost "skills"
    marked: bool = False  # any folder so far marks copies
    docs: bool = False
    closed: bool = False  # inside something that owns its folder (R3)
    parent: str | None = None  # the skill that it is inside of
    plugin: str | None = None
    loose: bool = True  # R6 applies


def discover(
    tree: Tree,
    read: Reader,
    *,
    types: Mapping[str, str] | None = None,
    manifests: manifest.Manifests | None = None,
) -> Discovery:
    """Find where the artifacts of ``tree`` are.

    Opens manifests, and Markdown only where a rule has to look inside: candidates for agents
    that lie in no container, and pages below ``docs``.

    :param read: reads the beginning of a file.
    :param types: more containers: a folder's name, or its path when there is a slash in it, to
        ``command`` or ``agent`` (R9).
    :param manifests: remembers parsed manifests between calls.
    """
    search = _Search(tree, read, types or {}, manifests or manifest.Manifests())
    search.visit(tree.top, "", _Context())
    search.look_at_loose()
    claims = search.claims
    return Discovery(
        list(search.places.values()),
        search.problems + claims.problems,
        frozenset(map(shown, search.uncertain | claims.uncertain | claims.untyped())),
    )


class _Search:
    """One pass over the tree, from the top."""

    def __init__(
        self, tree: Tree, read: Reader, types: Mapping[str, str], manifests: manifest.Manifests
    ) -> None:
        self.tree = tree
        self.root_name = tree.name
        self.read = read
        self.claims = Claims(tree, read, manifests)
        configured = {key.removeprefix("./").strip("/"): types[key] for key in types}
        self.names = {**CONTAINERS, **{key.lower(): configured[key] for key in configured}}
        self.paths = {key: configured[key] for key in configured if "/" in key}
        self.places: dict[tuple[str, str], Place] = {}
        self.problems: list[Problem] = []
        self.uncertain: set[str] = set()
        # R6: candidates in order, with whether they lie where agents may lie.
        self.loose: list[tuple[Folder, str, _Context, bool]] = []
        self.has_container = False

    def visit(self, folder: Folder, name: str, above: _Context) -> None:
        """Find what is in ``folder``; ``above`` is what the folders above it say."""
        files, folders, path = folder.files, folder.folders, folder.path
        lowered = name.lower()
        skill = _skill_file(files, lowered) if files else None
        here = above
        # R3: inside a skill only a folder that is both a skill and a plugin is searched.
        is_plugin = path in self.claims.listed or ".claude-plugin" in folders
        if (folders or is_plugin) and not (above.closed and skill is None):
            here = self.enter_plugins(folder, here, is_plugin)
        if manifest.NAME in files and not here.closed:
            for part in self.claims.enter_collection(folder):
                self.add_part(part, here)

        owned = self.claims.owned.get(path)
        if owned is not None and owned.type != "skill":
            self.add(folder, owned.file, owned.type, here, owned, owns=True)
            here = here._replace(closed=True)
        elif skill is not None:
            marked = above.marked if above.shelved is None else above.shelved
            if owned is None and self.claims:
                owned = self.claims.on(folder).get(skill)
            listed = path in self.claims.listed
            self.add(
                folder, skill, "skill", here, owned, owns=True, secondary=marked, is_listed=listed
            )
            if not folders and len(files) == 1:
                return
            here = here._replace(type=None, closed=not is_plugin, parent=path or ".")
        here = self.context(folder, lowered, above, here)
        if files:
            self.look(folder, name, here, skill)
        for key in sorted(folders) if len(folders) > 1 else folders:
            self.visit(folders[key], key, here)

    def enter_plugins(self, folder: Folder, here: _Context, is_plugin: bool) -> _Context:
        """Read the manifests of plugins whose root is ``folder``."""
        if is_plugin:
            name, parts = self.claims.enter_plugin(folder, here.plugin)
            for part in parts:
                self.add_part(part, here)
            here = here._replace(plugin=name)
        for key, inner in folder.folders.items():
            if key[-7:] == "-plugin" and (key[0] == "." or key == "claude-plugin"):
                self.claims.enter_other_plugin(folder, inner)
        return here

    def context(self, folder: Folder, lowered: str, above: _Context, here: _Context) -> _Context:
        """Add what a folder's own name and contents say."""
        path = folder.path
        declared = self.claims.declared.get(path)
        type_ = declared.type if declared else self.container(path, lowered)
        if type_ is not None and (declared or not here.closed):
            here = here._replace(
                type=type_,
                container=path,
                support=False,
                secondary=above.marked,
                closed=False,
                plugin=(declared.plugin if declared else None) or here.plugin,
            )
            self.has_container = True
        elif here.type is not None and lowered in _SUPPORT:
            here = here._replace(support=True)
        if lowered in _SECONDARY and not here.marked:
            here = here._replace(marked=True)
        if lowered == "skills":
            here = here._replace(shelved=above.marked)
        elif lowered == "docs":
            here = here._replace(docs=True)
        if here.loose and (lowered in _TOPICS or not _AGENT_FOLDERS.isdisjoint(folder.folders)):
            here = here._replace(loose=False)
        return here

    def container(self, path: str, lowered: str) -> str | None:
        """Tell the type of what lies in a folder, if the folder is a container (R4, R9)."""
        if self.paths and path in self.paths:
            return self.paths[path]
        return self.names.get(lowered)

    def look(self, folder: Folder, name: str, here: _Context, skill: str | None) -> None:
        """Find what the files of ``folder`` are, other than a skill."""
        files = folder.files
        claims = self.claims.on(folder) if self.claims else {}
        for file in sorted(files) if len(files) > 1 else files:
            claim = claims.get(file)
            if file == skill:
                continue
            if claim is not None:
                if claim.type == "mcp" and claim.entry is None:
                    at = here._replace(plugin=claim.plugin)
                    for part in self.claims.servers(folder, file):
                        self.add_part(part, at)
                else:
                    self.add(folder, file, claim.type, here, claim)
            elif here.closed:
                continue
            elif file[-3:].lower() == ".md":
                self.look_at_text(folder, file, here)
            elif file in SERVER_FILES:
                for part in self.claims.servers(folder, file):
                    self.add_part(part, here)
            elif file == "hooks.json":
                # A hook in a folder of its own has its scripts there.
                owns = folder.path.rpartition("/")[0].rpartition("/")[2].lower() == "hooks"
                self.add(folder, file, "hook", here, owns=owns)
            elif (
                file == "settings.json" and name == ".claude" and self.claims.settings(folder, file)
            ):
                self.add(folder, file, "hook", here, fragment="hooks")

    def look_at_text(self, folder: Folder, file: str, here: _Context) -> None:
        """Find what a Markdown file is."""
        type_ = here.type
        if _DOCUMENT.fullmatch(file) and not (file in _NAMES_FOLDER and type_):
            return
        if file[-9:].lower() == ".agent.md":
            self.add(folder, file, "agent", here, contained=type_ == "agent")
        elif type_ is not None:
            if not here.support and not (here.docs and self.is_page(folder.join(file), type_)):
                self.add(folder, file, type_, here, contained=True, by_content=here.docs)
        elif not here.docs:
            self.loose.append((folder, file, here, here.loose and folder.path != ""))

    # Markdown that has to be opened

    def is_page(self, path: str, type_: str) -> bool:
        """Tell whether a file below a docs folder is a page of a site (R5)."""
        fields = self.fields(path)
        if fields is None or "title" in fields:
            return True
        return type_ == "agent" and not ("name" in fields and "description" in fields)

    def look_at_loose(self) -> None:
        """Look into the candidates for agents (R6)."""
        bare = not self.has_container and not self.claims
        bare = bare and not any(type_ == "skill" for type_, _ in self.places)
        opened = 0
        for folder, file, here, may_be in self.loose:
            if not (may_be or bare):
                continue
            path = folder.join(file)
            opened += 1
            if opened > LOOSE_LIMIT:
                self.uncertain.add(path)
                continue
            fields = self.fields(path) or {}
            name = servers.text(fields.get("name"))
            is_agent = "description" in fields and not _AGENT_KEYS.isdisjoint(fields)
            if name and ((may_be and is_agent) or (bare and name == file[:-3])):
                self.add(folder, file, "agent", here, by_content=True)
        if opened > LOOSE_LIMIT:
            text = f"of {opened} files outside of known folders only {LOOSE_LIMIT} were looked into"
            self.problems.append(Problem("W_TOO_MANY_CANDIDATES", text))

    def fields(self, path: str) -> dict[str, object] | None:
        """Read the front matter of a file, by lower-case key; None if it cannot be known."""
        try:
            found = frontmatter.read(self.read(path))
        except VanishedError:
            return None
        except UnreadableError:
            self.uncertain.add(path)
            return None
        return {key.lower().replace("_", "-"): value for key, value in found.fields.items()}

    # Places

    def add_part(self, part: Part, here: _Context) -> None:
        """Note an artifact that stands in a manifest."""
        claim = Claim(part.type, part.plugin, part.entry)
        self.add(
            part.folder,
            part.file,
            part.type,
            here,
            claim,
            name=part.name,
            fragment=part.fragment,
            problems=part.problems,
        )

    def add(
        self,
        folder: Folder,
        file: str,
        type_: str,
        at: _Context,
        claim: Claim | None = None,
        *,
        owns: bool = False,
        contained: bool = False,
        secondary: bool | None = None,
        name: str = "",
        fragment: str | None = None,
        problems: tuple[Problem, ...] = (),
        by_content: bool = False,
        is_listed: bool = False,
    ) -> None:
        """Note one artifact.

        :param contained: whether it is one because of the container that it lies in.
        :param secondary: as the context says, where it is None.
        """
        path = folder.join(file)
        text = shown(path)
        if fragment is not None:
            text = f"{text}#{shown(fragment)}"
        key = (type_, text)
        if key in self.places:
            return
        plugin, entry = (claim.plugin, claim.entry) if claim is not None else (None, None)
        if not name:
            name = shown(entry.name) if entry else self.name(folder, file, type_, at)
        if secondary is None:
            secondary = at.secondary if contained else at.marked
        self.places[key] = Place(
            type_,
            text,
            path,
            folder.files[file],
            name,
            folder if owns else None,
            fragment,
            plugin or at.plugin,
            secondary,
            _namespace(folder, file, at) if contained else None,
            shown(at.parent) if at.parent is not None and type_ == "skill" else None,
            entry,
            problems,
            by_content,
            is_listed,
        )

    def name(self, folder: Folder, file: str, type_: str, at: _Context) -> str:
        """Tell the name that the path gives to an artifact."""
        if type_ == "hook" and file in ("hooks.json", "settings.json"):
            # A hooks folder and an assistant's folder say nothing; what is around them does.
            path = folder.path
            if folder.name.lower() == "hooks":
                if at.plugin:
                    return at.plugin
                path = path.rpartition("/")[0]
            while path and path.rpartition("/")[2].startswith("."):
                path = path.rpartition("/")[0]
            return shown(path.rpartition("/")[2] or self.root_name)
        if type_ == "skill":
            # Mostly the very same object, which saves 14 MB at 100,000.
            return shown(folder.name or self.root_name)
        return _name_of(type_, folder.join(file), self.root_name)


def _skill_file(files: Mapping[str, Evidence], lowered: str) -> str | None:
    """Find the file that makes a folder called ``lowered`` a skill (R1)."""
    if "SKILL.md" in files:
        return "SKILL.md"
    for file in files:
        if len(file) == 8 and file.lower() == "skill.md":
            # R2: a command or an agent called "skill".
            if file == "skill.md" and lowered in CONTAINERS:
                continue
            return min(other for other in files if other.lower() == "skill.md")
    return None


def _namespace(folder: Folder, file: str, at: _Context) -> str | None:
    if folder.path == at.container:
        return None
    between = folder.path[len(at.container) + 1 if at.container else 0 :].split("/")
    if file in _NAMES_FOLDER:
        between.pop()
    return ":".join(map(shown, between)) or None
