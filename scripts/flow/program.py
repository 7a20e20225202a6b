"""The program of a job: a module of in_job/ and what that imports, carried into the job as text.

It travels in environment variables and not in the command, which `neuro-flow status`, `apolo ps -w` and `ps`
print whole. Some signs are exchanged on the way, and back in the job: `$`, since Kubernetes reads `$$` and
`$(NAME)`; blanks and line ends, since `apolo status` cuts one long word at the end of its line; and brackets,
so that all is one tag of rich's markup, which it leaves out where it prints to no terminal. action.yaml has
the text as it is, and exchanges the same signs.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from settings.action import PROGRAM, PROGRAM_MORE

ROOM = Path(__file__).parents[1] / "in_job"
SIGNS = {"[": "\u27e6", "]": "\u27e7", "$": "\u00a7", " ": "~", "\n": "\u00b6"}
HEAD, TAIL = "action.yaml[code\u00b6", "#end]"
"""What is around the text: the tag, and before it what is seen."""
LIMIT = 120_000
"""Bytes of a variable: what Linux takes for one is 128 KiB."""


@cache
def modules(name: str, late: bool = True) -> tuple[str, ...]:
    """Return the names of a module of in_job/ and of all that it imports from there, sorted.

    Without `late` what functions import when they are called is left out.
    """
    found, waiting = set(), [name]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        tree = ast.parse((ROOM / f"{module}.py").read_text("utf-8"))
        for node in ast.walk(tree) if late else tree.body:
            if isinstance(node, ast.ImportFrom) and node.module == "in_job":
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("in_job."):
                waiting.append(f"{node.module}".partition(".")[2])
    return tuple(sorted(found))


def text_of(names: tuple[str, ...]) -> str:
    """Return the text of modules, each below a line with its name.

    Raises:
        ValueError: one of them has what cannot travel.
    """
    texts = []
    for name in names:
        text = (ROOM / f"{name}.py").read_text("utf-8")
        for sign in (*SIGNS.values(), "${{", "$[["):
            if sign in text:
                raise ValueError(f"scripts/in_job/{name}.py holds {sign!r}, which an action cannot carry")
        texts.append(f"#: in_job/{name}.py\n{text}")
    return "".join(texts)


def packed(text: str) -> str:
    """Return a text as it travels.

    Raises:
        ValueError: it is too long for one variable.
    """
    for plain, sign in SIGNS.items():
        text = text.replace(plain, sign)
    size = len(text.encode())
    if size > LIMIT:
        raise ValueError(f"{size:,} bytes are more than a variable holds: carry a part in another one")
    return HEAD + text + TAIL


def command(name: str) -> str:
    """Return the Python that runs a module of in_job/: itself free of what the signs are exchanged for."""
    signs = ", ".join(f"{ord(sign)}: {ord(plain)}" for plain, sign in SIGNS.items())
    return (
        "import os\n"
        f'text = os.environb.get(b"{PROGRAM}").decode().translate({{{signs}}})\n'
        f'exec(text.rpartition("in_job/loader.py\\n")[2]); run("{name}")\n'
    )


def server() -> str:
    """Return the text of all that a server needs, and at its end the loader's."""
    return text_of((*modules("serve", late=False), "loader"))


def more(name: str) -> str:
    """Return the text of what else a program needs: of the server's what it imports late, for backups."""
    return text_of(tuple(module for module in modules(name) if module not in modules("serve", late=False)))


def variables(name: str) -> dict[str, str]:
    """Return the two variables that carry a program."""
    return {PROGRAM: packed(server()), PROGRAM_MORE: packed(more(name))}
