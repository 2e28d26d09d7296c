"""Checkpoints of every family, opened as users do, by file, folder and name; and what they then compute."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import decoupe
from decoupe import CheckpointError, InputError, Predictor, Segmenter
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import from_network, to_network
from decoupe.models import InSPyReNet, InSPyReNetConfig, MaskFormer, MaskFormerConfig
from decoupe.weights import checkpoint, convert, registry
from decoupe.weights.checkpoint import read_model, save_model
from decoupe.weights.labels import COCO_PANOPTIC, Vocabulary, vocabulary
from decoupe.weights.registry import CATALOGUE, Preprocessing
from weights.fake_hub import FakeHub

SMALL: dict[str, Any] = {
    "queries": 7,
    "width": 32,
    "heads": 1,
    "feed_forward": 32,
    "layers": 2,
    "pyramid_width": 64,
    "mask_width": 16,
}
NAMES = ("cat", "dog", "grass")
SHORTER = Preprocessing(size=(64, 64), fit="shorter", longest=96, size_range=(32, 96))
WORDS = Vocabulary(NAMES, stuff=(2,), ids=(17, 18, 193))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (10, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def maskformer() -> MaskFormer:
    torch.manual_seed(0)
    return MaskFormer(MaskFormerConfig(backbone="resnet50", classes=3, **SMALL)).eval()


@pytest.fixture(scope="module")
def own_file(maskformer: MaskFormer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `maskformer`, in decoupe's own format, with its names."""
    file = tmp_path_factory.mktemp("maskformer") / "mine.safetensors"
    save_model(maskformer, file, family="maskformer", preprocessing=SHORTER, vocabulary=WORDS)
    return file


@pytest.fixture(scope="module")
def own(own_file: Path) -> Segmenter:
    return decoupe.load(own_file, dtype="float32")


def write_config(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    labels = {str(index): name for index, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps({"id2label": labels}))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {"size": 64, "max_size": 96, "size_divisibility": 32, "image_mean": [0.48500001430511475] * 3}
        )
    )


