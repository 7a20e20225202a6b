"""Platforms for the tests: one that many share, and new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_platform import client
from tests.local_platform.harness import Platform


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform for tests that leave it running; its life span minute is half a second, its grace too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_PLATFORM_MINUTE", "0.5")
        patch.setenv("LOCAL_PLATFORM_GRACE", "0.5")
        platform = Platform(tmp_path_factory.mktemp("shared"))
    yield platform
    client.stop(platform.state)


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[[], Platform]]:
    """Make platforms of the test's own."""
    made: list[Platform] = []

    def make() -> Platform:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Platform(folder))
        return made[-1]

    yield make
    for platform in made:
        client.stop(platform.state)
