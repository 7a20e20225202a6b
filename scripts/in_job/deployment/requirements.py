"""What a model requires and the image lacks, put into a folder that the next start finds again.

All else comes from the image, its MLflow always: a whole environment of an older model's would take a minute,
and breaks where its MLflow meets what is new by now.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from in_job.deployment.state import say
from in_job.words import Problem

OWN = ("mlflow", "mlflow-skinny", "mlflow-tracing")
UNUSED = 30  # days after which an environment that no job uses is removed
USED = "used.txt"  # in each: when it was used last, in Unix seconds; not every volume keeps files' dates
DAY = 86400.0  # seconds
LOCAL = "MLFLOW_DEPLOY_ENV_MANAGER=local takes the image as it is"


def is_met(requirement: Any) -> bool:
    """Tell whether the image has what a requirement (of `packaging`) asks for, its extras too."""
    if requirement.marker and not requirement.marker.evaluate():
        return True
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    if requirement.url or not requirement.specifier.contains(version, prereleases=True):
        return False
    parts = [type(requirement)(line) for line in importlib.metadata.requires(requirement.name) or []]
    for part in parts if requirement.extras else []:
        if not part.marker or part.marker.evaluate({"extra": ""}):
            continue  # of no extra
        asked = any(part.marker.evaluate({"extra": extra}) for extra in requirement.extras)
        part.marker = None
        if asked and not is_met(part):
            return False
    return True


def lacking(lines: list[str]) -> tuple[list[str], list[str]]:
    """Return which lines of a requirements.txt the image does not meet, and its options for pip."""
    packaging: Any = importlib.import_module("packaging.requirements")
    missing, options = [], []
    for line in lines:
        if line.startswith("-"):
            options.append(line)
            continue
        try:
            requirement = packaging.Requirement(re.sub(r"\s--hash=\S+", "", line).strip())
        except packaging.InvalidRequirement:  # a file, or an address
            missing.append(line)
            continue
        if requirement.name.lower().replace("_", "-") in OWN:
            if not requirement.extras:
                continue
            requirement.specifier = type(requirement.specifier)()
        if not is_met(requirement):
            missing.append(str(requirement))
    return missing, options


def pip(words: list[str], folder: str) -> None:
    """Run pip in a folder.

    Raises:
        Problem: it has failed, with its last error.
    """
    fixed = ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "1"]
    command = [sys.executable, "-m", "pip", "install", *fixed, *words]
    run = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    if run.returncode:
        said = run.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {run.returncode}"]
        if any("No module named pip" in line for line in said):
            raise Problem(f"the image has no pip: take another one, or {LOCAL}")
        errors = [line[7:] for line in said if line.startswith("ERROR: ")]
        raise Problem("; ".join(errors[-2:]) or said[-1])


def install(missing: list[str], options: list[str], folder: str, target: Path) -> None:
    """Install into `target` what is missing with what it requires in turn and the image lacks.

    `folder` is the model's, which its requirements may name files of.

    Raises:
        Problem: something cannot be had.
    """
    own = [f"{name}=={version}" for name in OWN for version in versions(name)]
    asked, report = target / "asked.txt", target / "report.json"
    asked.write_text("\n".join([*options, *missing, *own]) + "\n", "utf-8")
    pip(["--dry-run", "--report", str(report), "-r", str(asked)], folder)
    wanted = [
        "{name} @ {url}".format(name=entry["metadata"]["name"], **entry["download_info"])
        if entry["is_direct"]
        else "{name}=={version}".format(**entry["metadata"])
        for entry in json.loads(report.read_text("utf-8"))["install"]
    ]
    asked.write_text("\n".join([*options, *wanted]) + "\n", "utf-8")
    pip(["--no-deps", "--target", str(target), "-r", str(asked)], folder)


def versions(name: str) -> list[str]:
    """Return the version of an installed distribution, none where there is none."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return [importlib.metadata.version(name)]
    return []


def mark_used(folder: Path) -> None:
    """Note that an environment is in use. A job does so every hour: what it uses is removed by nobody."""
    with suppress(OSError):
        (folder / USED).write_text(f"{time.time():.0f}", "utf-8")


