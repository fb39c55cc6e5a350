"""A made-up collection on disk: as many artifact folders as asked for, always the same ones."""

from __future__ import annotations

import random
from pathlib import Path

SEED = 20260301
FILE_BYTES = 4096

COMMON_WORD = "spreadsheet"  # in the description of every fifth artifact
COMMON_EVERY = 5
RARE_EACH = 10  # artifacts that share a rare word

_SYLLABLES = (
    *("ba", "cor", "den", "fi", "gra", "hal", "in", "ju", "ket", "lo"),
    *("mar", "nel", "or", "pi", "qua", "ren", "sol", "ta", "ul", "ven"),
)
WORDS = tuple(a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES[:5])
# Every artifact has one of the first tenth and two of the others.
TAGS = tuple(f"{a}{b}-{c}" for a in _SYLLABLES[:10] for b in _SYLLABLES[10:] for c in ("ops", "ui"))
_FEW_TAGS = len(TAGS) // 10

_LICENSES = ("MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-only", "MPL-2.0")
_TOOLS = ("Read", "Write", "Edit", "Grep", "Glob", "WebFetch", "Bash(git:*)", "Bash(npm run:*)")
_AUTHORS = tuple(
    f"{a.title()} {b.title()}" for a, b in zip(WORDS[:400], WORDS[:0:-1], strict=False)
)
_MODELS = ("sonnet", "opus", "haiku", "inherit")


def rare_word(number: int) -> str:
    """The word that artifacts ``10 * number`` to ``10 * number + 9`` share with no other."""
    return f"zyg{number:06d}"


def write(root: Path, count: int) -> None:
    """Make ``count`` folders below ``root``, each with a ``SKILL.md`` of 4 KB."""
    chance = random.Random(SEED)
    body = "\n" + "\n".join(
        " ".join(chance.choices(WORDS, k=12)).capitalize() + "." for _ in range(60)
    )
    skills = root / "skills"
    skills.mkdir(parents=True)
    for number in range(count):
        name, head = _front_matter(number, chance)
        folder = skills / name
        folder.mkdir()
        text = f"{head}# {name}\n{body}"
        with (folder / "SKILL.md").open("wb", buffering=0) as file:
            file.write(text.encode()[: FILE_BYTES - 1] + b"\n")


def _front_matter(number: int, chance: random.Random) -> tuple[str, str]:
    name = f"{'-'.join(chance.choices(WORDS, k=2))}-{number:06d}"
    words = chance.choices(WORDS, k=22)
    words[9] = rare_word(number // RARE_EACH)
    if number % COMMON_EVERY == 0:
        words[14] = COMMON_WORD
    tags = chance.sample(TAGS[_FEW_TAGS:], 2)
    tags.append(TAGS[chance.randrange(_FEW_TAGS)])
    tools = chance.sample(_TOOLS, 3)
    return name, (
        "---\n"
        f"name: {name}\n"
        f"description: {' '.join(words)}\n"
        f"license: {chance.choice(_LICENSES)}\n"
        f"version: {chance.randrange(10)}.{chance.randrange(20)}.{chance.randrange(20)}\n"
        f"author: {chance.choice(_AUTHORS)}\n"
        f"tags: [{', '.join(tags)}]\n"
        f"allowed-tools: {', '.join(tools)}\n"
        f"model: {chance.choice(_MODELS)}\n"
        "---\n"
    )
