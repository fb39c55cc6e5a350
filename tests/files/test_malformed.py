"""Files that are broken on purpose, and the real ones: what front matter makes of them."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from flask_artifact_cache.files.fields import Fields, normalise
from flask_artifact_cache.files.frontmatter import READ_LIMIT, places, read
from flask_artifact_cache.files.problems import Problem, UnreadableError
from flask_artifact_cache.files.recovery import recover
from flask_artifact_cache.files.yamltext import Parse, YamlError, parse, parse_in_python

CORPORA = Path(
    os.environ.get("ARTIFACT_CACHE_CORPORA")
    or Path(__file__).resolve().parents[3] / "shared" / "corpora"
)
EXPECTATIONS = CORPORA / "malformed" / "expectations.json"
EXPECTED: dict[str, dict[str, Any]] = (
    json.loads(EXPECTATIONS.read_text("utf-8"))["files"] if EXPECTATIONS.is_file() else {}
)
TEXT_TYPES = ("skill", "agent", "command")
# Seen from outside of the text: by the walk, or by the reader of a manifest.
FROM_ELSEWHERE = {"W_FILE_NAME_CASE", "W_PATH_OUTSIDE", "W_BOM"}
# A file is "parsed" in spite of these; any other warning makes it "recovered".
ONLY_ADVICE = {
    "W_BOM",
    "W_DUPLICATE_KEY",
    "W_NAME_INVALID",
    "W_NAME_MISMATCH",
    "W_TYPE",
    "W_MISSING_DESCRIPTION",
    "W_DESCRIPTION_TOO_LONG",
}


def path_name(type_: str, path: Path) -> str:
    if type_ == "plugin":
        return path.parent.parent.name
    return path.parent.name if type_ == "skill" else path.stem.removesuffix(".agent")


def load(type_: str, file: Path, parser: Parse = parse) -> tuple[Fields, list[Problem]]:
    """The fields of a file and all that is wrong with it."""
    name = path_name(type_, file)
    if type_ == "plugin":
        fields = normalise(type_, json.loads(file.read_text("utf-8-sig")), fallback_name=name)
        return fields, [*fields.problems]
    found = read(file.read_bytes()[:READ_LIMIT], parser)
    fields = normalise(type_, found.fields, fallback_name=name, body=found.body)
    return fields, [*found.problems, *fields.problems]


def check(fields: Fields, name: str, expected: Any) -> None:
    description = fields.description or ""
    if name == "description_prefix":
        assert description.startswith(expected)
    elif name == "description_contains":
        assert expected in description
    elif name == "description_length":
        assert len(description) == expected
    elif name not in ("namespace", "parent"):  # told by the path
        actual = getattr(fields, name)
        assert (list(actual) if isinstance(actual, tuple) else actual) == expected


def paths(*outcomes: str) -> list[str]:
    """The files of ``malformed`` that are text with front matter, or a plugin's manifest."""
    return [
        path
        for path, expected in EXPECTED.items()
        if expected["type"] in (*TEXT_TYPES, "plugin")
        and expected["outcome"] in outcomes
        and expected["error"] != "E_JSON"
    ]


@pytest.fixture(scope="session")
def malformed(corpora: Path) -> Path:
    return corpora / "malformed" / "collection"