def unused_for(folder: Path) -> float:
    """Return the seconds since an environment was marked as used; one that never was is so now."""
    with suppress(OSError, ValueError):
        return time.time() - float((folder / USED).read_text("utf-8"))
    mark_used(folder)
    return 0.0


def remove_unused(cache: Path) -> None:
    """Remove the environments that no job has used for a month, and what killed starts have left behind."""
    for folder in cache.glob("[0-9a-f]" * 16):
        if unused_for(folder) > UNUSED * DAY:
            with suppress(OSError):  # another start does the same
                gone = folder.rename(folder.with_name(f".new-{folder.name}"))  # there wholly, or not at all
                say(f"removing {folder}: no job has used it for {UNUSED} days")
                shutil.rmtree(gone)
    for folder in cache.glob(".new-*"):
        with suppress(OSError):
            if folder.stat().st_mtime < time.time() - DAY:
                shutil.rmtree(folder)


def key(missing: list[str], options: list[str], uri: str) -> str:
    """Return the name of the folder that has what is missing: another one for another Python or image.

    Files of a model's own, and options, which may name some, may be others in each model.
    """
    image = sorted(
        f"{found.metadata['Name']}=={found.version}" for found in importlib.metadata.distributions()
    )
    place = [uri] if any(line.startswith("-") or "/" in line for line in (*missing, *options)) else []
    parts = [sorted(missing), options, place, platform.machine(), sys.version, image]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


class Missed:
    """Notes, as the last finder, which modules are looked for in vain, as `names`."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        sys.meta_path.append(self)

    def find_spec(self, fullname: str, path: object, _target: object = None) -> None:
        """Find nothing."""
        if path is None:
            self.names.add(fullname)


def interferes(folder: Path, missed: set[str]) -> bool:
    """Tell whether an environment has what this process has imported from the image, or has missed there.

    So does a plugin of MLflow's, which it looks for when it is imported.
    """
    names = {name.partition(".")[0] for name in (*sys.modules, *missed)}
    points = (path.read_text("utf-8") for path in folder.glob("*.dist-info/entry_points.txt"))
    return any(path.name.partition(".")[0] in names for path in folder.iterdir()) or any(
        "[mlflow." in text for text in points
    )


def environment(found: dict[str, Any], lines: list[str], manager: str, cache: Path) -> Path | None:
    """Return a folder with what a model requires and the image lacks; None where it lacks nothing.

    Two starts at once, on one volume too, each build their own, and the first one's is kept.

    Raises:
        Problem: a requirement cannot be had, or the manager is not known.
    """
    if manager not in ("uv", "local"):
        raise Problem(f"MLFLOW_DEPLOY_ENV_MANAGER is {manager!r}: set it to uv or local")
    missing, options = lacking(lines)
    if not missing:
        say("the image has all that the model requires")
        return None
    listed = ", ".join(missing)
    if manager == "local":
        say(
            f"WARNING: the image lacks {listed}, and MLFLOW_DEPLOY_ENV_MANAGER is local: nothing is installed"
        )
        return None
    folder = cache / key(missing, options, found["uri"])
    if folder.is_dir():
        say(f"taking {listed} from {folder}")
        mark_used(folder)
        remove_unused(cache)
        return folder
    say(f"installing {listed} into {folder}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        remove_unused(cache)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
    except OSError as error:
        raise Problem(f"MLFLOW_DEPLOY_CACHE, {cache}, cannot be written: {error}") from error
    try:
        begun = time.monotonic()
        install(missing, options, found["path"], work)
        work.chmod(0o755)
        mark_used(work)
        with suppress(OSError):  # another start was faster
            os.rename(work, folder)
        if not folder.is_dir():
            raise Problem(f"{cache} cannot be written")
    except Problem as problem:
        raise Problem(
            f"the model requires {listed}, which cannot be installed: {problem}; take an image that has it "
            f"({LOCAL}), or log the model with versions that can be had"
        ) from problem
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"installed in {time.monotonic() - begun:.0f} s")
    return folder
