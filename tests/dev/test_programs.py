"""What dev/setup.sh does about programs that are missing; the tools on PATH only note how they are called."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dev import programs
from tests.conftest import ROOT

REAL = ("bash", "cat", "cp", "dirname", "env", "ln", "sh", "true")


class Machine:
    """A machine with nothing but `REAL` and fake tools, which note each call in `calls`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bin, self.log = folder / "bin", folder / "log"
        self.bin.mkdir()
        for name in REAL:
            (self.bin / name).symlink_to(shutil.which(name) or pytest.fail(name))
        monkeypatch.setenv("PATH", str(self.bin))
        monkeypatch.setattr(programs, "FOLDERS", ())
        monkeypatch.setattr(programs, "is_ubuntu", lambda: False)
        monkeypatch.setattr(platform, "system", lambda: "Linux")
        self.monkeypatch = monkeypatch

    def tool(self, name: str, does: str = ":") -> None:
        """Put a tool there."""
        path = self.bin / name
        path.write_text(f"#!{shutil.which('bash')}\nprintf '%s\\n' \"{name} $*\" >>{self.log}\n{does}\n")
        path.chmod(0o755)

    def installs(self, *names: str) -> str:
        """Return what a package manager does that puts these there."""
        shell = shutil.which("bash")
        return "\n".join(
            f"case $* in *install*) ln -sf {shell} {shlex.quote(f'{self.bin}/{name}')} ;; esac"
            for name in names
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


ALL = (
    "gcc",
    "initdb",
    "pg_ctl",
    "psql",
    "mariadbd",
    "mariadb-install-db",
    "mariadb",
    "chromium",
    "chromedriver",
)
LINUX = ("unshare", "setpriv", "mount")
PACKAGES = "gcc libc6-dev postgresql mariadb-server chromium chromium-driver util-linux mount"


def test_nothing_is_done_where_all_is_there(machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    for name in (*ALL, *LINUX, "apt-get", "sudo"):
        machine.tool(name)
    assert programs.main() == 0
    assert capfd.readouterr() == ("", "")
    assert not [call for call in machine.calls if call.startswith(("apt-get", "sudo"))]


@pytest.mark.parametrize("how", ["root", "sudo"])
def test_all_packages_are_installed_at_once(
    how: str, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.tool("id", f"echo {0 if how == 'root' else 1000}")
    machine.tool("sudo", 'shift; exec "$@"')
    noted = 'echo "$DEBIAN_FRONTEND" >>"$0.frontend"\n'
    machine.tool("apt-get", noted + machine.installs(*ALL, *LINUX))
    machine.monkeypatch.setattr(programs, "is_there", lambda need: all(programs.find(*n) for n in need.names))
    assert programs.main() == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "mlflow: the tests need gcc, PostgreSQL, MariaDB, Chromium, util-linux; installing " + PACKAGES + "\n"
    )
    apt = [call for call in machine.calls if call.startswith("apt-get")]
    options = "apt-get -qq -o DPkg::Lock::Timeout=300"
    assert apt == [f"{options} update", f"{options} install -y --no-install-recommends {PACKAGES}"]
    assert (machine.bin / "apt-get.frontend").read_text() == "noninteractive\n" * 2
    assert len([call for call in machine.calls if call.startswith("sudo -n env")]) == (
        0 if how == "root" else 2
    )


def test_only_what_is_missing_is_installed(machine: Machine) -> None:
    for name in (*ALL[:4], *LINUX, "mariadb"):
        machine.tool(name)
    machine.tool("id", "echo 0")
    machine.tool("apt-get", machine.installs(*ALL[4:]))
    assert programs.main() == 0
    [install] = [call for call in machine.calls if " install " in call]
    assert install.endswith("recommends mariadb-server chromium chromium-driver")


def test_a_compiler_without_headers_is_missing(machine: Machine) -> None:
    for name in (*ALL[1:], *LINUX):
        machine.tool(name)
    machine.tool("gcc", "exit 1")
    assert [need.what for need in programs.missing()] == ["gcc"]


SAYS = {
    "nobody": ("Linux", ["apt-get"], f"sudo apt-get update && sudo apt-get install -y {PACKAGES}"),
    "asks": ("Linux", ["apt-get", "sudo"], f"sudo apt-get update && sudo apt-get install -y {PACKAGES}"),
    "another Linux": ("Linux", [], f"install what your system has for Debian's packages {PACKAGES}"),
    "macOS": ("Darwin", ["brew"], "brew install postgresql@17 mariadb google-chrome chromedriver"),
}


@pytest.mark.parametrize(("system", "tools", "command"), SAYS.values(), ids=SAYS)
def test_elsewhere_one_line_says_what_to_type(
    system: str, tools: list[str], command: str, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    machine.monkeypatch.setattr(platform, "system", lambda: system)
    machine.tool("id", "echo 1000")
    for name in tools:
        machine.tool(name, "exit 1")
    assert programs.main() == 1
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.endswith(f": {command}\n")
    assert not [call for call in machine.calls if "install" in call]


def test_what_cannot_be_installed_is_said_with_the_reason(
    machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in (*ALL[:7], *LINUX):
        machine.tool(name)
    machine.tool("id", "echo 0")
    machine.tool("apt-get", "echo no space left >&2; exit 100")
    assert programs.main() == 1
    *_, reason, last = (line for line in capfd.readouterr().err.splitlines() if line)
    assert reason == "no space left"
    assert last.startswith("mlflow: could not install Chromium: no space left; try: apt-get install ")


def test_on_ubuntu_the_packages_are_those_of_ubuntu(machine: Machine) -> None:
    machine.monkeypatch.setattr(programs, "is_ubuntu", lambda: True)
    assert programs.packages(programs.missing()) == [
        *("gcc", "libc6-dev", "postgresql", "mariadb-server", "chromium-browser", "chromium-chromedriver"),
        *("util-linux", "mount"),
    ]


def test_the_browser_is_one_that_the_driver_works_with(machine: Machine) -> None:
    assert programs.browser() is None
    for name, version in (("chromium", 150), ("google-chrome", 156)):
        machine.tool(name, f"echo {name} {version}.0.1")
    assert programs.browser() is None
    machine.tool("chromedriver", "echo ChromeDriver 156.0.1")
    assert programs.browser() == (f"{machine.bin}/google-chrome", f"{machine.bin}/chromedriver")
    machine.tool("chromedriver", "echo ChromeDriver 150.0.1")
    assert programs.browser() == (f"{machine.bin}/chromium", f"{machine.bin}/chromedriver")


def test_a_snap_does_where_there_is_no_other_browser(machine: Machine) -> None:
    machine.tool("chromium-browser", "exec /snap/bin/chromium")
    machine.tool("chromium.chromedriver", "echo ChromeDriver 156.0.1")
    assert programs.browser() == (f"{machine.bin}/chromium-browser", f"{machine.bin}/chromium.chromedriver")
    assert programs.is_snap(f"{machine.bin}/chromium-browser")
    for name in ("chromium-browser", "google-chrome"):
        machine.tool(
            name, "echo Chrome 156.0.1 # /snap/bin" if name == "chromium-browser" else "echo 156.0.1"
        )
    assert programs.browser() == (f"{machine.bin}/google-chrome", f"{machine.bin}/chromium.chromedriver")


def test_set_up_stops_before_the_tests_where_something_is_missing(tmp_path: Path) -> None:
    """dev/setup.sh itself, in a clone that has its environments, with a PATH on which there is no browser."""
    (tmp_path / "bin").mkdir()
    for name in (*REAL, "cmp", "git", "make", "mkdir", "python3", "rm", "uname"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or pytest.fail(name))
    for name in ("dev", "scripts", ".mlflow", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {"PATH": f"{tmp_path}/bin", "HOME": str(tmp_path)}

    def make(target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", "-s", target], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    assert make("environments").stderr == ""
    run = make("test")
    assert run.returncode == 2
    assert re.match("mlflow: the tests need .*Chromium.*: .*\n.*Error 1\n$", run.stderr)
    assert "pytest" not in run.stdout


def test_the_workflow_installs_what_the_tests_need() -> None:
    workflow = (ROOT / ".github/workflows/ci.yaml").read_text(encoding="utf-8")
    assert "apt-get" not in workflow + (ROOT / ".ci/run").read_text(encoding="utf-8")
    brewed = re.findall(r"brew install (.*)", workflow)
    assert brewed == [
        " ".join(need.homebrew for need in programs.NEEDS if need.what in ("PostgreSQL", "MariaDB"))
    ]
