"""The command line without a worker: one JSON document, clear errors, no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from assets.sync import TableResult, TableSync
from orchestration import Headrace
from orchestration.cli import app

CANARY = "canary-Zx81-pass:word"
CONFIG = {"host": "127.0.0.1", "port": 9, "database": "shop", "user": "reader", "password": CANARY}


@dataclass
class Done:
    """A command that ended."""

    returncode: int
    stdout: str
    stderr: str


def headrace(home: Path, *arguments: str, stdin: str = "", **environment: str) -> Done:
    """Run a command in this process; no output of it may hold the secret, and no exception may get out."""
    cleared = {name: None for name in os.environ if name.startswith(("HEADRACE_", "TEMPORAL_"))}
    result = CliRunner().invoke(
        app, list(arguments), input=stdin, env={**cleared, "HEADRACE_HOME": str(home), **environment}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return checked(Done(result.exit_code, result.stdout, result.stderr))


def process(home: Path, *arguments: str, stdin: str = "", **environment: str) -> Done:
    """The same as a process of its own, as a script would run it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HEADRACE_", "TEMPORAL_"))}
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", *arguments],
        env={**inherited, "HEADRACE_HOME": str(home), **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return checked(Done(done.returncode, done.stdout, done.stderr))


def checked(done: Done) -> Done:
    assert CANARY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def document(done: Done, code: int = 0) -> Any:
    """The one JSON document on stdout."""
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a connector, a pipeline and a run."""
    hr = Headrace(home=tmp_path / "home")
    hr.connectors.add("shop", "postgres", CONFIG)
    hr.pipelines.add("nightly", "shop", ["public.t"], schedule="cron:0 3 * * *")
    work = TableSync(connector="shop", table="public.t", run_group="run1", pipeline="nightly")
    hr.catalog.end_table_run(TableResult(connector="shop", table="public.t", status="failed", error="broken"), work)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], {"running": False, "connectors": {"pending": 1}, "pipelines": {"active": 1}}),
        (["connectors", "show", "shop"], {"name": "shop", "config": {**CONFIG, "password": "********"}}),
        (["connectors", "remove", "shop", "--force"], {"removed": "shop"}),
        (["pipelines", "show", "nightly"], {"connector": "shop", "schedule": "cron:0 3 * * *", "all_tables": False}),
        (["pipelines", "pause", "nightly"], {"active": False}),
        (["pipelines", "resume", "nightly"], {"active": True}),
        (["pipelines", "remove", "nightly"], {"removed": "nightly"}),
    ],
)
def test_a_command_prints_one_json_document(home: Path, arguments: list[str], expected: dict[str, Any]) -> None:
    found = document(headrace(home, *arguments, "--json"))
    assert {name: found[name] for name in expected} == expected


def test_lists_are_json_documents_too(home: Path) -> None:
    (connector,) = document(headrace(home, "connectors", "list", "--json"))["connectors"]
    assert (connector["name"], connector["status"], connector["config"]["password"]) == ("shop", "pending", "********")
    (pipeline,) = document(headrace(home, "pipelines", "list", "--json"))["pipelines"]
    assert pipeline["tables"][0]["name"] == "public.t"
    (run,) = document(headrace(home, "pipelines", "runs", "nightly", "--json"))["runs"]
    assert (run["run_group"], run["status"], run["table_runs"][0]["error"]) == ("run1", "failed", "broken")
    (table,) = document(headrace(home, "tables", "--json"))["tables"]
    assert (table["table"], table["last_status"], table["last_error"]) == ("public.t", "failed", "broken")
    assert (table["bronze_uri"], table["silver_uri"], table["rows"], table["watermark"]) == (None,) * 4
    checks = document(headrace(home, "doctor", "--json"))["checks"]
    assert {check["name"]: check["ok"] for check in checks} == dict.fromkeys(
        ("python", "packages", "home", "catalog", "secrets", "lakehouse", "fast reader", "temporal"), True
    )


def test_without_json_tables_for_people_are_printed(home: Path) -> None:
    for arguments in (["status"], ["connectors", "list"], ["connectors", "show", "shop"], ["tables"]):
        done = headrace(home, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "shop" in done.stdout or "1 pending" in done.stdout


def test_a_failed_test_of_a_connector_exits_with_1_and_names_the_fix(home: Path) -> None:
    found = document(headrace(home, "connectors", "test", "shop", "--json"), code=1)
    assert (found["ok"], found["record"]["status"]) == (False, "error")
    assert any(not check["ok"] and check["fix"] for check in found["checks"])
    (connector,) = document(headrace(home, "connectors", "list", "--json"))["connectors"]
    assert connector["status"] == "error" and connector["last_error"]


@pytest.mark.parametrize("form", ["json", "yaml", "stdin"])
def test_a_config_is_read_as_yaml_or_json_from_a_file_or_stdin(tmp_path: Path, form: str) -> None:
    text = "\n".join(f"{k}: {v!r}" for k, v in CONFIG.items()) if form == "yaml" else json.dumps(CONFIG)
    source, stdin = ("-", text) if form == "stdin" else (str(tmp_path / "config"), "")
    if form != "stdin":
        Path(source).write_text(text)
    home = tmp_path / "home"
    add = ("connectors", "add", "shop", "--type", "postgres", "--config", source, "--json")
    assert document(process(home, *add, stdin=stdin))["config"] == {**CONFIG, "password": "********"}
    assert document(headrace(home, *add, stdin=stdin), code=1)["error"]["type"] == "ConflictError"
    assert document(headrace(home, *add, "--replace", stdin=stdin))["status"] == "pending"
    for file in home.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (json.dumps({**CONFIG, "port": CANARY}), "port"),
        (json.dumps({**CONFIG, "passwort": CANARY}), "passwort"),
        (f"password: {CANARY}\n  wrong: [", "at line 2"),
        (json.dumps([CANARY]), "no object"),
        (CANARY, "no object"),
        ("", "no object"),
    ],
)
def test_a_wrong_config_is_one_clear_line_without_its_values(tmp_path: Path, config: str, told: str) -> None:
    add = ("connectors", "add", "shop", "--type", "postgres", "--config", "-")
    plain = process(tmp_path, *add, stdin=config)
    assert (plain.returncode, plain.stdout, plain.stderr.count("\n")) == (1, "", 1)
    assert told in plain.stderr
    error = document(headrace(tmp_path, *add, "--json", stdin=config), code=1)["error"]
    assert error["type"] == "ConfigurationError" and told in error["message"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--all", "--schedule", "cron:61 * * * *"], "cron"),
        (["--all", "--schedule", "every:1s"], "interval"),
        (["--all", "--schedule", "every:15m", "--timezone", "Mars/Base"], "time zone"),
    ],
)
def test_a_bad_schedule_is_refused(home: Path, options: list[str], told: str) -> None:
    done = headrace(home, "pipelines", "add", "p", "--connector", "shop", *options, "--json")
    assert told in document(done, code=1)["error"]["message"]
    assert len(document(headrace(home, "pipelines", "list", "--json"))["pipelines"]) == 1


def test_a_pipeline_is_added_with_all_its_options(home: Path) -> None:
    options = ["--table", "public.a", "--table", "public.b", "--mode", "incremental", "--cursor", "updated at"]
    options += ["--key", 'id,"a,b"', "--deletes", "keys", "--schedule", "every:15m", "--timezone", "Europe/Berlin"]
    found = document(headrace(home, "pipelines", "add", "p", "--connector", "shop", *options, "--json"))
    assert [table["name"] for table in found["tables"]] == ["public.a", "public.b"]
    assert (found["mode"], found["cursor"], found["key"]) == ("incremental", "updated at", ["id", "a,b"])
    assert (found["deletes"], found["schedule"], found["timezone"]) == ("keys", "every:15m", "Europe/Berlin")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["connectors", "add", "shop"],
        ["sync"],
        ["sync", "shop", "--mode", "sometimes"],
        ["verify", "shop", "--level", "all"],
        ["pipelines", "add", "p", "--connector", "shop"],
        ["pipelines", "add", "p", "--connector", "shop", "--table", "t", "--all"],
        ["pipelines", "add", "p", "--connector", "shop", "--table", "t", "--key", "a,,b"],
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, arguments: list[str]) -> None:
    done = headrace(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["connectors", "show", "other"],
        ["connectors", "test", "other"],
        ["connectors", "discover", "other"],
        ["connectors", "remove", "other"],
        ["pipelines", "show", "other"],
        ["pipelines", "run", "other"],
        ["pipelines", "runs", "other"],
        ["pipelines", "pause", "other"],
        ["sync", "other"],
        ["verify", "other"],
        ["tables", "other"],
    ],
)
def test_a_missing_name_is_an_error_document_and_a_line(home: Path, arguments: list[str]) -> None:
    done = headrace(home, *arguments, "--json")
    assert document(done, code=1)["error"]["type"] == "NotFoundError"
    assert done.stderr.count("\n") == 1 and "other" in done.stderr


def test_a_source_that_is_away_is_one_line(home: Path) -> None:
    for command in (["sync", "shop"], ["connectors", "discover", "shop"]):
        assert document(headrace(home, *command, "--json"), code=1)["error"]["type"] == "SourceUnreachableError"


def test_no_wait_without_a_stack_is_refused(home: Path) -> None:
    done = headrace(home, "sync", "shop", "public.t", "--no-wait", "--json")
    assert "headrace up" in document(done, code=1)["error"]["remedy"]


def test_an_unforeseen_error_tells_its_type_only_and_a_traceback_on_request(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_text(f"no database {CANARY}" * 100)
    done = process(tmp_path, "connectors", "list", "--json")
    assert document(done, code=1)["error"]["type"] and done.stderr.count("\n") == 1
    debug = subprocess.run(
        [sys.executable, "-m", "orchestration.cli", "connectors", "list"],
        env={**os.environ, "HEADRACE_HOME": str(tmp_path), "HEADRACE_DEBUG": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert debug.returncode == 1 and "Traceback" in debug.stderr


def test_home_is_an_option_of_the_program_and_of_each_command(home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for arguments in (["--home", str(home), "connectors", "list"], ["connectors", "list", "--home", str(home)]):
        assert len(document(headrace(elsewhere, *arguments, "--json"))["connectors"]) == 1
    assert not elsewhere.exists()


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    error = document(headrace(tmp_path, "status", "--json", HEADRACE_EXTRACT_THREADS="many"), code=1)["error"]
    assert "HEADRACE_EXTRACT_THREADS" in error["message"]


def test_start_up_imports_nothing_heavy() -> None:
    heavy = ("dagster", "dlt", "pyarrow", "sqlalchemy", "temporalio", "duckdb", "deltalake", "psycopg", "pandas")
    code = f"import sys, orchestration.cli; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
