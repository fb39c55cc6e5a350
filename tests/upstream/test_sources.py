"""What a user types is a place in a repository, or one clear sentence."""

from __future__ import annotations

import pytest

from flask_artifact_cache.errors import ConfigurationError, InvalidRequestError
from flask_artifact_cache.upstream.sources import Source, api_root, of_manifest, parse, web_root

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anthropics/skills", Source("anthropics", "skills")),
        ("anthropics/skills/pdf@v2.1.0", Source("anthropics", "skills", "pdf", "v2.1.0")),
        ("a/b/c/d.md@feature/x", Source("a", "b", "c/d.md", "feature/x")),
        ("a/b@main", Source("a", "b", "", "main")),
        ("a/b.git", Source("a", "b")),
        ("a/b/packages/@scope/pdf", Source("a", "b", "packages/@scope/pdf")),
        ("a/b/packages/@scope/pdf@v1", Source("a", "b", "packages/@scope/pdf", "v1")),
        ("https://github.com/a/b", Source("a", "b")),
        (f"https://github.com/a/b/tree/{SHA}/x/y", Source("a", "b", "x/y", SHA)),
        ("https://github.com/a/b/tree/f/x/y", Source("a", "b", "f/x/y", "f", is_open=True)),
        ("https://github.com/a/b/blob/main/x.md", Source("a", "b", "main/x.md", "main", True)),
    ],
)
def test_a_source_is_read(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pdf",
        "/etc/passwd",
        "a/..",
        "a/b/../c",
        "a/b/c/../../d",
        "a/b//c",
        "a/b/C:/x",
        "a/b/x\x00y",
        "a/b/x\ny",
        "a/b/nul",
        "a/b/c\\d",
        "-a/b",
        "a b/c",
        "a/b@",
        "a/b@../x",
        "a/b@x..y",
        "a/b@x.lock",
        "a/b@-x",
        "a/b@x y",
        "a/b@x~1",
        "a/b@x^",
        "a/b@x:y",
        "a/b@x@{u}",
        "a/b@x//y",
        "a/b/c@" + "x" * 300,
        "a/b/" + "x" * 1000,
        "http://github.com/a/b",
        "https://github.com.evil.example/a/b",
        "https://evil.example/github.com/a/b",
        "https://user@github.com/a/b",
        "https://github.com:8443/a/b",
        "https://github.com/a/b/issues/1",
        "https://github.com/a/b/tree/main/../../x",
        "https://github.com/a/b/tree/main/%2e%2e/x",
        "https://github.com/a/b?tab=x",
        "https://[::1/a/b",
        "file:///etc/passwd",
    ],
)
def test_what_is_none_is_one_sentence(text):
    with pytest.raises(InvalidRequestError) as caught:
        parse(text)

    assert caught.value.errors[0][0] == "source"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("url", "web"),
    [
        ("https://api.github.com", "https://github.com"),
        ("https://api.github.com/", "https://github.com"),
        ("https://ghe.example.com/api/v3", "https://ghe.example.com"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://localhost:80/x", "http://localhost:80"),
    ],
)
def test_the_address_of_an_api(url, web):
    assert web_root(api_root(url)) == web


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.github.com",
        "http://api.github.com",
        "http://127.0.0.1.evil.example",
        "http://2130706433",
        "https://token:secret@api.github.com",
        "https://api.github.com?secret",
        "https://api.github.com#secret",
        "https://api.git hub.com",
        "https://api.github.com\\@secret",
        "https://host:99999/secret",
        "https://[::1/secret",
        "ftp://api.github.com",
        "https:///secret",
    ],
)
def test_no_other_address_is_taken_or_shown(url):
    with pytest.raises(ConfigurationError) as caught:
        api_root(url)

    assert "secret" not in str(caught.value)


WEB = "https://github.com"


@pytest.mark.parametrize(
    ("link", "spec", "expected"),
    [
        (f"{WEB}/o/r/tree/{SHA}/skills/a", None, Source("o", "r", "skills/a")),
        (f"{WEB}/o/r/tree/{SHA}/skills/a", "latest", Source("o", "r", "skills/a")),
        (f"{WEB}/o/r/tree/{SHA}/a%20b", SHA, Source("o", "r", "a b", SHA)),
        (f"{WEB}/o/r/tree/{SHA}", "v1", Source("o", "r", "", "v1")),
        (f"{WEB}/o/r/tree/{SHA}/a", "@scope/a@1.0", Source("o", "r", "a", "@scope/a@1.0")),
        (f"{WEB}/o/r/tree/feature/x/a", "feature/x", Source("o", "r", "a", "feature/x")),
        (f"{WEB}/o/r/tree/main/a", None, Source("o", "r", "a")),
        (f"{WEB}/o/r", None, Source("o", "r")),
    ],
)
def test_what_a_manifest_follows(link, spec, expected):
    assert of_manifest(link, spec, WEB) == expected


@pytest.mark.parametrize(
    ("link", "spec"),
    [
        (None, None),
        ("", None),
        ("o/r/skills/a", None),
        ("https://evil.example/o/r/tree/main/a", None),
        (f"{WEB}.evil.example/o/r/tree/main/a", None),
        (f"{WEB}/o/r/tree/{SHA}/../../x", None),
        (f"{WEB}/o/r/tree/{SHA}/%2e%2e/x", None),
        (f"{WEB}/o/r/tree/{SHA}/a", "a..b"),
        (f"{WEB}/o/r/tree/{SHA}/a", "-x"),
        (f"{WEB}/o/r/tree/{SHA}/a\x00", None),
        (f"{WEB}/o%2f../r/tree/{SHA}/a", None),
    ],
)
def test_a_manifest_that_points_elsewhere_is_not_followed(link, spec):
    with pytest.raises(InvalidRequestError):
        of_manifest(link, spec, WEB)
