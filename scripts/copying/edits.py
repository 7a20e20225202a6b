"""Adding our lines to the files of somebody's repository, and taking them out again, to the byte.

Nothing is parsed and written anew: text is inserted, and what was inserted is remembered word for word. An
edit of YAML is only made when the file says afterwards what it said before, and our part besides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import yaml

from settings.action import compose, entries, find
from settings.live import CALL, JOB, MODEL_CALL, MODEL_JOB, PROJECT_TAG

USED_BY = {"mlflow": JOB, "mlflow_models": MODEL_JOB}
"""The volumes that live.yaml gets, each with the job that mounts it."""
SERVER = f"inspect_job('{JOB}')"
ADDED: dict[str, dict[str, dict[str, object]]] = {
    "volumes": {
        "mlflow": {"remote": "storage:${{ flow.project_id }}/mlflow", "mount": "/mnt/mlflow"},
        "mlflow_models": {"remote": "storage:${{ flow.project_id }}/mlflow-models", "mount": "/mnt/models"},
    },
    "jobs": {
        JOB: {
            "action": CALL,
            "args": {
                "backend_store_uri": "sqlite:///${{ volumes.mlflow.mount }}/mlflow.db",
                "artifacts_destination": "${{ volumes.mlflow.mount }}/artifacts",
                "volumes": "${{ to_json([volumes.mlflow.ref_rw]) }}",
            },
        },
        MODEL_JOB: {
            "action": MODEL_CALL,
            "args": {
                "model": "${{ multi.suffix }}",
                "tracking_uri": f"http://${{{{ {SERVER}.internal_hostname_named }}}}"
                f":${{{{ {SERVER}.container.http.port }}}}",
                "cache": "${{ volumes.mlflow_models.mount }}",
                "volumes": "${{ to_json([volumes.mlflow_models.ref_rw]) }}",
            },
        },
    },
}
"""What live.yaml gets: in each section keys with their values."""

NEW_FLOW = f'kind: live\n\ndefaults:\n  tags: ["{PROJECT_TAG}"]\n\n'
"""What a live.yaml of our making holds beside that."""


def model_lines(server: str) -> str:
    """Return what a live.yaml without it needs to serve the models of the job `server`."""
    volume, job = "mlflow_models", MODEL_JOB
    lines = [*_block("volumes", {volume: ADDED["volumes"][volume]}, "  "), ""]
    lines += _block("jobs", {job: ADDED["jobs"][job]}, "  ")
    return "\n".join(lines).replace(SERVER, f"inspect_job('{server}')")


class NotEditableError(Exception):
    """Text cannot be added without touching what is there; `reasons` are (what, fix, line from 1)."""

    def __init__(self, *reasons: tuple[str, str, int]) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


def line_end(text: str) -> str:
    """Return the line ending that a file uses."""
    first = re.search(r"\r?\n", text)
    return first[0] if first else "\n"


def add_line(text: str, line: str) -> tuple[str, str]:
    """Return text with one more line at its end, and what was added.

    A missing newline at the end stays missing, and a `\\` there, which would take our line in, is kept away.
    """
    end = line_end(text)
    added = line + end
    if text and not text.endswith("\n"):
        added = end + line
    if re.search(r"(?<!\\)(?:\\\\)*\\(\r?\n)?\Z", text):
        added = end + added
    return text + added, added


def add_to_flow(text: str) -> tuple[str, list[str]]:
    """Return the text of a live.yaml with our volumes and our jobs, and the pieces that were added.

    Raises:
        NotEditableError: it holds something that our text cannot be added to, or that has our names.
        yaml.YAMLError: it is not YAML.
    """
    mark = "\ufeff" if text.startswith("\ufeff") else ""  # the parser does not count it
    text = text.removeprefix(mark)
    root = compose(text)
    if not isinstance(root, yaml.MappingNode):
        raise NotEditableError(("not a live flow", "write `kind: live` into it, or move it away", 1))
    places: list[tuple[int, str]] = []
    reasons: list[tuple[str, str, int]] = []
    for section in ADDED:
        try:
            places.append(_insertion(text, root, section))
        except NotEditableError as error:
            reasons += error.reasons
    if reasons:
        raise NotEditableError(*reasons)
    new = text
    places_from_the_end = sorted(enumerate(places), key=lambda place: (-place[1][0], -place[0]))
    for _, (position, piece) in places_from_the_end:
        new = new[:position] + piece + new[position:]
    if not _differ_by_ours(text, new, list(ADDED)):
        fix = "write `volumes:` and `jobs:` as blocks, each key on a line of its own"
        raise NotEditableError(("no place for our lines that changes nothing else", fix, 1))
    return mark + new, [piece for _, piece in places]


def _insertion(text: str, root: yaml.MappingNode, section: str) -> tuple[int, str]:
    """Return where in the text of a flow our part of a section goes, and that part."""
    added = ADDED[section]
    quote = json.dumps if root.flow_style else str  # as JSON is written
    if section not in entries(root):
        if root.flow_style:
            return _into_braces(text, root, _inline(section, added, quote))
        lines = _block(section, added, "  ")
        jobs = entries(root).get("jobs")
        if jobs is None:
            return len(text), _lines(text, len(text), lines + [""] * (section != "jobs"))
        start, indent = _line_start(text, jobs[0]), " " * jobs[0].start_mark.column
        while comment := re.search(rf"(?m)^{indent}#.*\r?\n\Z", text[:start]):  # it speaks of `jobs`
            start = comment.start()
        return start, _lines(text, start, [*(indent + line for line in lines), ""])
    key, value = entries(root)[section]
    line = key.start_mark.line + 1
    if there := [entry[0] for name, entry in entries(value).items() if name in added]:
        fix = "rename it, or take it out: the toolkit adds its own"
        raise NotEditableError(
            *((f"{section} has {node.value} already", fix, node.start_mark.line + 1) for node in there)
        )
    if value.start_mark.index < key.start_mark.index:
        raise NotEditableError((f"{section} is an alias", "write its entries out", line))
    if isinstance(value, yaml.MappingNode) and value.flow_style:
        return _into_braces(text, value, ", ".join(_inline(*entry, quote) for entry in added.items()))
    rest_of_line = re.compile(r".*(?:\r?\n|\Z)").match(text, key.end_mark.index)
    assert rest_of_line
    start, step, gap = rest_of_line.end(), 2, False
    if isinstance(value, yaml.MappingNode):
        first = value.value[0][0]
        step, gap = first.start_mark.column - key.start_mark.column, section == "jobs"
        above = text[start : _line_start(text, first)]
        if not re.fullmatch(r"(?:[ \t]*(?:#.*)?\r?\n)*", above):  # not only comments on what comes first
            start += len(above)
    elif not isinstance(value, yaml.ScalarNode) or value.value or value.style:
        raise NotEditableError(
            (f"{section} is not a mapping", "write its entries below it, or nothing", line)
        )
    indent = " " * (key.start_mark.column + step)
    lines = [indent + line for entry in added.items() for line in _block(*entry, " " * step)]
    return start, _lines(text, start, lines + [""] * gap)


def _lines(text: str, position: int, lines: list[str]) -> str:
    """Return lines to insert; at the end of a text without a newline there, one is still missing."""
    end = line_end(text)
    if text[:position].endswith("\n") or not text:
        return "".join(line + end for line in lines)
    return "".join(end + line for line in lines)


def _line_start(text: str, node: yaml.Node) -> int:
    """Return where the line of a block's key begins."""
    start = text.rfind("\n", 0, node.start_mark.index) + 1
    if text[start : node.start_mark.index].strip(" "):
        fix = "write each key on a line of its own"
        raise NotEditableError(("an entry begins in the middle of a line", fix, node.start_mark.line + 1))
    return start


