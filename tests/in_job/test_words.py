"""What is printed of an error or a URI."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from in_job import counts, words


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("postgresql://me:s3cret@h/db", "postgresql://me:***@h/db", id="password"),
        pytest.param("postgresql://me:a/b:c@d@h/db", "postgresql://me:***@h/db", id="unescaped-signs"),
        pytest.param("postgresql://me:a b@h/db", "postgresql://me:***@h/db", id="blank"),
        pytest.param(
            "mysql://h/db?user=me&password=x&a=1", "mysql://h/db?user=me&password=***&a=1", id="option"
        ),
        pytest.param("postgresql://me@h:5432/db", "postgresql://me@h:5432/db", id="no-password"),
        pytest.param("git+https://t0ken@h/a.git", "git+https://***@h/a.git", id="token"),
        pytest.param("two\nlines", "two lines", id="one-line"),
    ],
)
def test_no_password_is_printed(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    words.say(text)
    assert capsys.readouterr().err == f"mlflow-server: {shown}\n"


class FromServer(Exception):
    """As SQLAlchemy's, of what a database server's driver has raised."""

    def __init__(self, orig: Exception) -> None:
        super().__init__(f"{orig} [SQL: …]")
        self.orig = orig


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/mnt/x"), "free space on the volume"),
        (PermissionError(13, "Permission denied", "/mnt/x"), "mount the volume writable (:rw)"),
        (FromServer(sqlite3.OperationalError("database is locked")), "stop whatever else holds the database"),
        (
            FromServer(RuntimeError("permission denied for schema public")),
            "permission denied for schema public; grant that to the user of backend_store_uri",
        ),
        (FromServer(RuntimeError("No space left on device")), "No space left on device"),
        (
            RuntimeError("An error occurred (AccessDenied)"),
            "RuntimeError('An error occurred (AccessDenied)')",
        ),
    ],
    ids=["disk", "mount", "sqlite", "schema", "server's disk", "bucket"],
)
def test_the_way_out_is_of_what_has_failed(error: Exception, said: str) -> None:
    assert words.explain(error).endswith(said)
    assert ("volume" in words.explain(error)) == ("volume" in said)


def test_prompts_are_named_apart_from_registered_models() -> None:
    with closing(sqlite3.connect(":memory:")) as database:
        assert counts.prompts(database) == 0
        database.execute("CREATE TABLE registered_model_tags (name, key, value)")
        for name, key, value in (
            ("p", "is_prompt", "true"),
            ("q", "is_prompt", "false"),
            ("p", "text", "true"),
        ):
            row = (name, f"mlflow.prompt.{key}", value)
            database.execute("INSERT INTO registered_model_tags VALUES (?, ?, ?)", row)
        assert counts.prompts(database) == 1
    found = {"registered_models": 3, "trace_info": 2, "evaluation_datasets": 1, "webhooks": 2, "secrets": 1}
    said = "2 registered models, 1 prompt, 2 traces, 1 dataset, 2 webhooks, 1 gateway secret"
    assert counts.in_words(found, 1) == said
    assert counts.in_words({"registered_models": 1}, 1) == "1 prompt"
