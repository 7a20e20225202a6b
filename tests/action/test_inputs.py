"""Arguments of every kind, as neuro-flow evaluates them and as the platform gets them."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from flow import program
from flow.submission import escaped

from .harness import LONG, Evaluated, Flow, Job, Platform

pytestmark = pytest.mark.e2e
MakeFlow = Callable[..., Flow]
HEAD = "kind: live\njobs:\n  mlflow_server:\n    action: ws:action.yaml\n"
TYPED = """
artifacts_destination: /mnt/mlflow
http_auth: ${{ 1 == 2 }}
port: ${{ 8000 + 80 }}
browse: ${{ False }}
life_span: 90m
mode: UI
"""

# The `args:` of a job as YAML, and what neuro-flow makes of it: options, or the last line of its refusal.
CASES = {
    "one entry": ("artifacts_destination: /mnt/mlflow", {"http-port": "5000", "life-span": "864000s"}),
    "typed values": (TYPED, {"http-port": "8080", "life-span": "5400s", "no-http-auth": ""}),
    "empty texts": (
        "{artifacts_destination: a, envs: '', volumes: '', http_auth: '', job_name: '', preset: ''}",
        {"no-http-auth": "", "name": "args-2-mlflow-server", "restart": "never"},
    ),
    "no args": ("{}", "Required input(s): artifacts_destination"),
    "unknown input": ("{artifacts_destination: a, ports: 1}", "Unsupported input(s): ports"),
    "port": ("{artifacts_destination: a, port: web}", "invalid literal for int() with base 10: 'web'"),
    "life span": ("{artifacts_destination: a, life_span: forever}", "'forever' is not a time delta unit"),
    "restart": ("{artifacts_destination: a, restart: maybe}", "'maybe' is not a valid restart policy"),
    "envs": ("{artifacts_destination: a, envs: A=b}", "Expecting value: line 1 column 1"),
    # Neither on nor off: the server must not start without protection.
    "auth enabled": ("{artifacts_destination: a, http_auth: enabled}", "Expecting value: line 1 column 1"),
}
ON = ("True", "YES", "on", "1", "${{ True }}")
OFF = ("False", "No", "off", "0", "")
CASES |= {  # words that JSON has for nothing
    f"auth {word}": (f"{{artifacts_destination: a, http_auth: '{word}'}}", "Expecting value: line 1 column 1")
    for word in ("null", "[]", "2")
}
CASES |= {
    f"browse {word}": (f"{{artifacts_destination: a, browse: '{word}'}}", {"browse": ""})
    for word in ("Yes", "1", "TRUE")
}
CASES |= {
    f"auth {word or 'empty'}": (f"{{artifacts_destination: a, http_auth: '{word}'}}", {f"{no}http-auth": ""})
    for words, no in ((ON, ""), (OFF, "no-"))
    for word in words
}


@pytest.fixture(scope="module")
def evaluated(platform: Platform) -> Iterator[dict[str, Future[str]]]:
    with ThreadPoolExecutor(2) as pool:
        found: dict[str, Future[str]] = {}
        for number, (name, (args, expected)) in enumerate(CASES.items()):
            text = textwrap.indent(args.strip(), " " * 6)
            flow = platform.flow(f"args-{number}", f"{HEAD}    args:\n{text}\n")
            code = 1 if isinstance(expected, str) else 0
            found[name] = pool.submit(flow.dry_run, "mlflow_server", code=code)
        yield found


@pytest.mark.parametrize("name", CASES)
def test_what_args_evaluate_to(name: str, evaluated: dict[str, Future[str]]) -> None:
    printed, expected = evaluated[name].result(), CASES[name][1]
    if isinstance(expected, str):
        assert f"ERROR: {expected}" in printed
        return
    options = Evaluated.parse(printed[printed.index("apolo run ") :]).options
    assert {key: options.get(key) for key in expected} == expected
    assert ("http-auth" in options) is not ("no-http-auth" in options)
    assert "preset" not in options
    assert ("browse" in options) is name.startswith("browse")


def test_any_text_reaches_the_job_unchanged(platform: Platform, flow: MakeFlow) -> None:
    # --dry-run cannot tell: it drops what stands in square brackets.
    envs = {
        "QUOTES": """it's "quoted" `so`""",
        "DOLLARS": "$HOME ${HOME} $$ $(id) %s {x} }}",
        "LINES": "one\ntwo\n",
        "BLANKS": "  a \t b  ",
        "WORDS": "größe ✓ 😀",
        "BRACKETS": "[bold] [/x] \\[",
        "EMPTY": "",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "secret:origins",
        "MLFLOW_PORT": "1",
    }
    extra = """--app-name "a 'b' $c" --x=[1] \\"q\\" é"""
    args = {
        "artifacts_destination": "/mnt/größe $x/it's",
        "envs": json.dumps(envs),
        "extra_params": extra,
        "mode": "none of them",
        "volumes": "[]",
    }
    job = flow("any-text", **args).run()
    container = job.described["container"]
    assert container["env"] == {
        "MLFLOW_ACTION_MODE": "none of them",
        "MLFLOW_ACTION_EXTRA_PARAMS": escaped(extra),
        "MLFLOW_ACTION_BACKUP_EVERY": "",
        "MLFLOW_ACTION_VOLUMES": "",
        "MLFLOW_ARTIFACTS_DESTINATION": escaped(args["artifacts_destination"]),
        "MLFLOW_BACKEND_STORE_URI": "",
        **program.variables("serve"),
        **{name: escaped(value) for name, value in envs.items() if not value.startswith("secret:")},
    }
    [(name, uri)] = container["secret_env"].items()
    assert (name, uri.rpartition("/")[2]) == ("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS", "origins")
    assert container.get("volumes") in (None, [])
    # It ends at once, as there is no such mode, with one line.
    assert until_ended(job)["status"] == "failed"
    [line] = [line for line in job.log.splitlines() if line.startswith("mlflow-server: ")]
    assert "mode" in line
    assert "none of them" in line


def test_a_job_without_args_is_refused(platform: Platform) -> None:
    printed = platform.flow("bare", HEAD).neuro_flow("run", "--dry-run", "mlflow_server", code=1)
    assert "ERROR: Required input(s): artifacts_destination" in printed


def until_ended(job: Job) -> dict[str, str]:
    """Wait for a job's end and return its history."""
    deadline = time.monotonic() + LONG
    while (history := job.described["history"])["status"] in ("pending", "running"):
        assert time.monotonic() < deadline, job.log
        time.sleep(0.1)
    return dict(history)
