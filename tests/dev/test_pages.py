"""The pages: links lead somewhere, and what they name is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from settings import action, layers, variables
from tests.conftest import ROOT
from tests.test_rooms import MAY_IMPORT

LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=-1, check=True)
FILES = [name for name in LISTED.stdout.decode().splitlines() if (ROOT / name).is_file()]
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in FILES if not name.endswith((".png", ".lock"))
}
PAGES = [name for name in FILES if re.fullmatch(r"[^/]+\.md|docs/[^/]+\.md", name)]
CODE = r"(?ms)^```.*?^```$"


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(CODE, "", TEXTS[page]))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def inline(page: str) -> list[str]:
    """Return what a page has in backticks, on one line or broken over two."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", re.sub(CODE, "", TEXTS[page]))]


def commands(page: str, section: str = "") -> list[str]:
    """Return the commands of a page's examples, or of one section's, without their comments."""
    text = TEXTS[page][TEXTS[page].index(f"\n## {section}") if section else 0 :]
    if section:
        text = text[: text.find("\n## ", 1)]
    lines = [
        line for block in re.findall(r"(?ms)^```console\n(.*?)^```$", text) for line in block.splitlines()
    ]
    return [re.sub(r"\s+# .*", "", line[2:]) for line in lines if line.startswith("$ ")]


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) < 250


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", re.sub(CODE, "", TEXTS[page])):
        path, _, anchor = link.partition("#")
        if path.startswith("https://"):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        assert target.resolve().is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), f"{page} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set(), ["README.md"]
    while todo:
        page = todo.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)#]+\.md)", TEXTS[page])
        found = {str(((ROOT / page).parent / link).resolve().relative_to(ROOT)) for link in links}
        todo += found - seen
    assert seen >= set(PAGES) - {"CHANGELOG.md"}


def test_pages_that_code_and_messages_name_are_there() -> None:
    ours = r"\b((?:docs/[\w-]+|README|BENCHMARKS|CONTRIBUTING|CHANGELOG)\.md)(?:#([\w-]+))?"
    for name in TEXTS.keys() - PAGES:
        for page, anchor in re.findall(ours, TEXTS[name]):
            assert page in PAGES, f"{name} names {page}"
            assert not anchor or anchor in anchors(page), f"{name} names {page}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_targets_and_variables_that_a_page_names_are_there(page: str) -> None:
    makefiles = TEXTS["Makefile"] + TEXTS["scripts/mlflow.mk"]
    targets = set(re.findall(r"(?m)^([a-z-]+):", makefiles))
    for command in [*inline(page), *commands(page)]:
        for target in re.findall(r"\bmake (?:-f \S+ |-\w+ )*([a-z-]+)", command):
            assert target in targets, f"{page}: {command}"
        if re.match(r"(make|mlflow-)", command):  # else it may be one of MLflow's own
            known = {f"MLFLOW_{name.upper()}" for name in [*layers.load().inputs, *layers.TOOLKIT]}
            assert (
                set(re.findall(r"\b(MLFLOW_\w+)=", command))
                <= known | {*variables.OF_TARGETS} | variables.OF_ALL
            ), f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    """Those in the diagram of the parts, too."""
    for path in re.findall(r"(?<![\w./-])((?:scripts|tests|dev|bench|docs)/[\w./-]*\w/?)", TEXTS[page]):
        if path not in ("scripts/mlflow", "scripts/NAME.py") and not path.startswith("scripts/mlflow/"):
            assert (ROOT / path).exists(), f"{page} names {path}"


def test_the_rooms_are_as_the_page_says() -> None:
    rows = re.findall(r"(?m)^\| `scripts/(\w+)/` \|.*\| (.*) \|$", TEXTS["CONTRIBUTING.md"])
    said = {room: set(re.findall(r"`([\w.]+)`", may)) for room, may in rows}
    assert said == {room: may for room, may in MAY_IMPORT.items() if room}


def test_names_in_the_code_are_as_the_page_says() -> None:
    """`name()` or `NAME` of [file](file), or after it: each is defined there."""
    text = " ".join(TEXTS["CONTRIBUTING.md"].split())
    named = re.findall(r"`(\w+)(?:\(\))?` (?:of|in) \[(scripts/[\w/.]+)\]", text)
    assert len(named) > 10
    for name, path in named:
        assert re.search(rf"(?m)^(?:async )?(?:def|class) {name}\b|^{name}\b", TEXTS[path]), (
            f"{name} in {path}"
        )


def test_what_a_page_says_of_a_rendered_value(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_PORT", "4444")
    settings = layers.load()
    assert 'http_port: ${{ "4444" }}' in action.render(settings.action_text, settings.overrides)
