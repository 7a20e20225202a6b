"""What a job sees: the environment variables, arguments and mounts of its process."""

import base64
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from . import network, rewriting
from .images import Image
from .jobs import Job
from .names import CLUSTER, NAMESPACE, USER, Project, internal_hosts, uri_path
from .runner import Mount, Spec, StartError
from .substitution import substitute

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
#: What a job gets of the user's own environment: how to speak, where to put temporary files, how to get out.
PASSED_ON = (
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
#: SDKs read a login passed to the job by these names.
PASSED_CONFIG = ("APOLO_PASSED_CONFIG", "NEURO_PASSED_CONFIG")


@dataclass(frozen=True)
class Place:
    """Where a job runs: its folder, address, HTTP port, and whether it has namespaces of its own."""

    folder: Path
    address: str
    port: int | None
    namespace: bool
    hosts: Path
    moved: tuple[tuple[str, str], ...]  # other jobs' `host:port` as announced, and as it really is


@dataclass(frozen=True)
class Resources:
    """Where a job's volumes and secrets come from; the functions return None for what does not exist."""

    storage: Callable[[Project, list[str]], Path]
    disk: Callable[[Project, str], Path | None]
    secret: Callable[[Project, str], bytes | None]
    token: str
    api_url: str


def remove(folder: Path, *names: str) -> None:
    """Remove folders of a job's container. Those of an overlay hold one that nobody may look into."""
    for hidden in (folder / "root").glob("*/work/*"):
        hidden.chmod(0o700)
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def build(job: Job, image: Image, place: Place, resources: Resources) -> Spec:
    """Work out the process of a job; StartError names what it needs and does not exist."""
    request = job.request
    remove(place.folder, "root")  # what a process before has left there
    for name in ("home", "work", "root", "secrets"):
        (place.folder / name).mkdir(mode=0o700, exist_ok=True)
    mounts = _mounts(job, place, resources)
    env = _variables(job, place, resources)
    argv = shlex.split(request.get("entrypoint") or "")
    argv = argv or list(image.entrypoint)
    argv += shlex.split(request.get("command") or "")
    argv = [substitute(word, env) for word in argv]
    if not argv:
        raise StartError(
            "ContainerCannotRun", f"image {request['image']!r} has no command of its own: give one"
        )
    terminal = bool(request.get("tty"))
    env = {**({"TERM": "xterm"} if terminal else {}), **_machine(image, place), **env}
    cwd = request.get("working_dir") or str(place.folder / "work")
    argv = [rewriting.addresses(word, place.moved) for word in argv]
    env = {name: rewriting.addresses(value, place.moved) for name, value in env.items()}
    if place.namespace:
        mounts.append(Mount(str(place.hosts), "/etc/hosts", True))
        spec = Spec(argv, env, str(PurePosixPath("/", cwd)), str(place.folder / "root"), True, mounts)
        spec.addresses = [place.address, network.inner_address(place.address)]
        spec.reachable = network.proxies(env)
        spec.terminal = terminal
        return spec
    mapping = {mount.target: mount.source for mount in mounts}
    return Spec(
        [rewriting.paths(word, mapping) for word in argv],
        {name: rewriting.paths(value, mapping) for name, value in env.items()},
        rewriting.paths(cwd, mapping),
        "",
        False,
        terminal=terminal,
    )


def _mounts(job: Job, place: Place, resources: Resources) -> list[Mount]:
    mounts = []
    for volume in job.request.get("volumes") or []:
        project, parts = uri_path(volume["src_storage_uri"], "storage")
        if project != job.project:
            raise StartError(
                "Error", f"403 project mismatch: {volume['src_storage_uri']} is not of project {job.project}"
            )
        path = resources.storage(project, parts)
        if not path.exists():
            raise StartError(
                "Error",
                f"volume {volume['src_storage_uri']} does not exist; make it with: "
                f"apolo mkdir --parents {shlex.quote(volume['src_storage_uri'])}",
            )
        mounts.append(Mount(str(path), _target(volume), bool(volume.get("read_only"))))
    for volume in job.request.get("disk_volumes") or []:
        project, (disk,) = uri_path(volume["src_disk_uri"], "disk")
        folder = resources.disk(project, disk) if project == job.project else None
        if folder is None:
            raise StartError("Error", f"Missing disks: '{disk}'")
        mounts.append(Mount(str(folder), _target(volume), bool(volume.get("read_only"))))
    for number, volume in enumerate(job.request.get("secret_volumes") or []):
        file = place.folder / "secrets" / str(number)
        file.unlink(missing_ok=True)
        file.touch(0o600)
        file.write_bytes(_secret(job, volume["src_secret_uri"], resources))
        mounts.append(Mount(str(file), _target(volume), True))
    return mounts


def _target(volume: Mapping[str, str]) -> str:
    return str(PurePosixPath(volume["dst_path"]))


def _secret(job: Job, uri: str, resources: Resources) -> bytes:
    project, (key,) = uri_path(uri, "secret")
    value = resources.secret(project, key) if project == job.project else None
    if value is None:
        raise StartError("Error", f"Missing secrets: '{key}'")
    return value


def _machine(image: Image, place: Place) -> dict[str, str]:
    """Return what the machine and the image bring along; no `$` of it is replaced."""
    env = {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}
    for name in ("NO_PROXY", "no_proxy"):  # jobs are not to be looked for behind a proxy
        env[name] = ",".join(
            filter(None, (env.get(name), "localhost", "127.0.0.1", place.address, f".{NAMESPACE}"))
        )
    env["HOME"] = str(place.folder / "home")
    env["PATH"] = f"{image.bin}:{SYSTEM_PATH}"
    if not place.namespace:  # what is installed is the job's own, and not in what all share
        site = str(place.folder / "home/site")
        env |= {"PIP_TARGET": site, "PYTHONPATH": site, "PATH": f"{site}/bin:{env['PATH']}"}
    # A server is to be reached by the platform's ingress and by other jobs, not from the network.
    env["MLFLOW_HOST"] = place.address
    return env | image.env


def _variables(job: Job, place: Place, resources: Resources) -> dict[str, str]:
    """
    Return the job's own variables: those that `$(NAME)` names in its command, and in what follows in `env`.

    The platform's win over the user's; what comes from a secret stays as it is.
    """
    request, hosts = job.request, internal_hosts(job.id, job.name, job.project)
    own = {
        "NEURO_JOB_ID": job.id,
        "NEURO_JOB_NAME": job.name or "",
        "NEURO_JOB_OWNER": USER,
        "NEURO_JOB_CLUSTER": CLUSTER,
        "NEURO_JOB_INTERNAL_HOSTNAME": hosts[0],
        "NEURO_JOB_INTERNAL_HOSTNAME_NAMED": hosts[1] if job.name else "",
        "NEURO_JOB_HTTP_PORT": str(place.port or ""),
        "NEURO_JOB_HTTP_AUTH": "True" if (request.get("http") or {}).get("requires_auth") else "",
        "NEURO_JOB_PRESET": request["preset_name"],
    }
    if request.get("pass_config"):
        config = {"token": resources.token, "cluster": CLUSTER, "url": resources.api_url}
        config |= {"org_name": job.project.org, "project_name": job.project.name}
        encoded = base64.b64encode(json.dumps(config).encode()).decode()
        own |= dict.fromkeys(PASSED_CONFIG, encoded)
    secrets = {}
    for name, uri in (request.get("secret_env") or {}).items():
        try:
            secrets[name] = _secret(job, uri, resources).decode()
        except UnicodeDecodeError as error:
            raise StartError("Error", f"{uri} is not text: mount it as a file") from error
        if "\0" in secrets[name]:
            raise StartError("Error", f"{uri} holds a NUL byte: mount it as a file")
    env: dict[str, str] = {}
    for name, value in (request.get("env") or {}).items():
        env[name] = substitute(value, {**secrets, **own, **env})
    return {**env, **secrets, **own}
