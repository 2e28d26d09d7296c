"""The embedded default: the very file that ships."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import decoupe
from contract import picture
from decoupe.errors import CheckpointError
from decoupe.models import BiRefNet
from decoupe.models.birefnet import PRESETS
from decoupe.training.recipes import RECIPES
from decoupe.weights import load_model
from decoupe.weights.embedded import read_embedded
from decoupe.weights.registry import CATALOGUE

FILE = Path(str(files("decoupe.weights"))) / "pocket.onnx"
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(FILE)


@pytest.fixture(scope="module")
def predictor() -> decoupe.Predictor:
    return decoupe.load()


def test_the_file_is_small_and_stands_in_the_catalogue(session: onnxruntime.InferenceSession) -> None:
    spec = CATALOGUE["pocket"]
    assert FILE.stat().st_size <= 10_000_000
    assert spec.megabytes == round(FILE.stat().st_size / 1e6)
    assert spec.sha256 == hashlib.sha256(FILE.read_bytes()).hexdigest()
    assert spec.preprocessing == RECIPES["pocket"].preprocessing
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["decoupe.name"] == "pocket"
    assert stored["decoupe.licence"] == spec.licence
    assert decoupe.load().preprocessing == spec.preprocessing


def test_it_is_birefnet_to_the_last_weight(session: onnxruntime.InferenceSession) -> None:
    """The ONNX file and the torch model of the same weights agree, at sizes that were not traced."""
    model = load_model("pocket").model
    assert isinstance(model, BiRefNet)
    assert model.config == PRESETS["pocket"]
    for shape in ((1, 320, 320), (2, 256, 416)):
        image = picture(*shape)
        with torch.inference_mode():
            expected = model(image).logits.sigmoid().numpy()
        assert np.abs(session.run(None, {"image": image.numpy()})[0] - expected).max() < 1e-4


def test_a_person_is_found(predictor: decoupe.Predictor) -> None:
    alpha = predictor(EXAMPLES / "astronaut.jpg").alpha
    assert alpha.shape == (512, 512)
    assert alpha[80:180, 180:260].mean() > 0.9  # the face
    assert alpha[350:500, 150:300].mean() > 0.8  # the suit
    assert alpha[:60, 300:350].mean() < 0.1  # the grey backdrop


def test_a_mirrored_picture_gives_the_mirrored_matte(predictor: decoupe.Predictor) -> None:
    image = np.asarray(predictor(EXAMPLES / "coffee.jpg").image)
    alpha = predictor(image).alpha
    mirrored = predictor(np.ascontiguousarray(image[:, ::-1])).alpha[:, ::-1]
    assert np.abs(alpha - mirrored).mean() < 0.05


def test_preprocessing_is_read_from_the_file() -> None:
    assert decoupe.load(FILE).preprocessing == RECIPES["pocket"].preprocessing


def test_a_file_of_another_shape_is_told(tmp_path: Path) -> None:
    proto = onnx.load(FILE)
    (weight,) = (one for one in proto.graph.initializer if "inward.2.convs.0.weight" in one.name)
    weight.CopyFrom(numpy_helper.from_array(np.zeros((16, 3, 5, 5), np.float16), weight.name))
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(CheckpointError, match=r"does not hold the model 'pocket' \(.*inward\.2"):
        read_embedded(CATALOGUE["pocket"], tmp_path / "other.onnx")
