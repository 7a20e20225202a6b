"""Images: a mapping from image names to commands that are installed on this machine."""

import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml


class ImageError(Exception):
    """An image cannot be "pulled": the message is shown as the job's description."""


@dataclass(frozen=True)
class Image:
    """A command environment: `bin` goes first on PATH; `entrypoint` and `env` are as in a Dockerfile."""

    bin: Path
    entrypoint: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)


def built_in(mlflow: Path) -> dict[str, Image]:
    """Return the images that there always are; all run in the locked MLflow's environment."""
    return {
        "ghcr.io/mlflow/mlflow:*": Image(mlflow),
        "ghcr.io/neuro-inc/mlflow:*": Image(mlflow, ["mlflow"]),
        "ghcr.io/apolo-actions/mlflow:*": Image(mlflow, ["mlflow"]),
        "python:*": Image(mlflow),
    }


def find(name: str, custom: Path, mlflow: Path) -> Image:
    """
    Return the image called `name`.

    `custom` is the user's own mapping (`images.yaml`), which goes before the built-in one. Raises ImageError
    with what is wrong: no such image, a mistake in the file, or a folder that is not there.
    """
    if ":" not in name.rsplit("/", 1)[-1]:
        name += ":latest"
    own = _read(custom)
    images = {**own, **{pattern: image for pattern, image in built_in(mlflow).items() if pattern not in own}}
    for pattern, image in images.items():
        if fnmatchcase(name, pattern):
            if not image.bin.is_dir():
                what = "MLflow is not installed" if image.bin == mlflow else "there is no folder"
                raise ImageError(f"image {name!r}: {what} in {image.bin}")
            return image
    there = ", ".join(sorted(images))
    raise ImageError(f"no image {name!r} on the local platform; there are: {there}; add more in {custom}")


def _read(path: Path) -> dict[str, Image]:
    try:
        data = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ImageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ImageError(f"{path}: expected `PATTERN: {{bin: FOLDER}}` lines")
    return {str(pattern): _parse(path, str(pattern), entry) for pattern, entry in data.items()}


def _parse(path: Path, pattern: str, entry: Any) -> Image:
    where = f"{path}: {pattern!r}"
    if not isinstance(entry, dict) or not isinstance(entry.get("bin"), str):
        raise ImageError(f"{where} needs `bin: FOLDER`")
    unknown = set(entry) - {"bin", "entrypoint", "env"}
    if unknown:
        raise ImageError(
            f"{where} has {', '.join(map(repr, sorted(map(str, unknown))))}; known: bin, entrypoint, env"
        )
    env = entry.get("env") or {}
    if not isinstance(env, dict):
        raise ImageError(f"{where}: env is not a dictionary")
    try:
        entrypoint = shlex.split(entry.get("entrypoint") or "")
    except (ValueError, AttributeError, TypeError) as error:
        raise ImageError(f"{where}: entrypoint: {error}") from error
    folder = Path(entry["bin"]).expanduser()
    # A folder that is not absolute is one beside the file.
    return Image(path.parent / folder, entrypoint, {str(key): str(value) for key, value in env.items()})
