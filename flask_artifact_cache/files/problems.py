"""What is wrong with a file, as data: a code, a place, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ArtifactCacheError

HINTS = {
    # Errors: no field is taken from the file.
    "E_EMPTY": "Write a front matter block with a name and a description.",
    "E_BINARY": "Save the file as UTF-8 text.",
    "E_UNREADABLE": "Give the account that runs the cache permission to read the file.",
    "E_NOT_A_MAPPING": "Write the front matter as 'key: value' lines, above any rule of the text.",
    "E_FRONTMATTER_TOO_LARGE": "Keep the front matter below 64 KiB; move long text into the body.",
    "E_YAML_ALIASES": "Write the values out instead of using YAML aliases.",
    "E_YAML_TOO_DEEP": "Flatten the nested values.",
    "E_YAML_TOO_MANY_NODES": "Shorten the front matter.",
    "E_YAML_TAG": "Remove the YAML tag (the word that starts with '!').",
    "E_YAML": "Quote the value, or write it as a block ('description: |').",
    "E_JSON": "Mend the JSON; an editor with JSON support shows the place.",
    "E_TOML": "Mend the TOML; nothing was taken from the manifest.",
    "E_TOO_MANY_ENTRIES": "Exclude folders that hold no artifacts.",
    "E_TOO_DEEP": "Exclude the folder; artifacts do not lie this deep.",
    "E_TOO_LARGE": "Keep the file small; only its beginning was looked at.",
    # Warnings: the artifact is usable.
    "W_BOM": "Save the file without a byte order mark.",
    "W_ENCODING": "Save the file as UTF-8.",
    "W_CONTROL_CHARS": "Remove the control characters.",
    "W_NO_FRONTMATTER": "Add a front matter block with a name and a description.",
    "W_INLINE_META": "Put the fields between two lines of '---'.",
    "W_UNCLOSED": "Close the front matter with a line of '---'.",
    "W_ODD_CLOSE": "Close the front matter with exactly '---'.",
    "W_INDENTED_BLOCK": "Remove the indentation of the front matter.",
    "W_CODE_FENCED": "Remove the code fence around the front matter.",
    "W_LEADING_COMMENT": "Move the comment below the front matter.",
    "W_LEADING_BLANK": "Remove the blank lines above the front matter.",
    "W_NO_OPEN_FENCE": "Open the front matter with a line of '---'.",
    "W_EMPTY_FRONTMATTER": "Fill in a name and a description.",
    "W_YAML_REPAIRED": "Quote the value, or write it as a block ('description: |').",
    "W_TABS": "Indent with spaces.",
    "W_DUPLICATE_KEY": "Keep one of the equal keys; the first one counts.",
    "W_NAME_INVALID": "Use 1 to 64 lower-case letters, digits and hyphens.",
    "W_NAME_MISMATCH": "Give the artifact the name of its folder.",
    "W_TYPE": "Write the value in the documented form.",
    "W_MISSING_DESCRIPTION": "Add a description.",
    "W_DESCRIPTION_TOO_LONG": "Keep the description within 1,024 characters.",
    "W_FILE_NAME_CASE": "Rename the file to SKILL.md.",
    "W_PATH_OUTSIDE": "Point to a path inside the folder.",
    "W_UNKNOWN_TYPE": "Use skill, command, agent, hook or mcp.",
    "W_MISSING_FILE": "Restore the file, or remove the entry from the manifest.",
    "W_TOO_MANY_PARTS": "Split the file into several.",
    "W_TOO_MANY_CANDIDATES": "Put agents into a folder called agents, or exclude folders.",
    "W_NOT_HASHED": "Move large or unreadable files out of the artifact's folder.",
    "W_SYMLINK_BROKEN": "Remove the link, or restore its target.",
}
# Where the same code has several usual causes: what ends the message, and how to mend it then.
BAD_ESCAPE = "an escape that YAML does not know"
ASTERISK = "an alias without an anchor"
WIKI_LINK = "text beside a link in double brackets"
LEADING_RULE = "the file has no front matter, but begins with a rule"
CAUSES = {
    BAD_ESCAPE: "Put a path with backslashes between single quotes.",
    ASTERISK: "Quote the value: one that begins with an asterisk means something else to YAML.",
    WIKI_LINK: "Quote the value: one that begins with a bracket is a list to YAML.",
    LEADING_RULE: "Put a front matter block with a name and a description above the rule.",
}


def hint(code: str, message: str) -> str:
    """How to mend what a problem tells of, in one sentence; empty for a code that is not ours."""
    return CAUSES.get(message.rpartition(": ")[2]) or HINTS.get(code, "")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one file.

    ``E_`` codes are errors, ``W_`` codes warnings. Of a manifest the message repeats the names and
    types of entries, else no text of the file, which may hold secrets.
    """

    code: str
    message: str
    path: str = ""  # POSIX, relative to the collection's root
    line: int | None = None  # from 1
    column: int | None = None  # from 1

    @property
    def hint(self) -> str:
        """How to mend it, in one sentence."""
        return hint(self.code, self.message)

    def at(self, path: str) -> Problem:
        """The same problem, in the file ``path``."""
        return replace(self, path=path)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line, self.column) if part)
        return f"{place}: {self.code} {self.message}" if place else f"{self.code} {self.message}"


class UnreadableError(ArtifactCacheError):
    """A file that no field can be taken from; the other files are unaffected.

    :ivar problem: what and where.
    """

    code = "unreadable"
    status = 422
    title = "The artifact's file cannot be used"

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem
