"""Takes the pictures of the documentation from the real page: light, dark, on a phone, a detail.

python examples/screenshots.py [--collection PATH] [--output docs/screenshots]

Needs Chromium and the package 'playwright'.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import threading
from pathlib import Path

from demo.app import SAMPLE, QuietHandler, create_app
from playwright.sync_api import Browser, sync_playwright
from werkzeug.serving import make_server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LAPTOP = {"width": 1100, "height": 720}
PHONE = {"width": 390, "height": 780}


def take(browser: Browser, address: str, output: Path) -> None:
    """Look at the page in four ways."""
    for name, path, options in (
        ("light", "", {"viewport": LAPTOP, "color_scheme": "light"}),
        ("dark", "?q=re", {"viewport": LAPTOP, "color_scheme": "dark"}),
        ("phone", "", {"viewport": PHONE, "color_scheme": "light"}),
        ("detail", "/artifacts/skill:invoice-reader", {"viewport": LAPTOP}),
    ):
        context = browser.new_context(**options)
        page = context.new_page()
        answer = page.goto(f"{address}{path}")
        if answer is not None and answer.status == 404:
            page.goto(address)
            page.locator(".ac-item h3 a").first.click()
        page.screenshot(path=output / f"{name}.png", full_page=name == "detail")
        context.close()
        print(output / f"{name}.png")


def main() -> None:
    """Serve a collection, and look."""
    parser = argparse.ArgumentParser(description="Take pictures of the page.")
    parser.add_argument("--collection", type=Path, default=SAMPLE, help="default: a sample")
    parser.add_argument("--output", type=Path, default=Path("docs/screenshots"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder) / "collection"
        shutil.copytree(arguments.collection, collection, symlinks=True)
        app, cache = create_app(collection, Path(folder), "a-token-for-pictures")
        with app.app_context():
            cache.service.populate("default")
            # Something to see in its history.
            shown = collection / "skills/invoice-reader/SKILL.md"
            if shown.is_file():
                shown.write_text(f"{shown.read_text('utf-8')}3. Add up the lines.\n", "utf-8")
                cache.service.populate("default")
        server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_playwright() as playwright:
            executable = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
            take(browser, f"http://127.0.0.1:{server.port}/collection/default", arguments.output)
            browser.close()
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    main()
