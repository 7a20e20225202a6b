"""The programs that tests and benchmark use and PyPI does not have: found, or installed, all of them at once.

Run by dev/setup.sh before any test. As root, or where sudo asks for no password, it installs the packages of
Debian or Ubuntu; elsewhere it prints the command that does.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from glob import glob
from pathlib import Path

FOLDERS = (
    *("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/postgresql/*/bin"),
    *("/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"),
    "/Applications/Google Chrome.app/Contents/MacOS",
)
"""Where programs lie that PATH does not lead to, on Debian and on macOS."""

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "Google Chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")


@dataclass(frozen=True)
class Need:
    """Programs that come together: one of each line of `names`, and the packages that have them."""

    what: str
    names: tuple[tuple[str, ...], ...]
    debian: str
    homebrew: str = ""
    """Empty where only Linux needs it."""
    ubuntu: str = ""
    """Where the names differ from Debian's."""


NEEDS = (
    Need("gcc", (("gcc",),), "gcc libc6-dev"),
    Need("PostgreSQL", (("initdb",), ("pg_ctl",), ("psql",)), "postgresql", "postgresql@17"),
    Need("MariaDB", (("mariadbd",), ("mariadb-install-db",), ("mariadb",)), "mariadb-server", "mariadb"),
    Need(
        "Chromium",
        (BROWSERS, DRIVERS),
        "chromium chromium-driver",
        "google-chrome chromedriver",
        "chromium-browser chromium-chromedriver",
    ),
    Need("util-linux", (("unshare",), ("setpriv",), ("mount",)), "util-linux mount"),
)


def search_path() -> str:
    """Return PATH with the folders that programs lie in beside it."""
    beside = [path for folder in FOLDERS for path in sorted(glob(folder), reverse=True)]  # noqa: PTH207
    return os.pathsep.join([os.environ.get("PATH", ""), *beside])


def find(*names: str) -> str | None:
    """Return the path of the first of these programs that is there."""
    return next(filter(None, (shutil.which(name, path=search_path()) for name in names)), None)


def major(program: str) -> str:
    """Return the number before the first dot of a program's version, empty where it does not say."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(\d+)\.", said)
    return found[1] if found else ""


def is_snap(program: str) -> bool:
    """Tell whether a program is Ubuntu's snap, or the script in its place: it sees no /tmp."""
    path = Path(program).resolve()
    return (
        "snap" in path.parts
        or path.name == "snap"
        or (path.stat().st_size < 10_000 and b"/snap/" in path.read_bytes())
    )


def browser() -> tuple[str, str] | None:
    """Return the paths of a browser and of the driver for it, None where one is missing.

    Where there are several, it is one of the driver's version, with which alone that works, and no snap.
    """
    driver = find(*DRIVERS)
    found = [path for name in BROWSERS if (path := find(name))]
    if not driver or not found:
        return None
    if len(found) > 1:
        version = major(driver)
        found.sort(key=lambda path: (major(path) != version, is_snap(path)))
    return found[0], driver


def is_there(need: Need) -> bool:
    """Tell whether all of it is there; a compiler without the C library's headers is not."""
    if not all(find(*names) for names in need.names):
        return False
    if need.what != "gcc":
        return True
    words = [find("gcc") or "gcc", "-E", "-x", "c", "-"]
    return not subprocess.run(
        words, input=b"#include <stdlib.h>", capture_output=True, check=False
    ).returncode


def missing() -> list[Need]:
    """Return what this system needs and does not have."""
    linux = platform.system() == "Linux"
    return [need for need in NEEDS if (linux or need.homebrew) and not is_there(need)]


def is_ubuntu() -> bool:
    """Tell whether this is Ubuntu itself, whose Chromium is a snap."""
    try:
        return platform.freedesktop_os_release().get("ID") == "ubuntu"
    except OSError:
        return False


def packages(needs: list[Need]) -> list[str]:
    """Return the names of the packages that have it: Ubuntu's, Debian's, or Homebrew's."""
    if platform.system() == "Darwin":
        return [name for need in needs for name in need.homebrew.split()]
    ubuntu = is_ubuntu()
    return [
        name for need in needs for name in (need.ubuntu if ubuntu and need.ubuntu else need.debian).split()
    ]


def said(*words: str) -> str:
    """Return what a command prints, empty where it is missing or fails."""
    if not shutil.which(words[0]):
        return ""
    run = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    return "" if run.returncode else run.stdout.strip() or "done"


def main() -> int:
    """Install what is missing, or print how; return the exit code."""
    needs = missing()
    if not needs:
        return 0
    what, install = ", ".join(need.what for need in needs), " ".join(packages(needs))
    if platform.system() == "Darwin":
        return say(f"the tests need {what}: brew install {install}")
    if not shutil.which("apt-get"):
        return say(f"the tests need {what}: install what your system has for Debian's packages {install}")
    root = [] if said("id", "-u") == "0" else ["sudo", "-n"] if said("sudo", "-n", "true") else None
    if root is None:
        return say(f"the tests need {what}: sudo apt-get update && sudo apt-get install -y {install}")
    say(f"the tests need {what}; installing {install}")
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    subprocess.run(
        [*apt, "update"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    )  # else old lists do
    words = [*apt, "install", "-y", "--no-install-recommends", *install.split()]
    run = subprocess.run(words, stdout=-1, stderr=-2, text=True, stdin=subprocess.DEVNULL, check=False)
    if run.returncode or missing():
        print(run.stdout, file=sys.stderr)
        left = ", ".join(need.what for need in missing())
        lines = [line.strip() for line in run.stdout.splitlines() if line.strip()]
        reason = lines[-1] if lines else "apt-get says nothing"
        return say(f"could not install {left}: {reason}; try: apt-get install {install}")
    return 0


def say(what: str) -> int:
    """Print a line, and return the exit code of a set-up that cannot go on."""
    print(f"mlflow: {what}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
