"""The program of a job: a module of in_job/ and what that imports, carried into the job as text.

It travels in environment variables and not in the command, which `neuro-flow status`, `apolo ps -w` and `ps`
print whole. Some signs are exchanged on the way, and back in the job: `$`, since Kubernetes reads `$$` and
`$(NAME)`; blanks and line ends, since `apolo status` cuts one long word at the end of its line; and brackets,
so that all is one tag of rich's markup, which it leaves out where it prints to no terminal. action.yaml has
the text as it is, and exchanges the same signs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from settings.action import PROGRAM, PROGRAM_MORE

ROOM = Path(__file__).parents[1] / "in_job"
SIGNS = {"[": "\u27e6", "]": "\u27e7", "$": "\u00a7", " ": "~", "\n": "\u00b6"}
HEAD, TAIL = "action.yaml[code\u00b6", "#end]"
"""What is around the text: the tag, and before it what is seen."""
LIMIT = 120_000
"""Bytes of a variable: what Linux takes for one is 128 KiB."""


def path_of(name: str) -> Path:
    """Return the file of a module of in_job/, whose name has a dot for each folder that it is in."""
    return ROOM / f"{name.replace('.', '/')}.py"


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
        tree = ast.parse(path_of(module).read_text("utf-8"))
        for node in ast.walk(tree) if late else tree.body:
            room, _, place = (getattr(node, "module", "") or "").partition(".")
            if not isinstance(node, ast.ImportFrom) or room != "in_job":
                continue
            if path_of(place).exists():
                waiting.append(place)
            else:  # a folder
                waiting += [f"{place}.{alias.name}".strip(".") for alias in node.names]
    return tuple(sorted(found))


def text_of(names: Iterable[str]) -> str:
    """Return the text of modules, each below a line with its name.

    Raises:
        ValueError: one of them has what cannot travel.
    """
    texts = []
    for name in names:
        path = path_of(name)
        text, place = path.read_text("utf-8"), path.relative_to(ROOM)
        for sign in (*SIGNS.values(), "${{", "$[["):
            if sign in text:
                raise ValueError(f"scripts/in_job/{place} holds {sign!r}, which an action cannot carry")
        texts.append(f"#: in_job/{place}\n{text}")
    return "".join(texts)


def exchanged(text: str) -> str:
    """Return a text with the signs exchanged, between its head and tail."""
    for plain, sign in SIGNS.items():
        text = text.replace(plain, sign)
    return HEAD + text + TAIL


def packed(text: str) -> str:
    """Return a text as it travels.

    Raises:
        ValueError: it is too long for one variable.
    """
    text = exchanged(text)
    size = len(text.encode())
    if size > LIMIT:
        raise ValueError(f"{size:,} bytes are more than a variable holds: carry a part in another one")
    return text


def command(name: str) -> str:
    """Return the Python that runs a module of in_job/: itself free of what the signs are exchanged for."""
    signs = ", ".join(f"{ord(sign)}: {ord(plain)}" for plain, sign in SIGNS.items())
    return (
        "import os\n"
        f'text = os.environb.get(b"{PROGRAM}").decode().translate({{{signs}}})\n'
        f'exec(text.rpartition("in_job/loader.py\\n")[2]); run("{name}")\n'
    )


@cache
def texts(name: str) -> tuple[str, str]:
    """Return the two texts of a program: what a module imports when it starts, and what else it needs.

    The loader is at the end of the first. What does not fit there is in the second.
    """
    early, first = modules(name, late=False), ["loader"]
    for module in early:
        if len(exchanged(text_of([*first, module])).encode()) <= LIMIT:
            first.insert(-1, module)
    return text_of(first), text_of(module for module in modules(name) if module not in first)


def variables(name: str) -> dict[str, str]:
    """Return the two variables that carry a program.

    Raises:
        ValueError: it is too long for two.
    """
    return dict(zip((PROGRAM, PROGRAM_MORE), map(packed, texts(name)), strict=True))
