"""The state folder: what survives a stop, a crash and a move of the platform."""

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from .names import HOME, PROJECTS, Project


class State:
    """Paths below the state folder, and atomic reads and writes of its small files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = root / "storage"  # the files of the login's own project
        self.disks = root / "disks"
        self.jobs = root / "jobs"
        self.home = root / "home"
        self.login = root / "login"
        self.bin = root / "bin"
        self.hosts = root / "hosts"
        self.token = root / "token"
        self.server = root / "server.json"  # {pid, port} while the platform runs
        self.lock = root / "lock"
        self.images = root / "images.yaml"

    def create(self) -> None:
        """Make the folders, readable for the user only."""
        folders = [self.root, self.disks, self.jobs, self.home, self.login, self.bin]
        for folder in (*folders, *map(self.storage_of, PROJECTS)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

    def storage_of(self, project: Project) -> Path:
        """Return the folder that has the files of `storage://CLUSTER/ORG/PROJECT`."""
        return self.storage if project == HOME else self.root / "projects" / str(project) / "storage"

    def secrets_of(self, project: Project) -> str:
        """Return the name of the file that has a project's secrets, for `load` and `save`."""
        return "secrets.json" if project == HOME else f"projects/{project}/secrets.json"

    def take_from_users(self) -> bool:
        """
        Whether no target of the toolkit uses the platform; if so, those that come now wait for our end.

        They share a lock beside the state folder, `local.lock` for `local` (common/locks.py).
        """
        try:
            lock = os.open(self.root.with_name(f"{self.root.name}.lock"), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        return True

    def load(self, name: str, default: Any) -> Any:
        """Read the JSON file `name`; `default` if there is none or it is not JSON."""
        try:
            return json.loads((self.root / name).read_bytes())
        except (FileNotFoundError, ValueError):
            return default

    def save(self, name: str, value: Any) -> None:
        """Write `value` as the JSON file `name`, atomically."""
        write_atomic(self.root / name, json.dumps(value, indent=1).encode())


def write_atomic(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file `path` so that a reader, or a crash, meets the old or the new one and nothing else."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)  # the umask may have taken bits away
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
