"""What is printed of an error or a URI."""

from __future__ import annotations

import pytest

from in_job import words


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
        pytest.param("two\nlines", "two lines", id="one-line"),
    ],
)
def test_no_password_is_printed(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    words.say(text)
    assert capsys.readouterr().err == f"mlflow-server: {shown}\n"