def assert_same_segments(segmenter: Segmenter, model: MaskFormer, photo: np.ndarray) -> None:
    segments = segmenter(photo)
    height, width = 64, 96  # the shorter side at 64, the longer capped at 96
    image = torch.from_numpy(to_network(read_image(photo), (height, width), segmenter.preprocessing))[None]
    with torch.inference_mode():
        out = model(image)
    np.testing.assert_allclose(segments.class_logits, out.class_logits[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(segments.mask_logits, out.mask_logits[0].numpy(), atol=1e-4)
    assert segments.size == photo.shape[:2]
    assert segments.semantic.shape == photo.shape[:2]


def test_a_folder_that_transformers_wrote(tmp_path: Path, photo: np.ndarray) -> None:
    """Written by transformers itself; opened by the folder's name, it gives transformers' numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        stages = [f"stage{number}" for number in range(1, 5)]
        torch.manual_seed(0)
        theirs = transformers.MaskFormerForInstanceSegmentation(
            transformers.MaskFormerConfig(
                backbone_config=transformers.ResNetConfig(out_features=stages),
                decoder_config=transformers.DetrConfig(
                    d_model=32, decoder_attention_heads=1, decoder_ffn_dim=32, decoder_layers=2, num_queries=7
                ),
                id2label=dict(enumerate(NAMES)),
                label2id={name: index for index, name in enumerate(NAMES)},
                fpn_feature_size=64,
                mask_feature_size=16,
            )
        ).eval()
        theirs.save_pretrained(tmp_path)
        transformers.MaskFormerImageProcessor(
            size={"shortest_edge": 64, "longest_edge": 96}, size_divisor=32
        ).save_pretrained(tmp_path)
    segmenter = decoupe.load(tmp_path, dtype="float32")
    assert isinstance(segmenter, Segmenter)
    assert segmenter.vocabulary.names == NAMES
    assert segmenter.preprocessing == Preprocessing(
        size=(64, 64), fit="shorter", longest=96, size_range=(32, 96), multiple=32
    )
    segments = segmenter(photo)
    image = torch.from_numpy(to_network(read_image(photo), (64, 96), segmenter.preprocessing))[None]
    with torch.inference_mode():
        out = theirs(pixel_values=image)
    spread = float(out.masks_queries_logits.std())
    np.testing.assert_allclose(segments.mask_logits, out.masks_queries_logits[0], atol=1e-4 * spread)
    spread = float(out.class_queries_logits.std())
    np.testing.assert_allclose(segments.class_logits, out.class_queries_logits[0], atol=1e-4 * spread)


def test_heads_are_those_that_transformers_tells(tmp_path: Path, maskformer: MaskFormer) -> None:
    """They leave no trace in the tensors: a guess would give other numbers without a word."""
    torch.save(convert.to_reference(maskformer), tmp_path / "pytorch_model.bin")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"decoder_config": {"d_model": 32, "decoder_attention_heads": 8}}))
    opened = read_model(tmp_path)
    assert opened.config == dataclasses.replace(maskformer.config, heads=8)
    assert not any("attention heads" in note for note in opened.notes)
    assert [note for note in opened.notes if "heads=" in note] == [
        "pytorch_model.bin: heads=8 is what the config.json beside it tells"
    ]
    for part, told, line in (
        ("decoder_config", {"decoder_attention_heads": 5}, r"width is 32, expected a multiple of .* \(5\)"),
        ("decoder_config", {"decoder_attention_heads": "8"}, "decoder_attention_heads '8', expected a whole"),
        ("decoder_config", {"activation_function": "gelu"}, "says activation_function 'gelu', .* 'relu'"),
        ("backbone_config", {"model_type": "resnet", "hidden_act": "gelu"}, "says hidden_act 'gelu'"),
        ("backbone_config", {"downsample_in_bottleneck": True}, "says downsample_in_bottleneck True"),
    ):
        config.write_text(json.dumps({part: told}))
        with pytest.raises(CheckpointError, match=line):
            read_model(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin", "model_final.pkl", "model.pth"])
def test_every_kind_of_file(tmp_path: Path, photo: np.ndarray, maskformer: MaskFormer, file: str) -> None:
    state = convert.to_reference(maskformer)
    if file.endswith(".safetensors"):
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / file)
    elif file.endswith(".pkl"):
        arrays = {key: value.numpy() for key, value in state.items()}
        (tmp_path / file).write_bytes(pickle.dumps({"model": arrays, "__author__": "someone"}))
    else:
        torch.save({"model": state}, tmp_path / file)
    write_config(tmp_path)
    segmenter = decoupe.load(tmp_path / file, dtype="float32")
    assert isinstance(segmenter, Segmenter)
    assert segmenter.vocabulary.names == NAMES
    assert segmenter.preprocessing.mean == (0.485, 0.485, 0.485)
    assert_same_segments(segmenter, maskformer, photo)


def test_decoupes_own_file_keeps_the_names(own: Segmenter, photo: np.ndarray, maskformer: MaskFormer) -> None:
    assert own.vocabulary == WORDS
    assert_same_segments(own, maskformer, photo)


def test_decoupes_own_file_without_names_has_numbers(
    tmp_path: Path, photo: np.ndarray, maskformer: MaskFormer
) -> None:
    file = tmp_path / "mine.safetensors"
    save_model(maskformer, file, family="maskformer", preprocessing=SHORTER)
    segmenter = decoupe.load(file, dtype=torch.float32, device=torch.device("cpu"))
    assert segmenter.vocabulary.names == tuple(f"class {index}" for index in range(len(NAMES)))
    with Image.open(BytesIO(segmenter(photo)._repr_png_())) as shown:
        assert shown.size == photo.shape[1::-1]


def test_map_equals_one_by_one(own: Segmenter, photo: np.ndarray) -> None:
    pictures = [photo, photo[:, ::-1], photo[:50], photo[::-1]]
    for together, picture in zip(own.map(pictures, batch_size=3), pictures, strict=True):
        alone = own(picture)
        np.testing.assert_allclose(together.mask_logits, alone.mask_logits, atol=1e-4)
        np.testing.assert_array_equal(together.image, picture)


def test_without_a_config_the_classes_are_those_of_the_set_or_numbers() -> None:
    assert vocabulary(None, 133) is COCO_PANOPTIC
    assert {"fire hydrant", "hot dog", "wine glass"} <= set(COCO_PANOPTIC.names)
    assert "arcade machine" in vocabulary(None, 150).names
    assert vocabulary(None, 3).names == ("class 0", "class 1", "class 2")
    renamed = tuple(name.upper() for name in COCO_PANOPTIC.names)
    assert vocabulary(renamed, 133).stuff == COCO_PANOPTIC.stuff
    assert vocabulary([f"thing {index}" for index in range(133)], 133).stuff == ()


@pytest.mark.parametrize(("classes", "assumed"), [(1, "class 0"), (19, "road, sidewalk, building, …")])
def test_class_names_that_are_assumed_are_told(
    tmp_path: Path, maskformer: MaskFormer, classes: int, assumed: str
) -> None:
    head = nn.Linear(SMALL["width"], classes + 1).state_dict(prefix="sem_seg_head.predictor.class_embed.")
    torch.save({**convert.to_reference(maskformer), **head}, tmp_path / "bare.pth")
    notes = read_model(tmp_path / "bare.pth").notes
    assert any(f"does not name its {classes} classes, assumed: {assumed};" in note for note in notes), notes


def test_labels_that_do_not_fit_are_one_line(tmp_path: Path, maskformer: MaskFormer) -> None:
    torch.save(convert.to_reference(maskformer), tmp_path / "pytorch_model.bin")
    write_config(tmp_path, ("only", "two"))
    line = r"pytorch_model\.bin: there are 2 labels for 3 classes: give one each in .*config\.json, or move"
    with pytest.raises(CheckpointError, match=line):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text("{ broken")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read .*: get it again"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"1": "cat", "2": "dog"}}))
    with pytest.raises(CheckpointError, match="has no label '0' among 2"):
        read_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {str(i): f"LABEL_{i}" for i in range(3)}}))
    assert read_model(tmp_path).vocabulary.names == ("class 0", "class 1", "class 2")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": "large"}))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be used"):
        read_model(tmp_path)


def test_a_segment_model_of_the_hub_brings_its_labels(
    hub: FakeHub, photo: np.ndarray, maskformer: MaskFormer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(convert.to_reference(maskformer), tmp_path / "weights.bin")
    write_config(tmp_path)
    spec = dataclasses.replace(
        CATALOGUE["maskformer-resnet50-ade"],
        preprocessing=SHORTER,
        megabytes=1,
    )
    monkeypatch.setitem(CATALOGUE, spec.name, spec)
    hub.files[f"{spec.repo}/{spec.file}"] = (tmp_path / "weights.bin").read_bytes()
    with pytest.raises(decoupe.DownloadError, match=r"has no file 'config\.json'"):
        decoupe.load(spec.name)
    hub.files[f"{spec.repo}/config.json"] = (tmp_path / "config.json").read_bytes()
    segmenter = decoupe.load(spec.name, dtype="float32")
    assert segmenter.vocabulary.names == NAMES
    assert_same_segments(segmenter, maskformer, photo)


def test_a_hub_id_outside_the_catalogue_is_found_out(
    hub: FakeHub, maskformer: MaskFormer, tmp_path: Path
) -> None:
    state = {key: value.contiguous() for key, value in convert.to_reference(maskformer).items()}
    save_file(state, tmp_path / "w.safetensors")
    hub.files["me/mine/model.safetensors"] = (tmp_path / "w.safetensors").read_bytes()
    segmenter = decoupe.load("me/mine", dtype="float32")
    assert isinstance(segmenter, Segmenter)
    assert segmenter.vocabulary.names == ("class 0", "class 1", "class 2")
    assert any("inferred" in note for note in segmenter.runtime.notes)


# InSPyReNet: its checkpoints do not say at which size they were trained.


@pytest.fixture(scope="module")
def inspyrenet() -> InSPyReNet:
    torch.manual_seed(0)
    model = InSPyReNet(InSPyReNetConfig(backbone="swin_t", depth=8, base_size=(64, 64))).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith(("running_mean", "running_var", "gain")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return model


TWICE = Preprocessing(size=(64, 64), size_range=(32, 96), two_scale=(70, 96))


def test_an_inspyrenet_by_file_is_assumed_to_be_the_papers(tmp_path: Path, inspyrenet: InSPyReNet) -> None:
    torch.save(convert.to_reference(inspyrenet), tmp_path / "latest.pth")
    loaded = read_model(tmp_path / "latest.pth")
    assert loaded.family == "inspyrenet"
    assert (loaded.preprocessing.size, loaded.preprocessing.two_scale) == ((384, 384), (512, 1280))
    assert loaded.config.base_size == (384, 384)
    assert any("384×384 assumed" in note for note in loaded.notes)


def test_a_file_of_the_catalogue_is_known_by_its_hash(
    tmp_path: Path, inspyrenet: InSPyReNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ckpt_base.pth"
    torch.save(convert.to_reference(inspyrenet), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    row = dataclasses.replace(CATALOGUE["inspyrenet"], sha256=digest)
    monkeypatch.setitem(CATALOGUE, "inspyrenet", row)
    loaded = read_model(file)
    assert loaded.preprocessing == row.preprocessing
    assert loaded.licence == checkpoint.licence_of(str(file), loaded) == row.licence != ""
    assert loaded.config.base_size == (1024, 1024)
    assert not any("assumed" in note for note in loaded.notes)


@pytest.fixture(scope="module")
def twice_file(inspyrenet: InSPyReNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inspyrenet") / "mine.safetensors"
    save_model(inspyrenet, file, family="inspyrenet", preprocessing=TWICE)
    return file


@pytest.fixture(scope="module")
def twice(twice_file: Path) -> Predictor:
    return decoupe.load(twice_file, dtype="float32")


def test_large_pictures_are_seen_twice_and_blended(
    twice: Predictor, twice_file: Path, inspyrenet: InSPyReNet
) -> None:
    assert isinstance(twice, Predictor)
    rng = np.random.default_rng(0)
    for size, second in (
        ((60, 200), None),
        ((71, 90), (64, 96)),
        ((100, 160), (96, 160)),
        ((200, 250), (96, 128)),
    ):
        picture = read_image(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        alpha = twice(picture).alpha
        low = torch.from_numpy(to_network(picture, (64, 64), TWICE))[None]
        with torch.inference_mode():
            if second is None:
                logits = inspyrenet(low).logits
            else:
                logits = inspyrenet(torch.from_numpy(to_network(picture, second, TWICE))[None], low).logits
        expected = logits.sigmoid()[0, 0].numpy()
        np.testing.assert_allclose(alpha, from_network(expected, picture), atol=1e-5)
    # A size of one's own is one look.
    photo = rng.integers(0, 256, (200, 250, 3), dtype=np.uint8)
    assert decoupe.load(twice_file, size=96)(photo).alpha.shape == (200, 250)


def test_pictures_seen_twice_do_not_depend_on_their_neighbours(twice: Predictor) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((100, 160), (60, 60), (100, 160))
    ]
    for together, picture in zip(twice.map(pictures), pictures, strict=True):
        np.testing.assert_allclose(together.alpha, twice(picture).alpha, atol=1e-5)


def test_options_of_the_other_kind_are_refused(own_file: Path) -> None:
    with pytest.raises(InputError, match="gives segments, not mattes: leave minmax"):
        decoupe.load(own_file, minmax=True)
    with pytest.raises(InputError, match="names segments and gives no matte"):
        decoupe.cut(np.zeros((40, 40, 3), np.uint8), own_file)
    with pytest.raises(decoupe.UnknownModelError, match="unknown model 'maskformr'"):
        decoupe.load(segments="maskformr")


def test_the_assumed_families_are_all_there() -> None:
    assert set(checkpoint._ASSUMED) == set(convert.FAMILIES)
    assert registry.weights_in(Path(os.devnull)) is None
