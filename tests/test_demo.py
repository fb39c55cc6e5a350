"""The demo shows a listing within moments, and ends when it is told to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from urllib.parse import urljoin

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "demo" / "app.py"


# What a terminal and tox send, and in which order.
ENDS = [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGINT, signal.SIGTERM]]


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_the_demo_serves_the_sample_until_it_is_interrupted(tmp_path, ends):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, str(DEMO), "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        [url] = re.findall(r"Listing: +(\S+)", "".join(lines))
        with urllib.request.urlopen(url) as response:
            page = json.load(response)
        [address] = re.findall(r"^Page: +(\S+)", lines[0])
        with urllib.request.urlopen(urljoin(address, "/")) as response:
            assert response.url == address
            shown = response.read().decode()
        for end in ends:
            demo.send_signal(end)
        if len(ends) > 1:  # until it has ended, since tox chooses its moment
            for _ in range(1000):
                with suppress(subprocess.TimeoutExpired):
                    demo.wait(0.02)
                    break
                demo.send_signal(ends[-1])
        assert demo.wait(20) == 0

    assert page["page_info"]["total_count"] == 7
    assert "7 artifacts" in shown
    assert "Read 7 artifacts" in "".join(lines)
    assert list(tmp_path.iterdir()) == []


def test_an_edit_shows_up_by_itself(tmp_path):
    skill = tmp_path / "mine/skills/mine/SKILL.md"
    skill.parent.mkdir(parents=True)
    skill.write_text("---\nname: mine\ndescription: As it was.\n---\n")
    with subprocess.Popen(
        [sys.executable, str(DEMO), "--port", "0", "--collection", str(tmp_path / "mine")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        url = next(
            found[1] for line in demo.stdout if (found := re.match(r"Listing: +(\S+)", line))
        )
        skill.write_text("---\nname: mine\ndescription: As it is.\n---\n")
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with urllib.request.urlopen(url) as response:
                [item] = json.load(response)["items"]
            if item["description"] == "As it is.":
                break
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 0
        demo.stdout.read()

    assert item["description"] == "As it is."


def refused(collection, *run_by):
    """What the demo says of a folder that it cannot show."""
    done = subprocess.run(
        [*run_by, sys.executable, str(DEMO), "--port", "0", "--collection", str(collection)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    assert "there is no folder" in refused(tmp_path / "nope")


def test_a_folder_that_cannot_be_read_is_one_sentence(tmp_path, bound_by_permissions):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0)

    assert "cannot be read: Permission denied" in refused(folder, *bound_by_permissions)
