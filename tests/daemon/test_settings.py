"""Options come from four places, are checked, and are all documented."""

from __future__ import annotations

import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from artifact_cache_daemon import __main__ as command
from artifact_cache_daemon import logs
from artifact_cache_daemon.settings import DROP_INS, OPTIONS, ConfigurationError, load, parser

ROOT = Path(__file__).parents[2]
SECRET = "a-secret-0123456789"


def test_every_option_is_documented_with_its_names_and_its_default():
    text = (ROOT / "docs/daemon.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)` \| `(\w+)` \| (.*?) \| (.*?) \|$", text, re.M)

    assert rows == [
        (
            option.name,
            option.flag,
            option.variable,
            f"`{option.default}`" if option.default else "",
            option.meaning,
        )
        for option in OPTIONS
    ]


def test_every_option_has_a_flag_and_help():
    text = parser().format_help()

    for option in OPTIONS:
        assert option.flag in text


def test_flags_beat_the_environment_beats_the_file_beats_the_default(tmp_path):
    file = tmp_path / "d.toml"
    file.write_text('interval = 7\nsettle = "2 s"\nmax_settle = "1 min"\n')
    environ = {"ARTIFACT_CACHE_DAEMON_INTERVAL": "8", "ARTIFACT_CACHE_DAEMON_SETTLE": "300ms"}

    found = load(parser().parse_args(["--config", str(file), "--interval", "9"]), environ)

    assert (found.interval, found.settle, found.max_settle) == (9, 0.3, 60)
    assert (found.full_interval, found.ttl_minutes, found.timeout) == (1800, 30, 60)
    assert found.api_url == "http://127.0.0.1:5000/api/v1/user-collections"
    environ["ARTIFACT_CACHE_DAEMON_CONFIG"] = str(file)
    assert load(parser().parse_args([]), environ).max_settle == 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("interval = 0", "interval must be seconds from 0.05"),
        ("interval = nan", "interval must be seconds"),
        ("interval = true", "interval must be seconds"),
        ("intervall = 5", "did you mean interval?"),
        ("settle = 5\nmax_settle = 1", "max_settle must not be less"),
        ('api_url = "ftp://x"', "api_url must be an address"),
        ('api_url = "http://me:secret@host/"', "must not contain a user"),
        ('api_url = "unix:relative.sock"', "api_url must be like unix:"),
        ('api_url = "http://host:port/"', "a number as its port"),
        ('[collections]\nWork = "/srv"', "'Work'; an id is"),
        ("[collections]\nwork = 5", "no folder for 'work'"),
        ('log_format = "xml"', "'text' or 'json'"),
        ("ttl_minutes = -1", "ttl_minutes must be"),
        ("interval = [", "is not TOML"),
        ('watch = "yes"', "watch must be true or false"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path, text, said):
    file = tmp_path / "d.toml"
    file.write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load(parser().parse_args(["--config", str(file)]), {})

    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_variable_that_means_nothing_is_not_passed_over(settings):
    with pytest.raises(ConfigurationError, match="did you mean ARTIFACT_CACHE_DAEMON_INTERVAL"):
        settings(ARTIFACT_CACHE_DAEMON_INTERVALL="5")


def test_collections_can_be_flags_lines_or_a_table(settings, tmp_path):
    lines = f"a={tmp_path}\nb={tmp_path}/b\n"
    expected = {"a": str(tmp_path), "b": f"{tmp_path}/b"}

    assert settings(ARTIFACT_CACHE_DAEMON_COLLECTIONS=lines).collections == expected
    flags = ("--collection", f"a={tmp_path}", "--collection", f"b={tmp_path}/b")
    assert settings(*flags).collections == expected
    with pytest.raises(ConfigurationError, match="twice"):
        settings("--collection", "a=/x", "--collection", "a=/y")


def test_the_state_is_kept_where_the_manager_says(tmp_path):
    given = parser().parse_args([])

    assert load(given, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}).state_dir == Path("/var/lib/a")
    assert load(given, {"XDG_STATE_HOME": "/x"}).state_dir == Path("/x/artifact-cache-daemon")


def test_a_credential_that_cannot_be_reached_is_not_a_missing_one(settings, tmp_path):
    (tmp_path / "token").symlink_to("token")

    with pytest.raises(ConfigurationError, match=r"systemd.s credential .*token: Too many"):
        settings(CREDENTIALS_DIRECTORY=str(tmp_path), ARTIFACT_CACHE_TOKEN=SECRET)


