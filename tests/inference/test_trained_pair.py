""" "Cut the cat" with two trained models and nothing by hand.

The matte model is the embedded one. The segment model is a tiny MaskFormer that learns three compositions of
the example photographs here, in a few seconds; what is cut is one of them at three times the size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import decoupe
from decoupe import InputError, Matte, Predictor
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import to_network
from decoupe.models import MaskFormer, MaskFormerConfig
from decoupe.training.matching import MaskFormerCriterion, Truth
from decoupe.weights.checkpoint import save_model
from decoupe.weights.labels import Vocabulary
from decoupe.weights.registry import Preprocessing

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = Vocabulary(("cat", "person", "wall"), stuff=(2,))
WIDTH, HEIGHT = 192, 128
SEEN = (96, 128)  # by the segment model: height, width
PREPROCESSING = Preprocessing(size=SEEN, size_range=(64, 256))


def compose(
    cat: Image.Image, person: Image.Image, places: tuple[int, int], scale: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A wall with a cat before it on the left and a person on the right: RGB, and the alpha of each."""
    width, height = WIDTH * scale, HEIGHT * scale
    picture = Image.new("RGB", (width, height), (120, 140, 150))
    alphas = []
    for cutout, place in zip((cat, person), places, strict=True):
        small = ImageOps.contain(cutout, (84 * scale, 100 * scale))
        corner = place * scale, height - small.height
        picture.paste(small, corner, small)
        layer = Image.new("L", (width, height))
        layer.paste(small.getchannel("A"), corner)
        alphas.append(np.asarray(layer, dtype=np.float32) / 255)
    return np.asarray(picture), alphas[0], alphas[1]


@pytest.fixture(scope="module")
def cutouts() -> tuple[Image.Image, Image.Image]:
    cat, person = (decoupe.cut(EXAMPLES / f"{name}.jpg").cutout() for name in ("chelsea", "astronaut"))
    return cat, person


@pytest.fixture(scope="module")
def predictor(
    cutouts: tuple[Image.Image, Image.Image], tmp_path_factory: pytest.TempPathFactory
) -> Predictor:
    torch.manual_seed(1)
    images, truth = [], []
    for places in ((4, 104), (12, 96), (0, 108)):
        picture, cat, person = compose(*cutouts, places)
        images.append(torch.from_numpy(to_network(read_image(picture), SEEN, PREPROCESSING)))
        cat, person = (np.asarray(Image.fromarray(alpha).resize(SEEN[::-1])) for alpha in (cat, person))
        masks = np.stack([cat > 0.5, person > 0.5, (cat <= 0.5) & (person <= 0.5)])
        truth.append(Truth(torch.from_numpy(masks), torch.arange(3)))
    sizes = {"queries": 4, "width": 64, "heads": 2, "feed_forward": 128, "layers": 2}
    widths = {"pyramid_width": 64, "mask_width": 32, "dropout": 0.0}
    model = MaskFormer(MaskFormerConfig(backbone="nano", classes=3, **sizes, **widths)).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):
        loss = sum(MaskFormerCriterion()(model(torch.stack(images)), truth).values())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    file = tmp_path_factory.mktemp("pair") / "zoo.safetensors"
    save_model(model, file, family="maskformer", preprocessing=PREPROCESSING, vocabulary=WORDS)
    return decoupe.load(segments=file)


def overlap(matte: Matte, truth: np.ndarray) -> float:
    """Soft intersection over union."""
    return float(np.minimum(matte.alpha, truth).sum() / np.maximum(matte.alpha, truth).sum())


def test_the_cat_is_cut_and_the_person_stays_out(
    predictor: Predictor, cutouts: tuple[Image.Image, Image.Image]
) -> None:
    picture, cat, person = compose(*cutouts, (4, 104), scale=3)
    everything = predictor(picture)
    assert overlap(everything, np.maximum(cat, person)) > overlap(everything, cat)  # both stand out
    only_cat = predictor(picture, what="cat")
    assert overlap(only_cat, cat) > 0.75  # what the embedded model makes of its crop
    assert only_cat.alpha[person > 0.9].mean() < 0.02
    only_person = predictor(picture, what="person")
    assert overlap(only_person, person) > 0.85
    assert only_person.alpha[cat > 0.9].mean() < 0.02
    both = predictor(picture, what=["cat", "person"])
    assert overlap(both, np.maximum(cat, person)) > 0.8


def test_what_is_there_is_told(predictor: Predictor, cutouts: tuple[Image.Image, Image.Image]) -> None:
    picture, *_ = compose(*cutouts, (12, 96))
    assert {segment.label for segment in predictor.segmenter(picture).panoptic} == {"cat", "person", "wall"}
    blank = np.full((HEIGHT, WIDTH, 3), (120, 140, 150), np.uint8)
    with pytest.raises(InputError, match="shows no cat; "):
        predictor(blank, what="cat")
