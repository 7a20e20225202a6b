"""Writes the generated text: serve.py into action.yaml, the settings into README.md.

With --check it only says what is stale.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import action  # noqa: E402
import settings  # noqa: E402


def embed(action: str, script: str) -> str:
    """Return the action's text with `script` as the job's `python:` block.

    Raises:
        ValueError: the script holds what neuro-flow would take for an expression, or the block is missing.
    """
    if "${{" in script or "$[[" in script:
        raise ValueError("scripts/serve.py holds ${{ or $[[, which neuro-flow would evaluate")
    block = "".join(f"    {line}" if line.strip() else "\n" for line in script.splitlines(keepends=True))
    new, count = re.subn(r"(?m)(^  python: \|\n)(?:    .*\n|\n)*", lambda head: head[1] + block, action)
    if count != 1:
        raise ValueError("action.yaml has no `python: |` block of its own in the job")
    return new


def settings_table(action_text: str) -> str:
    """Return the rows of README.md's table of settings."""
    rows = ["\n| variable | default | meaning |\n|---|---|---|\n"]
    for entry in [*action.read_inputs(action_text).values(), *settings.TOOLKIT.values()]:
        default = "required" if entry.default is None else f"`{entry.default}`" if entry.default else "empty"
        rows.append(f"| `MLFLOW_{entry.name.upper()}` | {default} | {entry.description} |\n")
    return "".join(rows) + "\n"


def between(text: str, name: str, content: str) -> str:
    """Return text with what stands between the markers `name` and `end of name` replaced.

    Raises:
        ValueError: the markers are not there once.
    """
    new, count = re.subn(
        rf"(?s)(<!-- {name} -->\n).*?(<!-- end of {name} -->)", lambda m: m[1] + content + m[2], text
    )
    if count != 1:
        raise ValueError(f"README.md has no markers <!-- {name} --> and <!-- end of {name} -->")
    return new


def generated() -> dict[Path, str]:
    """Return every generated file's text as it should be."""
    action_file, readme = ROOT / "action.yaml", ROOT / "README.md"
    script = (ROOT / "scripts/serve.py").read_text(encoding="utf-8")
    action_text = embed(action_file.read_text(encoding="utf-8"), script)
    table = settings_table(action_text)
    return {action_file: action_text, readme: between(readme.read_text(encoding="utf-8"), "settings", table)}


def main() -> int:
    """Write, or with --check compare; return the exit code."""
    stale = [path for path, text in generated().items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`")
        else:
            path.write_text(generated()[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