def test_the_credential_comes_first_then_the_file_then_the_environment(settings, tmp_path):
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text("from-the-credential")
    file = tmp_path / "token"
    file.write_text("from-the-file\n")
    file.chmod(0o600)
    environ = {"CREDENTIALS_DIRECTORY": str(credentials), "ARTIFACT_CACHE_TOKEN": SECRET}

    assert settings("--token-file", str(file), **environ).token.value == "from-the-credential"
    (credentials / "token").unlink()
    assert settings("--token-file", str(file), **environ).token.value == "from-the-file"
    found = settings(**environ)
    assert found.token.value == SECRET
    assert "ARTIFACT_CACHE_TOKEN" in found.warnings[0]
    assert "no token" in settings().warnings[0]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_token_that_others_can_read_is_refused(settings, tmp_path, mode):
    file = tmp_path / "token"
    file.write_text(SECRET)
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        settings("--token-file", str(file))


@pytest.mark.parametrize("text", ["", f"{SECRET} {SECRET}", f"{SECRET}\nx", "ünicode", "a\x00b"])
def test_no_message_shows_a_token(settings, tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        settings("--token-file", str(file))
    assert SECRET not in str(caught.value)

    found = settings(ARTIFACT_CACHE_TOKEN=SECRET)
    assert SECRET not in repr(found)
    assert SECRET not in str(found.token)


def test_a_token_over_an_open_line_is_warned_about(settings):
    def warnings(url):
        return settings("--api-url", url, ARTIFACT_CACHE_TOKEN=SECRET).warnings[1:]

    assert warnings("http://localhost:5000/x") == warnings("https://far.example/x") == ()
    assert warnings("http://[::1]:5000") == warnings("unix:/run/a.sock") == ()
    assert "without encryption" in warnings("http://far.example/x")[0]


def test_it_needs_no_more_than_it_says():
    """No Flask, no SQLAlchemy, not even the package beside it."""
    code = (
        "import sys; import artifact_cache_daemon.loop, artifact_cache_daemon.__main__;"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}"
        " - set(sys.stdlib_module_names) - {'__main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = {name for name in done.stdout.split() if not name.startswith("_")}

    # The last three are taken along by urllib3 where they happen to be installed.
    allowed = {"artifact_cache_daemon", "schedule", "urllib3", "tomli"}
    assert found - allowed <= {"brotli", "zstandard", "h2", "backports", "sitecustomize"}
    assert {"artifact_cache_daemon", "schedule", "urllib3"} <= found


def test_check_config_says_what_it_comes_to(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(logs.LOGGER), "handlers", [])
    state = ("--state-dir", str(tmp_path / "state"))

    code = command.main([*state, "--check-config", "--collection", f"work={tmp_path}/none"])

    said = capsys.readouterr()
    assert code == 0
    assert "The configuration is valid" in said.out
    assert f"no folder {tmp_path}/none" in said.err
    assert not (tmp_path / "state").exists()


@pytest.fixture
def unit(tmp_path):
    file = tmp_path / "artifact-cache-daemon.service"
    file.write_text(command.unit())
    return file


@pytest.fixture
def analyze():
    def run(*arguments):
        try:
            return subprocess.run(
                ["systemd-analyze", *map(str, arguments)],
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            if os.environ.get("CI") == "true":
                pytest.fail("there is no systemd-analyze")
            pytest.skip("there is no systemd-analyze")

    return run


def test_the_unit_is_valid_without_a_word(unit, analyze):
    done = analyze("verify", unit)

    assert (done.stdout + done.stderr).strip() == ""
    assert done.returncode == 0


def test_the_unit_is_hardened(unit, analyze):
    done = analyze("security", "--offline=true", "--threshold=15", unit)

    assert done.returncode == 0, done.stdout


def test_the_unit_for_a_home_directory_is_hardened_nearly_as_much(unit, analyze):
    unit.write_text(unit.read_text() + command.drop_in("home"))
    done = analyze("security", "--offline=true", "--threshold=25", unit)

    assert done.returncode == 0, done.stdout


def test_what_only_newer_systemds_know_is_a_drop_in(unit, analyze):
    newer = command.drop_in("restart")
    assert "RestartSteps=" in newer
    assert "RestartMaxDelaySec=" in newer
    assert "RestartSteps=" not in unit.read_text()

    version = int(re.search(r"\d+", analyze("--version").stdout)[0])
    unit.write_text(unit.read_text() + newer)
    done = analyze("verify", unit)
    said = (done.stdout + done.stderr).strip()
    assert said == "" if version >= 254 else "RestartSteps" in said


@pytest.mark.parametrize("name", DROP_INS)
def test_a_drop_in_is_printed_as_it_is_shipped(name, capsys):
    assert command.main(["--print-unit", name]) == 0
    assert capsys.readouterr().out == command.drop_in(name)


def test_the_documented_steps_make_what_the_unit_needs(tmp_path):
    """Whatever the umask, the unit's user can read the configuration, and only root the token."""
    text = (ROOT / "docs/daemon.md").read_text().partition("## With systemd")[2]
    steps = "".join(re.findall("```sh\n(.*?)```", text, re.DOTALL)[:2])
    etc = tmp_path / "etc"
    (etc / "systemd/system").mkdir(parents=True)
    (tmp_path / "token").write_text(SECRET)
    for name, body in {
        "systemctl": 'echo "$@" >> "$CALLED"',
        "artifact-cache-daemon": f'exec "{sys.executable}" -m artifact_cache_daemon "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    steps = steps.replace("/etc/", f"{etc}/").replace("/opt/artifact-cache/bin/", "")
    path = os.pathsep.join((str(tmp_path), os.environ["PATH"]))
    environ = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    environ["CALLED"] = str(tmp_path / "called")
    subprocess.run(["sh", "-euc", f"umask 077\n{steps}"], cwd=tmp_path, env=environ, check=True)

    config, token = etc / "artifact-cache-daemon.toml", etc / "artifact-cache-daemon.token"
    assert stat.S_IMODE(config.stat().st_mode) == 0o644
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    given = ["--config", str(config), "--token-file", str(token)]
    assert load(parser().parse_args(given), {}).collections == {"work": "/srv/artifacts"}
    units = etc / "systemd/system"
    assert (units / "artifact-cache-daemon.service").read_text().startswith("[Unit]")
    drop_ins = units / "artifact-cache-daemon.service.d"
    assert {one.stem for one in drop_ins.iterdir()} == set(DROP_INS)
    assert "enable --now artifact-cache-daemon" in (tmp_path / "called").read_text()


def test_the_start_limit_is_where_it_counts(unit):
    head = unit.read_text().partition("[Service]")[0]

    assert "StartLimitIntervalSec=" in head
    assert "StartLimitBurst=" in head
    assert "RestartPreventExitStatus=64 78" in unit.read_text()


def test_the_unit_runs_the_command_that_is_installed_here(unit):
    [line] = [line for line in unit.read_text().splitlines() if line.startswith("ExecStart=")]
    program = line.removeprefix("ExecStart=").split()[0]

    assert os.access(program, os.X_OK)


def record(text, level=logging.WARNING, **more):
    made = logging.LogRecord("x", level, __file__, 1, text, (), None)
    vars(made).update(more)
    return made


def test_an_event_is_one_line():
    text = logs.Line(journal=False).format(record("a\nb\x1b[31m\u2028c\\x0a"))
    assert text.endswith("warning: a\\x0ab\\x1b[31m\\u2028c\\x0a")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        failed = record("failed", exc_info=sys.exc_info())
    for formatter in (logs.Line(journal=True), logs.JsonLine()):
        assert "\n" not in formatter.format(failed)


def test_the_journal_gets_levels_and_no_times(tmp_path):
    assert logs.Line(journal=True).format(record("a", collection="work")) == "<4>work: a"
    with (tmp_path / "log").open("w") as stream:
        info = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{info.st_dev}:{info.st_ino}"}
        assert logs._is_journal(stream, environ)
        assert not logs._is_journal(stream, {"JOURNAL_STREAM": "1:2"})
        assert not logs._is_journal(stream, {})


def test_an_hour_of_the_same_trouble_is_a_few_lines(clock):
    repeats = logs.Repeats(clock)
    written = []
    for number in range(120):
        for reason in ("cannot connect", "503"):
            one = record(f"{reason}, failure {number}", collection="work", reason=reason)
            if repeats.filter(one):
                written.append(logs._message(one))
        clock.pass_(30)

    assert len(written) < 20
    assert "29 more like this" in written[-1]
    assert repeats.filter(record("x", collection="other", reason="503"))
    assert repeats.filter(record("told", level=logging.INFO))
