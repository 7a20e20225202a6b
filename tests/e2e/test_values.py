"""Any text, in any layer, reaches the job's environment as it is, as seen by the real neuro-flow."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flow import opening, submission
from local_platform.substitution import substitute
from settings import layers

from .conftest import Clone

pytestmark = pytest.mark.e2e

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
AWKWARD = [
    "",
    " a  b ",
    "p$x $1 $$ $$$ $",
    "$(HOME) $$(HOME) $(V1) $(V1 $()",
    "\\u0024(HOME) \\\\u0024",
    "${{ inputs.port }} $[[ x ]]",
    "}} ]] {{",
    "'\"`\\ \\n",
    "a\nb\r\tc\x0b\x1b[0m\x7f\x85\u2028",
    "é 😀 \ufeff",
    "[b] [/x] :dog: #: - !",
]


def submitted(patch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment that the job of today's settings would find: what Kubernetes makes of it."""

    async def evaluate() -> dict[str, str]:
        found = layers.load()
        assert all(problem.warning for problem in found.problems)
        async with opening.open_flow(found) as opened, opened.rendered():
            return (await opened.evaluate()).env

    read = asyncio.run(evaluate())
    patch.setattr(submission, "unescaped", lambda text: text)
    env = asyncio.run(evaluate())
    arrived = {name: substitute(text, {**env, "HOME": "/root"}) for name, text in env.items()}
    assert arrived == read  # what the toolkit takes for the value
    return arrived


@given(st.lists(TEXT, min_size=5, max_size=20), st.sampled_from(["environment", "make", "file"]))
@example(AWKWARD, "environment")
@example(AWKWARD, "make")
@example([text.replace("${", "$ {") for text in AWKWARD], "file")  # there ${ begins a reference
@example(["\x85", "a\x85b", "\u2028\u2029"], "file")
@hypothesis_settings(max_examples=6, suppress_health_check=list(HealthCheck))
def test_any_text_reaches_the_job(served: Clone, texts: list[str], layer: str) -> None:
    envs = {f"V{number}": text for number, text in enumerate(texts)}
    variables = {"MLFLOW_ENVS": json.dumps(envs), "MLFLOW_EXTRA_PARAMS": texts[0]}
    file = served.path / "mlflow.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(served.path)
        patch.setenv("MLFLOW_PLATFORM", "local")
        if layer == "file":
            assume(not any("${" in text for text in texts))
            # Between single quotes PyYAML writes a U+0085 so that YAML folds it into a blank.
            settings = {"envs": envs, "extra_params": texts[0]}
            file.write_text(yaml.safe_dump(settings, allow_unicode=True, default_style='"'))
        else:
            for name, text in variables.items():
                patch.setenv(name, text)
            if layer == "environment":  # the same text in JSON
                patch.setenv("MLFLOW_ENVS", variables["MLFLOW_ENVS"].replace("$", "\\u0024"))
        if layer == "make":  # as make escapes its command line, on which each $ was typed twice
            words = [f"{name}={text}".replace("\\", "\\\\") for name, text in variables.items()]
            typed = " ".join(word.replace(" ", "\\ ").replace("$", "$$$$") for word in words)
            patch.setenv("MAKEFLAGS", f" -- {typed}")
        try:
            env = submitted(patch)
        finally:
            file.unlink(missing_ok=True)
    assert {name: env[name] for name in envs} == envs
    assert env["MLFLOW_ACTION_EXTRA_PARAMS"] == texts[0]
