"""A request that nobody could answer is refused by a served model in the sentence that says what to ask for."""

from __future__ import annotations

import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from pipeline.backbones import adm
from pipeline.backbones.condition import Labels
from pipeline.diffusion.precond import EDM, Preconditioned
from pipeline.diffusion.sample import Heun, samples
from pipeline.engine.registry import Drawing
from pipeline.learning.weights import pack, unpack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """`asked({"n": 1})`: MLflow's server asked for that row; (HTTP status, answer)."""
    torch.manual_seed(0)
    backbone = adm.Config(8, (1,), 1, (), embedding=16, condition=Labels(3))
    network = Preconditioned.Config((1, 4, 4), backbone, EDM(sigma_data=0.5)).build()
    folder = tmp_path_factory.mktemp("served") / "model"
    Drawing("untrained/0", pack(network), (1, 4, 4), "label").save(folder)
    model = mlflow.pyfunc.load_model(str(folder))

    def ask(row):
        body = json.dumps({"dataframe_records": [row]})
        try:
            said = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
        except MlflowException as error:  # as the server's own route does
            return error.get_http_status_code(), json.loads(error.serialize_as_json())
        return said.status, json.loads(said.response)

    return ask


def test_images_end_where_the_model_knows_nothing_more(tmp_path):
    """An untrained network's denoiser is c_skip x: where sampling ends shows in every pixel."""
    torch.manual_seed(0)
    network = Preconditioned.Config((1, 4, 4), adm.Config(8, (1,), 1, (), embedding=16), EDM(sigma_data=0.5)).build()
    Drawing("untrained/1", pack(network), (1, 4, 4), least=0.7).save(tmp_path / "model")
    found = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(pd.DataFrame([{"n": 3, "seed": 5, "steps": 4}]))
    D = unpack(pack(network).__getitem__)
    ends = [samples(D, Heun(sigma_min=least, steps=4), (1, 4, 4), range(3), 5) for least in (0.7, Heun().sigma_min)]
    whole = [((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy() for x in ends]
    assert np.array_equal(found, whole[0])
    assert not np.array_equal(found, whole[1])


def test_images_come_as_numbers(asked):
    status, said = asked({"n": 2, "steps": 2, "label": 1})
    assert (status, len(said["predictions"])) == (200, 2)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"n": -2}, "n is how many images: give 1 to 4096 in all"),
        ({"n": 4097}, "n is how many images: give 1 to 4096 in all"),
        ({"n": 1, "steps": 2, "label": 3}, "cond has label 3: give labels from 0 to 2, or -1"),
    ],
)
def test_what_nobody_could_draw_is_refused_in_our_own_words(asked, row, sentence):
    status, said = asked(row)
    assert (status, said["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert said["message"].endswith(f"\nError: {sentence}")
    assert "stack_trace" not in said
