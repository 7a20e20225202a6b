"""Writes generated text: the program in action.yaml, settings, arguments, figures in pages, editors' help.

With --check it only says what is stale. Fails, too, when the action names an input that it does not have.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS, ARGUMENTS, SIZING = Path("README.md"), Path("docs/arguments.md"), Path("docs/limits.md")
DEPLOYMENTS = Path("docs/deployments.md")
"""The pages that have generated parts."""
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "bench")]

import figures  # noqa: E402
import report  # noqa: E402
from dev import editor_help  # noqa: E402
from flow import program  # noqa: E402
from settings import action, layers  # noqa: E402

STRING = r"""(?:"[^"]*"|'[^']*')"""
EXPRESSION = re.compile(rf"""(?s)\$\{{\{{(?:{STRING}|[^"'])*?\}}\}}|\$\[\[(?:{STRING}|[^"'])*?\]\]""")
"""neuro-flow's expressions, whose strings have no escape for a quote."""

PROGRAMS = {action.ACTION: "serve", action.DEPLOY: "deployment.serve"}
"""The two actions, and the module of in_job/ that each runs."""


def embed(action_text: str, key: str, text: str, above: str = "") -> str:
    """Return the action's text with another one in the place of its only `key: |` block below `above`.

    Raises:
        ValueError: there is no such block.
    """

    def block(head: re.Match[str]) -> str:
        lines = [f"{head[1]}  {line}" if line.strip() else "\n" for line in text.splitlines(keepends=True)]
        return "".join([f"{head[1]}{key}: |\n", *lines])

    found = rf"(?m){re.escape(above)}^( *){key}: \|\n(?:\1  .*\n|\n(?=\n|\1  ))*"
    new, count = re.subn(found, lambda head: above + block(head), action_text)
    if count != 1:
        raise ValueError(f"there are {count} blocks `{key}: |` instead of one")
    return new


def with_program(action_text: str, name: str) -> str:
    """Return an action's text with a module of in_job/, and all that it needs, as its program."""
    for key, text in zip(action.CODE, program.texts(name), strict=True):
        program.packed(text)  # fails where it does not fit
        head = f"  {key}:\n    descr: The server's program. Leave it alone.\n"
        action_text = embed(action_text, "default", text or "#\n", head)
    return embed(action_text, "python", program.command(name))


def settings_table(inputs: dict[str, action.Input]) -> str:
    """Return the rows of the table of settings."""
    rows = ["\n| variable | default | meaning |\n|---|---|---|\n"]
    for entry in [*inputs.values(), *layers.TOOLKIT.values()]:
        default = "required" if entry.default is None else f"`{entry.default}`" if entry.default else "empty"
        rows.append(f"| `MLFLOW_{entry.name.upper()}` | {default} | {entry.description} |\n")
    return "".join(rows) + "\n"


def undefined_inputs(action_text: str, file: str = action.ACTION) -> list[str]:
    """Return a line for each name in the job's expressions that is no input of the action.

    neuro-flow itself notices only when it evaluates the job, which is when somebody starts it.
    """
    known = [*action.read_inputs(action_text), *action.CODE]
    lines = []
    for node in action.scalars(action.find(action.compose(action_text), "job")):
        for expression in EXPRESSION.findall(node.value):
            for name in re.findall(r"\binputs\s*\.\s*(\w+)", re.sub(STRING, "", expression)):
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = f"did you mean inputs.{near[0]}?" if near else f"the inputs are {', '.join(known)}"
                    line = node.start_mark.line + 1
                    lines.append(f"{file}:{line}: inputs.{name} is not an input of the action: {hint}")
    return lines


def comments(action_text: str) -> dict[str, str]:
    """Return the Markdown in the comments above each input of the action; that of the whole file is at ""."""
    lines = action_text.splitlines()

    def above(index: int) -> str:
        start = index
        while start and lines[start - 1].lstrip().startswith("#"):
            start -= 1
        return "".join(re.sub("^ *# ?", "", line) + "\n" for line in lines[start:index])

    found = {name: above(entry.line - 1) for name, entry in action.read_inputs(action_text).items()}
    return {"": above(lines.index("kind: live")), **found}


def examples(action_text: str) -> dict[str, str]:
    """Return the YAML examples in the comments: `NAME-1`, `NAME-2` … of an input, `-1` of the whole file."""
    return {
        f"{name}-{number}": example
        for name, markdown in comments(action_text).items()
        for number, example in enumerate(re.findall(r"(?ms)^```yaml\n(.*?)^```$", markdown), 1)
    }


def reference(action_text: str, level: str = "##") -> str:
    """Return the reference: the example of use, then a section for each input, its heading of that level."""
    text = f"\n```yaml\n{examples(action_text)['-1']}```\n"
    markdown = comments(action_text)
    for entry in action.read_inputs(action_text).values():
        default = f"Default: `{entry.default}`." if entry.default else "Default: empty."
        said = "Required." if entry.default is None else default
        text += f"\n{level} `{entry.name}`\n\n{entry.description} {said}\n"
        text += f"\n{markdown[entry.name]}" if markdown[entry.name] else ""
    return text + "\n"


def between(page: Path, name: str, content: str) -> str:
    """Return a page's text with what stands between the markers `name` and `end of name` replaced.

    Raises:
        ValueError: the markers are not there once.
    """
    text, marked = (
        (ROOT / page).read_text(encoding="utf-8"),
        rf"(<!-- {name} -->\n)(?s:.*?)(<!-- end of {name} -->)",
    )
    new, count = re.subn(marked, lambda m: m[1] + content + m[2], text)
    if count != 1:
        raise ValueError(f"{page} has no markers <!-- {name} --> and <!-- end of {name} -->")
    return new


def generated() -> dict[Path, str]:
    """Return every generated file's text as it should be, by its path in the repository."""
    actions = {
        name: with_program((ROOT / name).read_text(encoding="utf-8"), entry)
        for name, entry in PROGRAMS.items()
    }
    action_text, deploy_text = actions.values()
    inputs = {**action.read_inputs(action_text), **layers.deploy_settings(deploy_text)}
    texts = {
        **{Path(name): text for name, text in actions.items()},
        SETTINGS: between(SETTINGS, "settings", settings_table(inputs)),
        ARGUMENTS: between(ARGUMENTS, "arguments", reference(action_text)),
        DEPLOYMENTS: between(DEPLOYMENTS, "arguments", reference(deploy_text, "###")),
        Path(editor_help.SCHEMA): editor_help.schema(inputs),
        Path("mlflow.example.yaml"): editor_help.example(inputs),
    }
    if (ROOT / "bench/results.json").exists():
        results = figures.load(ROOT / "bench/results.json")
        texts[SIZING] = between(SIZING, "sizing", report.sizing(results))
        texts[Path("BENCHMARKS.md")] = report.page(results)
    return texts


def main() -> int:
    """Write, or with --check compare; return the exit code."""
    texts = {ROOT / path: text for path, text in generated().items()}
    stale = [p for p, text in texts.items() if not p.exists() or p.read_text(encoding="utf-8") != text]
    wrong = [line for name in PROGRAMS for line in undefined_inputs(texts[ROOT / name], name)]
    for line in wrong:
        print(line)
    for path in stale:
        if "--check" in sys.argv:
            print(f"{path.relative_to(ROOT)} is stale: run `make docs`")
        else:
            path.write_text(texts[path], encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if wrong or (stale and "--check" in sys.argv) else 0


if __name__ == "__main__":
    sys.exit(main())
