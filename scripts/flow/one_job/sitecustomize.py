"""Has `neuro-flow run` note our job alone with the platform; on PYTHONPATH for that call alone.

It would note every job of the flow, for the platform's own pages, and fetch the `gh:` action of each for
that, over SSH: without a key at GitHub no server would start beside them. The next run of one of them notes
them all. Source: the loop over `job_ids` in `LiveRunner.run` of apolo_flow 24.12.1, its only use of them.
"""

from __future__ import annotations

import os
import sys

# Only this file is not to be compiled beside itself, in somebody's repository: what it imports may be.
sys.dont_write_bytecode = False
del os.environ["PYTHONDONTWRITEBYTECODE"]

from apolo_flow.context import RunningLiveFlow  # noqa: E402

RunningLiveFlow.job_ids = property(lambda _: [os.environ["MLFLOW_HELD_JOB"]])  # type: ignore[assignment]
