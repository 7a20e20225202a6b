"""What Kubernetes makes of `$` in a container's command, arguments and plain environment values."""

import re
from collections.abc import Mapping


def substitute(text: str, values: Mapping[str, str]) -> str:
    """
    Return `text` with `$$` as `$`, and `$(NAME)` as the value of NAME; what has no value stays as it is.

    Any other `$` is itself.
    """

    def replace(match: "re.Match[str]") -> str:
        name: str | None = match[1]
        return "$" if name is None else values.get(name, match[0])

    return re.sub(r"\$(?:\$|\(([^)]*)\))", replace, text)
