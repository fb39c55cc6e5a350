"""The HTML page in a real Chromium, with scripts and without."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import pytest
import sqlalchemy as sa

from flask_artifact_cache.errors import RootUnavailableError
from flask_artifact_cache.models import Artifact
from flask_artifact_cache.notices import Notice
from flask_artifact_cache.queries import Listing
from flask_artifact_cache.refresh.selection import Selection

from . import browser as chrome
from .conftest import CI, CollectionFolder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
EXPECT_MS = 10_000


@pytest.fixture(scope="module")
def chromium():
    """Chromium; where there is none, nothing here can be tested."""
    executable = chrome.chromium()
    if executable is None:
        message = "there is no Chromium on this machine"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=executable, args=list(chrome.FLAGS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def real(unpacked, tmp_path_factory):
    """A host with a collection of somebody else, and its address."""
    folder = tmp_path_factory.mktemp("real")
    roots = {"work": unpacked("wshobson__agents"), "team": unpacked("obra__superpowers")}
    app, service = chrome.host(folder, roots, authorize=lambda *_: True)
    with app.app_context():
        for one in roots:
            service.populate(one)
    with chrome.serving(app) as address:
        yield address


@pytest.fixture(params=["with scripts", "without scripts"])
def page(request, chromium, real):
    context = chromium.new_context(
        java_script_enabled=request.param == "with scripts", base_url=real
    )
    context.set_default_timeout(EXPECT_MS)
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture
def scripted(chromium, real):
    """A page with scripts; whatever its policy refuses, or fails in it, fails the test."""
    context = chromium.new_context(base_url=real)
    context.set_default_timeout(EXPECT_MS)
    page = context.new_page()
    failures = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda one: failures.append(one.text) if one.type == "error" else None)
    yield page
    context.close()
    assert failures == []


def count(page):
    """How many artifacts the page says that there are."""
    told = page.locator(".ac-count h2").inner_text()
    return int(re.match(r"[\d,]+", told)[0].replace(",", ""))


def names(page):
    return page.locator(".ac-item h3").all_inner_texts()


def query(page):
    return parse_qs(urlsplit(page.url).query)


def searched(page, words):
    """Type words and search; with scripts as with none."""
    page.get_by_role("searchbox").fill(words)
    page.get_by_role("searchbox").press("Enter")
    page.wait_for_url(f"**q={words.replace(' ', '+')}*")
    playwright.expect(page.locator("#ac-results[aria-busy]")).to_have_count(0)


# --- the same with scripts and without -----------------------------------------------------------


def test_one_searches_narrows_sorts_and_goes_back(page):
    page.goto("/collection/work")
    everything = count(page)
    assert everything == 571

    searched(page, "test")
    found = count(page)
    assert 0 < found < everything
    page.locator("#filter-type").get_by_role("link", name=re.compile("^agent")).click()
    page.wait_for_url("**type=agent*")
    agents = count(page)
    assert 0 < agents < found
    assert set(page.locator(".ac-type").all_inner_texts()) == {"agent"}
    assert query(page)["q"] == ["test"]

    page.get_by_label("Sort by").select_option("name")
    page.get_by_role("button", name="Search").click()
    page.wait_for_url("**sort=name*")
    assert count(page) == agents
    assert names(page) == sorted(names(page), key=str.casefold)
    assert query(page)["type"] == ["agent"]

    page.get_by_role("link", name="Remove the filter type: agent").click()
    page.wait_for_url(lambda url: "type=" not in url)
    assert count(page) == found
    page.get_by_role("link", name="Clear all").click()
    page.wait_for_url("**/collection/work")
    assert count(page) == everything


def test_one_pages_to_the_end(page):
    page.goto("/collection/work?type=plugin&sort=name")
    total, found = count(page), names(page)
    while page.get_by_role("link", name="Next page").count():
        before = page.url
        page.get_by_role("link", name="Next page").click()
        page.wait_for_url(lambda url, before=before: url != before)
        found += names(page)
    assert len(found) == total > 50
    page.get_by_role("link", name="First page").click()
    assert names(page) == found[:50]


def test_one_opens_an_artifact_and_another_collection(page):
    page.goto("/collection/")
    page.get_by_role("link", name="work", exact=True).last.click()
    name = names(page)[0]
    page.locator(".ac-item h3 a").first.click()
    assert page.get_by_role("heading", level=1).inner_text() == name
    assert "Content hash" in page.locator("main").inner_text()
    page.get_by_role("navigation", name="Collections").get_by_role("link", name="team").click()
    assert page.get_by_role("heading", level=1).inner_text() == "team"


def test_a_search_without_a_match_says_so(page):
    page.goto("/collection/work")
    searched(page, "qqqqq")

    assert "Nothing matches." in page.locator("#ac-results").inner_text()
    page.get_by_role("link", name="Show everything").click()
    page.wait_for_url("**/collection/work")
    assert count(page) == 571


def test_one_refreshes_and_sees_what_came_of_it(page):
    page.goto("/collection/team")
    page.get_by_role("link", name="Refresh …").click()
    page.get_by_role("button", name="Refresh now").click()
    page.wait_for_url("**/refreshes/*")
    done = page.get_by_role("heading", name="Done: everything is up to date")
    for _ in range(50):
        # Without scripts one looks again by oneself.
        again = page.locator(".ac-no-script a")
        if done.count() or not again.count():
            break
        if again.is_visible():
            again.click()
        else:
            playwright.expect(done).to_be_visible()
    playwright.expect(done).to_be_visible()
    page.get_by_role("link", name="To the artifacts").click()
    assert page.get_by_role("heading", level=1).inner_text() == "team"


# --- what the script adds ------------------------------------------------------------------------


def test_results_come_while_one_types_and_are_announced_once(scripted):
    page = scripted
    page.goto("/collection/work?type=agent")
    box = page.get_by_role("searchbox")
    page.evaluate(
        """() => { window.told = []; const one = document.getElementById('ac-status');
        new MutationObserver(() => window.told.push(one.textContent)).observe(one,
        {childList: true, characterData: true, subtree: true}); window.status0 = one; }"""
    )
    box.click()
    box.press_sequentially("secur", delay=15)
    page.wait_for_url("**q=secur*")
    box.press("ArrowLeft")
    found = count(page)

    assert page.evaluate("window.told") == [f"{found} artifacts found"]
    assert page.evaluate("document.getElementById('ac-status') === window.status0")
    assert page.evaluate("document.activeElement.id") == "ac-q"
    assert page.evaluate("document.activeElement.selectionStart") == 4
    assert query(page) == {"q": ["secur"], "type": ["agent"]}
    assert page.locator("#ac-status").get_attribute("role") == "status"
    # The address is the page: loaded again, it shows the same.
    shown = names(page)
    page.reload()
    assert names(page) == shown
    before = page.evaluate("history.length")
    box.fill("secu")
    page.wait_for_url(lambda url: url.endswith("q=secu&type=agent"))
    assert page.evaluate("history.length") == before


def test_a_slow_answer_never_replaces_a_later_one(scripted):
    page = scripted
    page.goto("/collection/work")
    held, aborted = threading.Event(), []
    waiting = []
    page.on("requestfailed", lambda request: aborted.append(request.url))

    def hold(route):
        waiting.append(route)
        held.set()

    page.route("**/work?q=python", hold)
    box = page.get_by_role("searchbox")
    box.fill("python")
    playwright.expect(page.locator("#ac-results")).to_have_attribute("aria-busy", "true")
    while not waiting:
        page.wait_for_timeout(10)
    box.fill("rust")
    page.wait_for_url("**q=rust")
    found = names(page)
    for route in waiting:
        with suppress(playwright.Error):  # it was given up
            route.continue_()
    playwright.expect(page.locator("#ac-results[aria-busy]")).to_have_count(0)

    assert [urlsplit(one).query for one in aborted] == ["q=python"]
    assert query(page) == {"q": ["rust"]}
    assert names(page) == found
    assert any("rust" in name for name in found)


def test_keys_lead_to_the_search_and_out_of_it(scripted):
    page = scripted
    page.goto("/collection/work")
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "ac-q"
    page.keyboard.type("a/b")
    assert page.get_by_role("searchbox").input_value() == "a/b"
    page.wait_for_url("**q=a%2Fb")
    page.keyboard.press("Escape")
    page.wait_for_url("**/collection/work")
    assert page.get_by_role("searchbox").input_value() == ""
    assert page.evaluate("document.activeElement.id") == "ac-q"
    assert count(page) == 571


def test_the_key_can_be_turned_off_for_good(scripted):
    page = scripted
    page.goto("/collection/work")
    box, search = page.get_by_label("The key / leads to the search"), page.get_by_role("searchbox")
    assert box.is_checked()
    assert search.get_attribute("aria-keyshortcuts") == "/"
    box.uncheck()
    for _ in range(2):
        assert search.get_attribute("aria-keyshortcuts") is None
        page.locator("h1").click()
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") != "ac-q"
        page.goto("/collection/team?q=code")  # another page, in the same browser
        assert not box.is_checked()
    assert query(page) == {"q": ["code"]}
    box.check()
    page.locator("h1").click()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "ac-q"


def test_what_goes_wrong_while_one_types_is_shown_as_a_page(chromium, real):
    context = chromium.new_context(base_url=real)
    page = context.new_page()
    page.goto("/collection/work")
    page.route("**/work?q=xy*", lambda route: route.fulfill(status=503, body="<p>Down.</p>"))
    page.get_by_role("searchbox").fill("xy")

    playwright.expect(page.get_by_text("Down.")).to_be_visible()
    assert query(page) == {"q": ["xy"]}
    context.close()


def test_what_is_copied_is_in_the_clipboard_or_else_selected(chromium, real):
    for permissions in (["clipboard-read", "clipboard-write"], []):
        context = chromium.new_context(base_url=real, permissions=permissions)
        page = context.new_page()
        page.goto("/collection/work")
        page.locator(".ac-item h3 a").first.click()
        if not permissions:
            page.evaluate(
                "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }"
            )
        button = page.locator("[data-copy=ac-id]")
        button.focus()
        page.keyboard.press("Enter")
        wanted = page.locator("#ac-id").inner_text()
        if permissions:
            playwright.expect(button).to_contain_text("✓")
            assert page.evaluate("navigator.clipboard.readText()") == wanted
        else:
            page.wait_for_function("getSelection().toString() !== ''")
            assert page.evaluate("getSelection().toString()") == wanted
        context.close()


def test_without_scripts_nothing_is_offered_that_needs_one(chromium, real):
    context = chromium.new_context(base_url=real, java_script_enabled=False)
    page = context.new_page()
    page.goto("/collection/work")
    page.locator(".ac-item h3 a").first.click()

    assert page.locator(".ac-copy").count() > 2
    assert page.locator(".ac-copy:visible").count() == 0
    page.goto("/collection/work")
    assert page.locator("#ac-slash").count() == 1
    assert page.locator("#ac-slash:visible").count() == 0
    context.close()


def test_by_keyboard_alone_everything_is_reached_and_focus_is_seen(scripted):
    page = scripted
    page.goto("/collection/team")
    wanted = page.evaluate(
        """() => [...document.querySelectorAll('a[href], button, input, select, summary')]
        .filter(one => one.checkVisibility() && one.type !== 'hidden').length"""
    )
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        key, outline, visible = page.evaluate(
            """() => { const one = document.activeElement;
            const box = one.getBoundingClientRect(); const style = getComputedStyle(one);
            return [one === document.body ? '' : [...document.querySelectorAll('*')].indexOf(one),
            style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,
            box.bottom > 0 && box.top < innerHeight]; }"""
        )
        if key == "":
            break
        assert outline, page.evaluate("document.activeElement.outerHTML")
        assert visible, page.evaluate("document.activeElement.outerHTML")
        reached.add(key)
    assert len(reached) == wanted
    # A filter by Enter, and the focus is at the top of a new page, not lost in an old one.
    page.locator("#filter-type a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**type=*")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "ac-skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "ac-main"


# --- every state, in every look ------------------------------------------------------------------


# Lists one of the artifacts; without a lock, nobody knows whether it was changed.
MANIFEST = """
[collection]
name = "results"

