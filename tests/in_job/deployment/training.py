# ruff: noqa: ARG002 - these are MLflow's own names
"""Trains and registers small models of several flavours: run by the server's Python."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.types.llm import (
    ChatChoice,
    ChatChoiceDelta,
    ChatChunkChoice,
    ChatCompletionChunk,
    ChatCompletionResponse,
    ChatMessage,
)
from sklearn.linear_model import LinearRegression

warnings.simplefilter("ignore")
CODE = """
import mlflow
from helping import twice


class Own(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [twice(each) for each in model_input["x"]]


mlflow.models.set_model(Own())
"""
X = np.array([[0.0], [1.0], [2.0]])


class Chat(mlflow.pyfunc.ChatModel):  # type: ignore[misc]
    def predict(self, context: Any, messages: list[Any], params: Any) -> Any:
        message = ChatMessage(role="assistant", content=messages[-1].content.upper())
        return ChatCompletionResponse(choices=[ChatChoice(index=0, message=message)], model="chat")

    def predict_stream(self, context: Any, messages: list[Any], params: Any) -> Iterator[Any]:
        for word in messages[-1].content.split():
            delta = ChatChoiceDelta(role="assistant", content=word)
            yield ChatCompletionChunk(choices=[ChatChunkChoice(index=0, delta=delta)], model="chat")


class Fails(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        raise ValueError("no such colour")


class Version(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return [importlib.import_module("sqlparse").__version__]


def linear(slope: int, **options: Any) -> None:
    options = {"input_example": X, "registered_model_name": "line", "pip_requirements": ["mlflow"], **options}
    model = LinearRegression().fit(X, X[:, 0] * slope)
    with mlflow.start_run():
        mlflow.sklearn.log_model(model, name="model", serialization_format="pickle", **options)


def pyfunc(name: str, model: Any, **options: Any) -> None:
    options = {"pip_requirements": ["mlflow"], **options}
    with mlflow.start_run():
        mlflow.pyfunc.log_model(name="model", python_model=model, registered_model_name=name, **options)


def main(work: str) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{work}/mlflow.db")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("models", artifact_location=f"{work}/artifacts")
    )
    linear(1)
    linear(2)
    pyfunc("line", Fails(), signature=infer_signature(X, X), input_example=X)
    linear(4, input_example=None)
    linear(5, registered_model_name="wheel", pip_requirements=["mlflow", "no-such-package-at-all==9.9"])
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("line", "champion", 2)
    Path(work, "own.py").write_text(CODE)
    Path(work, "helping.py").write_text("def twice(number):\n    return 2 * number\n")
    sys.path.insert(0, work)
    example = {"x": [1, 2]}
    pyfunc("own", f"{work}/own.py", code_paths=[f"{work}/helping.py"], input_example=pd.DataFrame(example))
    pyfunc("chat", Chat())
    pyfunc("older", Version(), pip_requirements=["mlflow", "sqlparse==0.5.3"])
    # Without what it imports.
    pyfunc("lacks", f"{work}/own.py", signature=infer_signature(pd.DataFrame(example), [1]))
    lightgbm: Any = importlib.import_module("lightgbm")

    options = {"verbose": -1, "min_data_in_leaf": 1, "min_data_in_bin": 1, "num_threads": 2}
    trees = lightgbm.train(options, lightgbm.Dataset(X, X[:, 0]), num_boost_round=5)
    with mlflow.start_run():
        mlflow.lightgbm.log_model(
            trees,
            name="model",
            registered_model_name="trees",
            input_example=X,
            pip_requirements=["mlflow", f"lightgbm=={lightgbm.__version__}"],
        )
    print(trees.predict(X).tolist())


main(sys.argv[1])