@pytest.fixture(scope="session")
def real_files(
    corpora: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[str, Path, bytes]]:
    """Type, path and first bytes of every artifact in the archives."""
    folder = tmp_path_factory.mktemp("archives")
    listed = json.loads((corpora / "expected-artifacts.json").read_text("utf-8"))["artifacts"]
    files = []
    for name, artifacts in listed.items():
        with tarfile.open(corpora / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        for path, (type_, _) in artifacts.items():
            file = folder / name / path
            if type_ in TEXT_TYPES and file.is_file():
                files.append((type_, file, file.read_bytes()[:READ_LIMIT]))
    assert len(files) == 3_014
    return files


def test_all_expectations_are_there(corpora: Path) -> None:
    assert len(EXPECTED) == 73
    assert len(paths("parsed", "recovered")) == 58
    assert len(paths("rejected")) == 7


@pytest.mark.parametrize("path", paths("parsed", "recovered"))
def test_a_usable_file_has_the_wanted_fields(malformed: Path, path: str) -> None:
    expected = EXPECTED[path]
    fields, problems = load(expected["type"], malformed / path)
    assert set(expected["warnings"]) - FROM_ELSEWHERE <= {problem.code for problem in problems}
    for name, value in expected["fields"].items():
        check(fields, name, value)


@pytest.mark.parametrize("path", paths("parsed", "recovered"))
def test_a_file_is_repaired_only_where_it_needs_it(malformed: Path, path: str) -> None:
    expected = EXPECTED[path]
    _, problems = load(expected["type"], malformed / path)
    repairs = {problem.code for problem in problems} - ONLY_ADVICE
    if expected["type"] == "command":
        repairs.discard("W_NO_FRONTMATTER")  # as good a way to write one as any
    assert bool(repairs) == (expected["outcome"] == "recovered")


@pytest.mark.parametrize("path", paths("rejected"))
def test_a_hopeless_file_is_refused_with_its_code(malformed: Path, path: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        load(EXPECTED[path]["type"], malformed / path)
    assert caught.value.problem.code == EXPECTED[path]["error"]


def test_problems_point_into_the_file(malformed: Path) -> None:
    _, (problem,) = load("skill", malformed / "skills" / "unquoted-colon" / "SKILL.md")
    assert str(problem.at("SKILL.md")).startswith("SKILL.md:3:27: W_YAML_REPAIRED")


def test_both_parsers_agree_on_every_file(
    malformed: Path, real_files: list[tuple[str, Path, bytes]]
) -> None:
    def outcome(data: bytes, parser: Parse) -> object:
        try:
            return read(data, parser)
        except UnreadableError as error:
            return error.problem

    written = [
        (malformed / path).read_bytes()
        for path, expected in EXPECTED.items()
        if expected["type"] in TEXT_TYPES
    ]
    for data in (*written, *(data for _, _, data in real_files)):
        assert outcome(data, parse) == outcome(data, parse_in_python)


def test_every_real_file_is_read(real_files: list[tuple[str, Path, bytes]]) -> None:
    described = repaired = bare = 0
    for type_, file, data in real_files:
        found = read(data)
        codes = {problem.code for problem in found.problems}
        fields = normalise(
            type_, found.fields, fallback_name=path_name(type_, file), body=found.body
        )
        described += fields.description is not None
        repaired += "W_YAML_REPAIRED" in codes
        bare += "W_NO_FRONTMATTER" in codes
        if "W_YAML_REPAIRED" in codes:
            assert found.fields["description"]
            assert type_ == "command" or found.fields["name"] == fields.name
    # The ten that say nothing are fixtures of a heading only.
    assert (described, repaired, bare) == (len(real_files) - 10, 100, 364)


def test_recovery_does_not_invent(real_files: list[tuple[str, Path, bytes]]) -> None:
    """Forced on files that are valid, it reads from them what the strict parser reads."""
    compared = 0
    for _, _, data in real_files:
        text = data.decode()
        if not text.startswith("---\n") or "\n---\n" not in text:
            continue
        block = text[4 : text.index("\n---\n") + 1]
        try:
            strict = parse(block)
        except YamlError:
            continue
        told: list[tuple[str, str, int]] = []

        def tell(*problem: Any, told: list[tuple[str, str, int]] = told) -> None:
            told.append(problem)

        assert recover(block, YamlError("E_YAML", "forced", 0), parse, tell) == strict.value
        assert told == [("W_YAML_REPAIRED", "read key by key: forced", 0)]
        compared += 1
    assert compared > 2_500


def test_the_fields_of_the_real_files_stand_where_they_are_said_to(
    real_files: list[tuple[str, Path, bytes]],
) -> None:
    for _, path, data in real_files:
        try:
            found = read(data)
        except UnreadableError:
            continue
        lines = data.decode("utf-8-sig").split("\n")
        placed = places(data, found.fields)
        for key, (line, column) in placed.items():
            assert lines[line - 1][column - 1 :].lstrip("'\"").startswith(key), (path, key)
        if not {"W_NO_FRONTMATTER", "W_INLINE_META"} & {one.code for one in found.problems}:
            assert placed.keys() == found.fields.keys(), path
