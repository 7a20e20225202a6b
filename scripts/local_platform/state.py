"""The state folder: what survives a stop, a crash and a move of the platform."""

import json
import os
import secrets
from pathlib import Path
from typing import Any


class State:
    """Paths below the state folder, and atomic reads and writes of its small files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = root / "storage"  # the files of storage://CLUSTER/ORG/PROJECT
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
        for folder in (self.root, self.storage, self.disks, self.jobs, self.home, self.login, self.bin):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)

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
