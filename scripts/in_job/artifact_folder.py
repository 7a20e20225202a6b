"""The folder that artifacts are served from: never the one that holds the store."""

from __future__ import annotations

from pathlib import Path

from in_job.words import say

OURS = {
    "artifacts",
    "backups",
    "lost+found",
    "mlruns",
}  # beside a database: neither artifacts nor in their way
MOVING = ".artifacts.moving"  # what becomes `artifacts` when everything is in it


def is_ours(name: str, root: Path, store: Path) -> bool:
    """Tell whether an entry of `root` belongs to the store below it: copies beside a database do as well."""
    real, folder = store.resolve(), root.resolve()
    top = real.relative_to(folder).parts[:1]
    copies = (real.name, store.name) if real.is_file() and real.parent == folder else ()
    return name in OURS or name in top or name.startswith((".", *copies))


def beside(root: Path, store: Path) -> list[str]:
    """Return the names of what lies beside a store in `root` and is not ours: artifacts, mostly."""
    return sorted(entry.name for entry in root.iterdir() if not is_ours(entry.name, root, store))


def move_artifacts(root: Path, store: Path) -> None:
    """Move the artifacts beside a store into `artifacts`; when it was interrupted, the next call goes on."""
    moving = root / MOVING
    moving.mkdir(exist_ok=True)
    for name in beside(root, store):
        (root / name).rename(moving / name)
    moving.rename(root / "artifacts")


def artifacts_folder(destination: Path, store: Path) -> Path:
    """Return the folder to serve artifacts from: never one that holds the store, unless artifacts lie there.

    `mlflow-artifacts:/…` URIs are relative to it, so what lies beside an existing store stays served.
    """
    root, inside = destination.resolve(), store.resolve()
    if root not in (inside, *inside.parents):
        return destination
    served = destination / "artifacts"
    if (root / MOVING).is_dir():
        move_artifacts(root, inside)
    others = beside(root, inside)
    if others and inside.exists() and not served.is_dir():
        say(f"WARNING: the database {store} lies among artifacts ({', '.join(others[:3])} in {destination}):")
        say("WARNING: over HTTP, whoever reaches this server can read, replace and delete it, backups too.")
        say("WARNING: `make mlflow-upgrade` moves them apart. By hand: stop the server, make the folder")
        say(f"WARNING: {served}, and move all but the database into it.")
        return destination
    if others:
        say(f"artifacts are in {served}; not served: {', '.join(others[:3])} in {destination}")
    served.mkdir(exist_ok=True)
    return served