def _into_braces(text: str, node: yaml.MappingNode, inline: str) -> tuple[int, str]:
    position = text.index("{", node.start_mark.index) + 1
    if node.value:
        inline += "," if text[position].isspace() else ", "
    return position, inline


def _block(name: str, content: object, step: str) -> list[str]:
    """Return the lines of a key and its value in block style."""
    if not isinstance(content, dict):
        return [f"{name}: {content}"]
    return [f"{name}:", *(step + line for key, value in content.items() for line in _block(key, value, step))]


def _inline(name: str, content: object, quote: Callable[[str], str]) -> str:
    """Return a key and its value in flow style."""
    if not isinstance(content, dict):
        return f"{quote(name)}: {json.dumps(content)}"
    return f"{quote(name)}: {{{', '.join(_inline(key, value, quote) for key, value in content.items())}}}"


def names_missing(text: str, pieces: list[str]) -> list[str]:
    """Return which of the names in our pieces the text of a flow does not have."""
    try:
        flow = compose(text.removeprefix("\ufeff"))
    except yaml.YAMLError:
        return []  # nobody knows
    return [
        name
        for (section, added), piece in zip(ADDED.items(), pieces, strict=True)
        for name in added
        if re.search(rf"\b{name}\b\"?:", piece) and find(flow, section, name) is None
    ]


