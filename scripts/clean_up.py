"""mlflow-gc: show what is deleted in MLflow and still kept; with MLFLOW_FORCE=yes remove it for good."""

from __future__ import annotations

import asyncio
import os

from common import console
from common.console import UNCHANGED, Failure, Problem, format_duration, parse_duration, say
from flow.opening import open_flow
from flow.store_task import Task
from settings import problems
from settings.layers import Settings
from settings.variables import yes


async def clean_up(settings: Settings, older_than: int, *, force: bool, dry_run: bool) -> None:
    """Show, and with `force` remove, what was deleted at least `older_than` seconds ago."""
    async with open_flow(settings, will_run=True) as flow:
        task = await Task.prepare(flow, dry_run=dry_run)
        done = await task.run("gc", older_than=older_than, force=force, dry_run=dry_run)
        found, totals, orphaned = done["found"], done["totals"], done["orphaned"]
        age = f" for {format_duration(older_than)} or longer" if older_than else ""
        numbers = {kind: totals[kind] for kind in ("run", "model", "experiment") if totals[kind]}
        if not numbers:
            print(f"nothing {'else ' * bool(done['refused'])}is in the state deleted{age}")
        for item in found:
            name = "".join(sign if sign.isprintable() else "?" for sign in item["name"])  # clients choose it
            print(f"{item['kind']:10} {item['id']:34} {item['bytes']:>14,} bytes  {name}")
        more = sum(numbers.values()) - len(found)
        if more:
            print(f"… and {more:,} more")
        total = totals["bytes"]
        kinds = ", ".join(f"{n:,} {kind}{'s' * (n != 1)}" for kind, n in numbers.items())
        if numbers:
            what = "removed for good" if force else f"deleted{age}"
            print(f"{what}: {kinds}, {total:,} bytes of artifacts")
        for orphan in done["orphans"]:
            print(f"orphaned   {orphan['path']:66} {orphan['bytes']:>14,} bytes")
        if orphaned["folders"]:
            what = "removed: " if force else ""
            text = f"{orphaned['folders']:,} folders that nothing refers to, {orphaned['bytes']:,} bytes"
            print(f"{what}orphaned: {text}")
        if done["young"]:
            say(f"{done['young']:,} more folders are orphaned, but not for long enough: an hour at least")
        if dry_run:
            say(UNCHANGED)
        elif not force and (numbers or orphaned["folders"]):
            say("nothing has been removed; add MLFLOW_FORCE=yes to remove all of it for good")
        if done["refused"]:
            raise Failure(*done["refused"])


def main() -> None:
    """Run the target."""
    settings = problems.begin("gc")
    text = os.environ.get("OLDER_THAN", "")
    try:
        older_than = parse_duration(text) if text else 0
    except ValueError as error:
        raise Failure(Problem(f"OLDER_THAN: {error}", "write OLDER_THAN=30d", "make command line")) from None
    dry_run = yes("MLFLOW_DRY_RUN")
    force = yes("MLFLOW_FORCE") and not dry_run
    asyncio.run(clean_up(settings, older_than, force=force, dry_run=dry_run))


if __name__ == "__main__":
    console.run(main)
