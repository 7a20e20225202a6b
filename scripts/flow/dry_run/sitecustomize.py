"""Makes `neuro-flow run --dry-run` print its line to the letter; on PYTHONPATH for that call alone.

neuro-flow prints that line through rich, which would take `[b]` in a value for markup, fail on `[/x]`,
replace `:dog:` in `storage:dog:/data` by a picture, and drop control characters. No other line is printed
with soft_wrap. Source: `LiveRunner.run` in apolo_flow 24.12.1.
"""

from __future__ import annotations

import os
import sys
from typing import Any

# Only this file is not to be compiled beside itself, in somebody's repository: what it imports may be.
sys.dont_write_bytecode = False
del os.environ["PYTHONDONTWRITEBYTECODE"]

from rich.console import Console  # noqa: E402

_print = Console.print


def _print_literally(self: Console, *objects: Any, **options: Any) -> None:
    if options.get("soft_wrap"):
        print(*objects, file=self.file)
    else:
        _print(self, *objects, **options)


Console.print = _print_literally  # type: ignore[method-assign]