[[artifacts]]
name = "skill-02"
type = "skill"
path = "skills/skill-02/"
origin = "local"
added = "2026-01-01T00:00:00"
"""


def fail(done, total):
    """Progress that a refresh does not survive."""
    raise RuntimeError


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A host with a collection in each state that the page has a look for."""
    folder = tmp_path_factory.mktemp("states")
    roots = {
        name: CollectionFolder(folder / name)
        for name in (
            *("results", "empty", "stale", "partial", "braked", "gone", "unread", "limited"),
            *("missing", "failed", "unconfigured"),
        )
    }
    for name, root in roots.items():
        for number in range({"empty": 0, "results": 60}.get(name, 12)):
            root.skill(
                f"skill-{number:02d}",
                "Reads documents and writes what is in them.",
                tags="[documents, reading]",
                author="Ada Example",
                license="MIT",
                version="1.2.0",
            )
        if name != "empty":
            # Among the first, which are those that are examined.
            root.write("skills/a-warned/SKILL.md", "---\nname: a-warned\n---\n")
    folders = {name: root.root for name, root in roots.items()}
    was, formerly = chrome.host(folder, folders)
    with was.app_context():
        formerly.populate("unconfigured")
    del folders["unconfigured"]
    app, service = chrome.host(
        folder,
        folders,
        ARTIFACT_CACHE_TOKENS=["a-token-for-the-tests"],
        # What is stale, and what was not read, stays so.
        ARTIFACT_CACHE_BACKGROUND="none",
    )
    roots["results"].write("collection.toml", MANIFEST)
    limited = Notice("upstream", at="2026-03-01T13:00:00.000Z")
    service.notices.append(lambda one: [limited] if one == "limited" else [])
    with app.app_context():
        for name in folders:
            if name != "unread":
                service.populate(name)
        service.invalidate("stale")
        roots["partial"].write("skills/skill-01/SKILL.md", "---\n!!python/object:x {a: b}\n---\n")
        service.populate("partial")
        shutil.rmtree(roots["braked"].root / "skills")
        braked = service.populate("braked").refresh_id
        shutil.rmtree(roots["gone"].root)
        with pytest.raises(RootUnavailableError):
            service.populate("gone")
        # As a look that cannot list every folder leaves it.
        db = app.extensions["sqlalchemy"]
        row = Artifact.collection_id == "missing", Artifact.name == "skill-01"
        db.session.execute(sa.update(Artifact).where(*row).values(condition="missing"))
        db.session.commit()
        roots["failed"].skill("skill-01", "Changed.")
        with pytest.raises(RuntimeError):
            service.refresh(Selection("failed"), progress=fail)
        artifacts = json.loads(service.listing("partial", Listing(limit=200)).data)["items"]
    broken = next(one["uid"] for one in artifacts if one["error"])
    with chrome.serving(app) as address:
        yield (
            address,
            {
                "collections": "/collection/",
                "results": "/collection/results",
                "empty": "/collection/empty",
                "no match": "/collection/results?q=nothing&type=skill",
                "stale": "/collection/stale",
                "partial and quarantined": "/collection/partial",
                "braked": "/collection/braked",
                "unavailable": "/collection/gone",
                "not populated": "/collection/unread",
                "upstream limited": "/collection/limited",
                "missing": "/collection/missing",
                "failed": "/collection/failed",
                "unconfigured": "/collection/unconfigured",
                "error": "/collection/results?state=rotten",
                "artifact": f"/collection/partial/artifacts/{broken}",
                "drift": "/collection/results/artifacts/skill:skill-02",
                "problems": "/collection/partial/problems",
                "refresh": "/collection/partial/refresh",
                "run": f"/collection/braked/refreshes/{braked}",
            },
        )


