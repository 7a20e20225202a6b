"""The `gh:` actions of a flow that git cannot fetch.

neuro-flow fetches all of them over SSH, whichever job it is to run. Where it is the toolkit's own, `held`
keeps it from that, so that our server starts whatever is beside it.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common.console import Problem
from settings.live import live_file

CURE = "neuro-flow fetches actions over SSH: add a key to your GitHub account, or look at the tag"


def unfetchable(folder: Path) -> list[tuple[int, str, str]]:
    """Return the `gh:` actions of the flow that git cannot fetch: the line, the action, and why."""
    live = live_file(folder)
    text = live.read_text(encoding="utf-8") if live else ""
    pattern = r"(?m)^[^#\n]*\baction[\"']?:\s*[\"']?(gh:([\w.-]+/[\w.-]+)@([\w./-]+))"
    calls = list(re.finditer(pattern, text))
    with ThreadPoolExecutor(4) as pool:
        reasons = pool.map(lambda call: _unreachable(call[2], call[3]), calls)
        found = [(call, why) for call, why in zip(calls, reasons, strict=True) if why]
    return [(text.count("\n", 0, call.start(1)) + 1, call[1], why) for call, why in found]


def warnings(folder: Path) -> list[Problem]:
    """Return one short warning for all actions that cannot be fetched."""
    found = unfetchable(folder)
    if not found:
        return []
    names = ", ".join(dict.fromkeys(action for _, action, _ in found))
    where = f"{live_file(folder)}:{found[0][0]}"
    fix = "`make mlflow-up` does without, `neuro-flow ps` does not"
    return [Problem(f"git cannot fetch {names}", fix, where, warning=True)]


def explained(folder: Path, said: str) -> list[Problem]:
    """Return what neuro-flow means where it says that git has failed; else nothing."""
    if not re.search(r"\bgit\b.*non-zero exit status", said):
        return []
    return [
        Problem(f"git cannot fetch {action} ({why})", CURE, f"{live_file(folder)}:{line}")
        for line, action, why in unfetchable(folder)
    ]


def _unreachable(repository: str, reference: str) -> str:
    """Return why git cannot find a tag or branch of a GitHub repository over SSH, or an empty string."""
    command = ["git", "ls-remote", "--exit-code", f"git@github.com:{repository}.git", reference]
    ssh = "ssh -o BatchMode=yes -o ConnectTimeout=10"
    env = {"GIT_SSH_COMMAND": ssh, **os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "no answer in 20 s"
    if run.returncode == 2:
        return f"no tag or branch {reference}"
    return "" if run.returncode == 0 else " ".join(run.stderr.split())[:120] or "git failed"
