"""Texts that name container paths or other jobs' addresses, changed to what is real on this machine."""

import re
from collections.abc import Iterable, Mapping


def paths(text: str, mapping: Mapping[str, str]) -> str:
    """
    Replace container paths by host paths, where they stand as paths of their own.

    The longest path wins; a path ends where a name ends (`/mnt/x` is not in `/mnt/x-old`) and begins after
    anything that is no part of a path, or after the slashes of a URI (`sqlite:////mnt/x/mlflow.db`).
    """
    if not mapping:
        return text
    longest_first = sorted(mapping, key=len, reverse=True)
    pattern = rf"(^|:///?|[^\w.\-/])({'|'.join(map(re.escape, longest_first))})(?![\w.\-])"
    return re.sub(pattern, lambda match: match[1] + mapping[match[2]], text)


def addresses(text: str, moved: Iterable[tuple[str, str]]) -> str:
    """Replace `host:port` pairs by others, where a pair stands alone (`x.y:80` is not in `x.y:8080`)."""
    for old, new in moved:
        parts = re.split(rf"(?<![\w.\-]){re.escape(old)}(?!\d)", text)
        text = new.join(parts)
    return text