# 1280 by 1024 at 400 % is 320 by 256.
LOOKS = {
    "light": {"size": (1280, 900), "color_scheme": "light"},
    "dark": {"size": (1280, 900), "color_scheme": "dark"},
    "forced colours": {"size": (1280, 900), "forced_colors": "active"},
    "320 px": {"size": (320, 640)},
    "400 % zoom": {"size": (320, 256), "scale": 4},
}
STATES = (
    *("collections", "results", "empty", "no match", "stale", "partial and quarantined", "braked"),
    *("unavailable", "not populated", "upstream limited", "error", "artifact", "drift", "problems"),
    *("refresh", "run", "missing", "failed", "unconfigured"),
)


@pytest.fixture(scope="module")
def examined(chromium, states):
    """A page that can be looked at in every way, with axe ready in each state that it shows."""
    address, paths = states
    assert set(paths) == set(STATES)
    source = chrome.axe_source()
    context = chromium.new_context(base_url=address)
    page = context.new_page()
    screen = context.new_cdp_session(page)

    def show(state):
        page.goto(paths[state])
        # Not as a script of the page, which its policy would refuse.
        page.evaluate(source)
        return page

    def look(size, scale=1, color_scheme="light", forced_colors="none"):
        page.emulate_media(color_scheme=color_scheme, forced_colors=forced_colors)
        screen.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": scale, "mobile": False},
        )
        # Drawn anew before anything is measured.
        page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        ratio, width = page.evaluate("[devicePixelRatio, innerWidth]")
        assert (ratio, width) == (scale, size[0])
        assert page.evaluate(f"matchMedia('(prefers-color-scheme: {color_scheme})').matches")
        assert page.evaluate(f"matchMedia('(forced-colors: {forced_colors})').matches")

    yield show, look
    context.close()


