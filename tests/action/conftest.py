"""One embedded platform for all tests of the action."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from local_platform.runner import namespace_command

from .harness import Flow, Platform, live


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    if namespace_command() is None:
        pytest.skip("jobs of one flow reach each other by name only where the system has namespaces (Linux)")
    made = Platform(tmp_path_factory.mktemp("platform"))
    yield made
    made.end()


@pytest.fixture(scope="session")
def flow(platform: Platform) -> Callable[..., Flow]:
    """Makes flows: a name, the reference's examples to put in, and further `args`."""

    def make(name: str, *examples: str, action: str = "ws:action.yaml", **args: str) -> Flow:
        return platform.flow(name, live(*examples, action=action, **args))

    return make