def _differ_by_ours(text: str, text_with_ours: str, sections: list[str]) -> bool:
    """Tell whether the texts of two flows differ in our parts of these sections, and in nothing else."""
    try:
        without, with_ours = (compose(t.removeprefix("\ufeff")) for t in (text, text_with_ours))
    except yaml.YAMLError:
        return False
    if not isinstance(without, yaml.MappingNode) or not isinstance(with_ours, yaml.MappingNode):
        return False
    left, right = entries(without), entries(with_ours)
    names = [key for key in left if key not in sections], [key for key in right if key not in sections]
    if names[0] != names[1]:
        return False
    for section in sections:
        here, there = entries(find(without, section)), entries(find(with_ours, section))
        ours = there.keys() - here.keys()
        if not ours or ours - ADDED[section].keys() or list(here) != [k for k in there if k not in ours]:
            return False
        if not all(_equal(here[key][1], there[key][1], set()) for key in here):
            return False
    return all(_equal(left[key][1], right[key][1], set()) for key in names[0])


def _equal(left: yaml.Node, right: yaml.Node, seen: set[tuple[int, int]]) -> bool:
    """Compare two nodes; `seen` holds the pairs that are known, as anchors may make a graph of them."""
    if (id(left), id(right)) in seen:
        return True
    seen.add((id(left), id(right)))
    if isinstance(left, yaml.ScalarNode) or type(left) is not type(right) or left.tag != right.tag:
        return type(left) is type(right) and (left.tag, left.value) == (right.tag, right.value)
    pairs = zip(left.value, right.value, strict=False)
    if isinstance(left, yaml.MappingNode):
        nodes = [pair for (a, b), (c, d) in pairs for pair in ((a, c), (b, d))]
    else:
        nodes = list(pairs)
    return len(left.value) == len(right.value) and all(_equal(a, b, seen) for a, b in nodes)


def take_out(text: str, added: str) -> str | None:
    """Return text without what was added, None where that is not there once, or no longer as it was.

    The lines around it may have changed, and all line endings with them.
    """
    if "\n" not in added:  # within a line
        return text.replace(added, "") if text.count(added) == 1 else None
    start = r"(?:\A|(?<=\n))"
    exact = ("" if added.startswith(("\n", "\r\n")) else start) + re.escape(added)
    exact += "" if added.endswith("\n") else r"(?=\r?\n|\Z)"
    words = added.replace("\r\n", "\n")
    core = words.strip("\n")
    before, after = len(words) - len(words.lstrip("\n")), len(words) - len(words.rstrip("\n"))
    body = r"\r?\n".join(map(re.escape, core.split("\n")))
    head = r"(?:\r?\n)" * before or start
    tail = r"(?:\r?\n|\Z)" + r"(?:\r?\n)?" * (after - 1) if after else r"(?=\r?\n|\Z)"
    for pattern in (exact, head + body + tail, rf"{start}{body}(?:\r?\n|\Z)"):
        found = list(re.finditer(pattern, text))
        if len(found) == 1:
            return text[: found[0].start()] + text[found[0].end() :]
    return None


def take_out_of_flow(text: str, pieces: list[str]) -> tuple[str, dict[str, int]]:
    """Return the text of a live.yaml without our pieces, and the lines of the names that had to stay.

    A job that was edited stays, and its volume with it; so does what others have been written into.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    stayed: list[str] = []
    for section, piece in reversed(list(zip(ADDED, pieces, strict=True))):  # the jobs, then their volumes
        there = entries(find(compose(text.removeprefix("\ufeff")), section))
        names = [name for name in ADDED[section] if name in there and re.search(rf"\b{name}\b\"?:", piece)]
        used = [name for name in names if USED_BY.get(name) in stayed]
        entry = "\n".join(piece.lstrip("\r\n").split("\n")[1:])  # where others use the section that we made
        whole = [] if used else [piece, f"{piece}, ", f"{piece},", entry]
        rest = _without(text, whole, section) if names else text
        if rest is not None:
            text = rest
            continue
        for name in names:
            own = re.search(rf"(?ms)^ *{name}:.*?(?=^ *(?:{'|'.join(ADDED[section])}):|\Z)", piece)
            part = f"{own[0].rstrip()}\n" if own and name not in used else ""
            rest = _without(text, [part], section)
            if rest is not None:
                text = rest
        left = entries(find(compose(text.removeprefix("\ufeff")), section))
        stayed += [name for name in names if name in left]
    keys = {k: v for s in ADDED for k, v in entries(find(compose(text.removeprefix("\ufeff")), s)).items()}
    return text, {name: keys[name][0].start_mark.line + 1 for name in stayed}


def _without(text: str, parts: list[str], section: str) -> str | None:
    """Return the text of a flow without the first of these parts that can be taken out of a section of it."""
    for part in filter(None, parts):
        rest = take_out(text, part)
        if rest is not None and _differ_by_ours(rest, text, [section]):
            return rest
    return None
