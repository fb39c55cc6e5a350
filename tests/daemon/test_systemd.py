"""The unit under a real systemd, which runs in namespaces of its own and leaves no trace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = os.environ.get("CI") == "true"
TOKEN = "a-token-for-tests-0123456789"
UNIT = "artifact-cache-daemon"
SYSTEMD = next(
    (p for p in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(p).exists()), None
)

# What a unit without special wishes depends on; nothing of the machine's own is started.
TARGETS = ("sysinit", "basic", "shutdown", "network", "multi-user")
DROP_IN = """
[Service]
ExecStart=
ExecStart=/opt/python/bin/{python} -m artifact_cache_daemon --config /etc/{unit}.toml
Environment=PYTHONPATH={path} PYTHONHOME=/opt/python
RestartSec=100ms
StandardError=append:/run/{unit}.log
"""
CONFIG = """
api_url = "{url}"
interval = 0.2
settle = 0.1
[collections]
work = "/srv/artifacts"
"""
# The interpreter may lie where only root can read, so all is put under names of its own. The last
# line becomes process 1.
SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs none /opt
mkdir /opt/python /opt/etc /opt/etc/upper /opt/etc/work
mount --bind "$PYTHON" /opt/python
number=0
for folder in $FOLDERS; do
    mkdir /opt/$number
    mount --bind "$folder" /opt/$number
    number=$((number + 1))
done
mount -t tmpfs none /srv
mkdir /srv/artifacts
mount --bind "$ROOT" /srv/artifacts
mount -t overlay -o lowerdir=/etc,upperdir=/opt/etc/upper,workdir=/opt/etc/work none /etc
cp "$FILES"/token /etc/artifact-cache-daemon.token
cp "$FILES"/config /etc/artifact-cache-daemon.toml
mount -t tmpfs none /run
cp -r "$FILES"/units /run/units
for folder in /var/lib /var/cache /var/tmp /tmp; do mount -t tmpfs none $folder; done
mount -t proc none /proc
# As process 1 of a machine finds it: credentials are mounted by a process beside it.
mount --make-rshared /
exec env -i container=test PATH="$PATH" SYSTEMD_UNIT_PATH=/run/units \
    "$SYSTEMD" --system --unit=multi-user.target --log-target=null --show-status=no
"""


class Manager:
    """A systemd whose process 1 is known by the number that it has outside."""

    def __init__(self, process, eventually):
        self._process = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        self.pid = eventually(lambda: process.poll() is None and children.read_text().split())[0]

    def run(self, *command, check=True):
        inside = ["nsenter", "--target", self.pid, "--mount", "--pid", *command]
        return subprocess.run(inside, check=check, capture_output=True, text=True).stdout

    def systemctl(self, *arguments, check=True):
        return self.run("systemctl", *arguments, check=check)

    def tells(self, name):
        return self.systemctl("show", "--property", name, "--value", UNIT, check=False).strip()

    def status_of_main(self):
        """What the kernel says of the daemon's process."""
        text = self.run("cat", f"/proc/{self.tells('MainPID')}/status")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    @property
    def log(self):
        return self.run("cat", f"/run/{UNIT}.log", check=False)


@pytest.fixture
def manager(served, folder, tmp_path, eventually):
    """A systemd that has started the unit."""
    for needed in (SYSTEMD, shutil.which("unshare"), shutil.which("nsenter")):
        if needed is None:
            (pytest.fail if CI else pytest.skip)("there is no systemd on this machine")
    allowed = subprocess.run(["unshare", "-fpmiu", "--mount-proc", "true"], check=False)
    if os.geteuid() or allowed.returncode:
        pytest.skip("only root can make namespaces, and some machines let not even root")
    files = tmp_path / "files"
    units = files / "units"
    (units / f"{UNIT}.service.d").mkdir(parents=True)
    (units / "multi-user.target.wants").mkdir()
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    printed = subprocess.run(
        [sys.executable, "-m", "artifact_cache_daemon", "--print-unit"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (units / f"{UNIT}.service").write_text(printed)
    (units / "multi-user.target.wants" / f"{UNIT}.service").symlink_to(f"../{UNIT}.service")
    folders = [path for path in sys.path if Path(path).is_dir() and not path.startswith(sys.prefix)]
    folders += [path for path in sys.path if path.endswith("site-packages")]
    drop_in = DROP_IN.format(
        unit=UNIT,
        python=Path(os.path.realpath(sys.executable)).name,
        path=":".join(f"/opt/{number}" for number in range(len(folders))),
    )
    (units / f"{UNIT}.service.d" / "test.conf").write_text(drop_in)
    (files / "config").write_text(CONFIG.format(url=served.url))
    token = files / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)

    process = subprocess.Popen(
        ["unshare", "-fpmiu", "--kill-child", "sh", "-c", SETUP],
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHON": sys.base_prefix,
            "FOLDERS": " ".join(folders),
            "ROOT": str(folder.root),
            "FILES": str(files),
            "SYSTEMD": str(SYSTEMD),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        manager = Manager(process, eventually)
        eventually(lambda: manager.tells("ActiveState") in ("active", "failed"), 30, 0.1)
        yield manager
    finally:
        process.kill()
        error = process.communicate()[1]
        if error:
            print(error, file=sys.stderr)


def test_a_real_systemd_runs_the_unit(served, folder, manager, eventually):
    folder.skill("pdf", "Reads.")
    assert manager.tells("ActiveState") == "active", manager.log

    eventually(lambda: served.listed() == {"pdf": "Reads."}, 20)
    eventually(lambda: "told at" in manager.tells("StatusText"))
    kernel = manager.status_of_main()
    assert kernel["Seccomp"].strip() == "2"
    assert kernel["NoNewPrivs"].strip() == "1"
    assert int(kernel["CapEff"], 16) == int(kernel["CapBnd"], 16) == 0
    assert 0 not in map(int, kernel["Uid"].split())

    # SIGHUP, and the answer to it.
    before = manager.tells("MainPID")
    manager.systemctl("reload", UNIT)
    eventually(lambda: manager.tells("ActiveState") == "active")
    assert manager.tells("MainPID") == before

    # What happens while it is dead is told when it is back.
    manager.systemctl("kill", "--signal=KILL", UNIT)
    folder.skill("pdf", "Edited.")
    eventually(lambda: served.listed() == {"pdf": "Edited."}, 20)
    assert manager.tells("NRestarts") == "1"
    assert manager.tells("MainPID") != before

    state = f"/var/lib/private/{UNIT}"
    eventually(lambda: "work.state" in manager.run("ls", state, check=False), 30)

    manager.systemctl("stop", UNIT)
    assert manager.tells("ActiveState") == "inactive"
    assert manager.tells("Result") == "success"
    assert TOKEN not in manager.log
