"""What is meant by a model's name, what its job is called, and what is shown to copy."""

from __future__ import annotations

import json
import re

import pytest

from flow import deployments, registry
from flow.registry import Model
from settings.values import CHECKS

LOGGED = "m-" + "0" * 32
ASKED = {
    "iris": Model("iris"),
    " iris ": Model("iris"),
    "iris/3": Model("iris", "3"),
    "iris/Production": Model("iris", "Production"),
    "iris@champion": Model("iris", alias="champion"),
    "models:/iris/3": Model("iris", "3"),
    "models:/iris@the-best.one": Model("iris", alias="the-best.one"),
    f"models:/{LOGGED}": Model(LOGGED),
    LOGGED: Model(LOGGED),
    "Zwei mal größer/1": Model("Zwei mal größer", "1"),
    "runs:/abc/model": Model("abc/model", uri="runs:/abc/model", run="abc"),
}


@pytest.mark.parametrize(("text", "model"), ASKED.items())
def test_what_a_model_may_be_called(text: str, model: Model) -> None:
    assert registry.parse(text) == model


@pytest.mark.parametrize("text", ["", "a/b/c", "a@b/3", "a/3@b", "runs:/abc", "s3://bucket/model", "a/3 4"])
def test_what_is_no_model(text: str) -> None:
    with pytest.raises(ValueError, match="is no model"):
        registry.parse(text)


@pytest.mark.parametrize(
    "name", ["iris", "Iris", "iris_2", "größer", "模型", "a" * 60, "a" * 19 + "-b", LOGGED, "abc/model"]
)
def test_a_jobs_name_can_have_the_suffix(name: str) -> None:
    suffix = deployments.suffix_of(Model(name))
    assert re.fullmatch("[a-z0-9](-?[a-z0-9])*", suffix)
    assert CHECKS["job_name"](f"project-mlflow-model-{suffix}-v99"[-40:].lstrip("-")) == ""
    assert len(f"-mlflow-model-{suffix}-v99") < 40


def test_models_of_like_names_have_jobs_of_their_own() -> None:
    names = ["iris", "Iris", "IRIS", "iris ", "iris!", "a" * 60, "a" * 61]
    assert len({deployments.suffix_of(Model(name)) for name in names}) == len(names)
    assert deployments.suffix_of(Model("iris")) == "iris"


COLUMNS = [{"name": "petal", "type": "double"}, {"name": "kind", "type": "string"}]
TENSOR = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]
BODIES = [
    ({"example": {"inputs": [[1, 2]]}, "signature": None}, {"inputs": [[1, 2]]}),
    ({"example": {"inputs": [[1.5] * 4] * 200}}, {"inputs": [[1.5] * 4]}),
    (
        {"example": {"dataframe_split": {"index": [0, 1], "columns": ["a"], "data": [["b" * 600]] * 2}}},
        {"dataframe_split": {"columns": ["a"], "data": [["b" * 600]]}},
    ),
    (
        {"example": None, "signature": {"inputs": COLUMNS}},
        {"dataframe_split": {"columns": ["petal", "kind"], "data": [[0.0, ""]]}},
    ),
    ({"example": None, "signature": {"inputs": json.dumps(TENSOR)}}, {"inputs": [[0, 0]]}),
    ({"example": None, "signature": None}, {"inputs": [[0]]}),
    ({"signature": {"inputs": "not JSON"}}, {"inputs": [[0]]}),
]


@pytest.mark.parametrize(("said", "body"), BODIES)
def test_the_body_to_send(said: dict[str, object], body: dict[str, object]) -> None:
    text, origin = deployments.body_of(said)
    assert json.loads(text) == body
    assert origin


def test_what_is_said_of_a_model() -> None:
    model = Model("iris", "3", "best", "models:/iris/3", "abc", flavors=("sklearn",), metrics={"loss": 1 / 3})
    assert model.described() == "iris version 3 (sklearn), which is @best now, by run abc: loss 0.3333"
    assert Model(LOGGED).described() == LOGGED