@pytest.mark.parametrize("state", STATES)
def test_no_state_has_a_barrier_in_any_look(examined, state):
    show, look = examined
    page = show(state)
    found = {}
    for name, how in LOOKS.items():
        look(**how)
        found[name] = chrome.violations(page)
        # Nothing is cut off, and only down does one scroll.
        width = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        if width > 0:
            found[name].append(f"wider than the window by {width} px")

    assert {name: broken for name, broken in found.items() if broken} == {}


@pytest.mark.parametrize("kind", ["missing", "failed", "unconfigured"])
def test_what_is_examined_as_a_notice_is_that_notice(examined, kind):
    show, _ = examined
    assert show(kind).locator(".ac-notice").get_attribute("class") == f"ac-notice ac-notice-{kind}"


def test_a_barrier_would_be_found(examined):
    show, look = examined
    page = show("empty")
    page.evaluate("document.querySelector('.ac-health').style.color = '#999'")
    page.evaluate("document.querySelector('.ac-search label').remove()")
    found = {}
    for name in ("light", "dark", "320 px"):
        look(**LOOKS[name])
        found[name] = {one.partition(":")[0] for one in chrome.violations(page)}

    assert found == {
        "light": {"color-contrast", "label"},
        "dark": {"label"},
        "320 px": {"color-contrast", "label"},
    }


# --- text is only text ---------------------------------------------------------------------------

PAYLOADS = (
    "<script>window.boom=1</script>",
    "\"><img src=x onerror='window.boom=1'>",
    "'><svg/onload=window.boom=1>",
    "</title></textarea></script><script>window.boom=1</script>",
    "javascript:window.boom=1",
    "<iframe srcdoc='<script>parent.boom=1</script>'>",
    "<style>*{display:none}</style><link rel=stylesheet href=//x.example>",
    "<form action=//x.example><button formaction=javascript:boom=1>",
    "<base href=//x.example/><meta http-equiv=refresh content=0;url=//x.example>",
    "{{7*7}}${7*7}<%=7*7%>",
    "\u202egnp.exe \u2066<b>\u2069",
)


def test_nothing_that_an_artifact_says_is_executed(chromium, tmp_path):
    root = CollectionFolder(tmp_path / "c")
    for number, payload in enumerate(PAYLOADS):
        quoted = json.dumps(payload)
        fields = "".join(
            f"{name}: {quoted}\n"
            for name in ("name", "description", "author", "license", "version", "source", "model")
        )
        folder = re.sub(r"[/\x00]", "_", payload)[:120]
        root.write(f"skills/{number}{folder}/SKILL.md", f"---\n{fields}tags: [{quoted}]\n---\n")
    app, service = chrome.host(tmp_path, {"work": root.root})
    with app.app_context():
        service.populate("work")
        items = json.loads(service.listing("work", Listing(limit=200)).data)["items"]
    assert len(items) == len(PAYLOADS)
    with chrome.serving(app) as address:
        context = chromium.new_context(base_url=address)
        context.add_init_script(
            """window.violations = []; document.addEventListener('securitypolicyviolation',
            event => window.violations.push(event.violatedDirective + ' ' + event.blockedURI));"""
        )
        page = context.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: asked.append(f"dialog {dialog.message}"))
        paths = ["/collection/work", "/collection/work/problems"]
        paths += [f"/collection/work/artifacts/{item['uid']}" for item in items]
        for path in paths:
            page.goto(path)
            # What it had to load, it has; and what was to be done after that is done.
            page.evaluate("new Promise(done => requestIdleCallback(() => setTimeout(done, 1)))")
            assert page.evaluate("window.boom") is None, path
            assert page.evaluate("window.violations") == [], path
        page.goto("/collection/work")
        page.get_by_role("searchbox").fill("script")
        page.wait_for_url("**q=script")
        assert page.evaluate("window.boom") is None
        assert page.evaluate("window.violations") == []
        assert "\u202e" not in page.content()
        assert all(url.startswith(address) for url in asked), asked
        context.close()


# --- a text browser ------------------------------------------------------------------------------


def test_a_text_browser_can_search(real):
    if shutil.which("w3m") is None:
        message = "there is no w3m on this machine"
        if CI:
            pytest.fail(message)
        pytest.skip(message)

    def dump(path):
        done = subprocess.run(
            ["w3m", "-dump", "-cols", "100", f"{real}{path}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return done.stdout

    text = dump("/collection/work?q=kubernetes&type=skill&sort=name")

    assert "artifacts of 571" in text
    assert "kubernetes" in text.lower()
    assert "Search by name, tag or description" in text
    assert "Filters" in text
