from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from decoupe.errors import ConfigError, UnknownModelError
from decoupe.weights import available_models, registry
from decoupe.weights.registry import (
    CATALOGUE,
    DEFAULT_MODEL,
    DEFAULT_SEGMENT_MODEL,
    SEGMENT_FAMILIES,
    ModelSpec,
    Preprocessing,
    catalogue,
    spec,
)

RELEASED = [
    "BiRefNet",
    "BiRefNet_lite",
    "BiRefNet_lite-2K",
    "BiRefNet-matting",
    "BiRefNet-portrait",
    "BiRefNet-DIS5K",
    "BiRefNet-DIS5K-TR_TEs",
    "BiRefNet-COD",
    "BiRefNet-HRSOD",
    "BiRefNet_HR",
    "BiRefNet_HR-matting",
    "BiRefNet_dynamic",
    "BiRefNet_512x512",
    "BiRefNet_lite-matting",
    "BiRefNet-legacy",
]
MASKFORMERS = [
    *(f"swin-{size}-{data}" for size in ("tiny", "small", "base", "large") for data in ("ade", "coco")),
    "resnet50-ade",
    "resnet101-ade",
    "resnet101-coco-stuff",
]


def test_every_released_checkpoint_is_listed_once() -> None:
    repos = [model.repo for model in CATALOGUE.values()]
    assert sorted(filter(None, repos)) == sorted(
        [f"ZhengPeng7/{name}" for name in RELEASED]
        + ["briaai/RMBG-2.0", "joelseytre/toonout"]
        + ["plemeri/InSPyReNet"] * 3
        + [f"facebook/maskformer-{name}" for name in MASKFORMERS]
    )
    assert len({model.name for model in CATALOGUE.values()}) == len(CATALOGUE)
    assert CATALOGUE[DEFAULT_MODEL].repo is None
    assert available_models()[0] == DEFAULT_MODEL


@pytest.mark.parametrize("model", CATALOGUE.values(), ids=lambda model: model.name)
def test_every_row_can_be_used(model: ModelSpec) -> None:
    size, preprocessing = model.preprocessing.size, model.preprocessing
    least, largest = preprocessing.size_range
    assert least <= min(size) <= max(size) <= largest
    assert all(side % preprocessing.multiple == 0 for side in size)
    assert model.megabytes > 0
    assert model.sha256 is None or re.fullmatch("[0-9a-f]{64}", model.sha256)
    assert model.revision == "main" or re.fullmatch("[0-9a-f]{40}", model.revision)
    # A hash is of what cannot change; of InSPyReNet's repository no full commit is known, and a file that
    # changes there is refused.
    pinned = model.revision != "main" or model.family == "inspyrenet"
    assert model.sha256 is None or model.repo is None or pinned
    assert model.commercial == (model.licence == "MIT")


def test_segment_models_are_for_research_and_bring_their_labels() -> None:
    segments = [model for model in CATALOGUE.values() if model.family in SEGMENT_FAMILIES]
    assert len(segments) == len(MASKFORMERS)
    assert not any(model.commercial for model in segments)
    assert all(model.beside == ("config.json",) for model in segments)
    assert spec(DEFAULT_SEGMENT_MODEL) in segments


def test_type_checkers_know_every_name() -> None:
    gives_segments = {name for name, row in CATALOGUE.items() if row.family in registry.SEGMENT_FAMILIES}
    assert set(get_args(registry.SegmentName)) == gives_segments
    assert set(get_args(registry.MatteName)) == set(CATALOGUE) - gives_segments


def test_sizes_that_the_hub_states() -> None:
    assert CATALOGUE["birefnet-lite-2k"].preprocessing.size == (1440, 2560)
    assert CATALOGUE["birefnet-hr"].preprocessing.size_range[0] > 512  # measured to collapse there
    assert CATALOGUE["birefnet-512"].preprocessing.size_range[1] < 2048
    assert CATALOGUE["birefnet-dynamic"].preprocessing.size_range == (256, 2304)


def test_spec_takes_short_names_and_hub_ids() -> None:
    assert spec("birefnet").repo == "ZhengPeng7/BiRefNet"
    assert spec("zhengpeng7/birefnet_HR") is CATALOGUE["birefnet-hr"]
    stranger = spec("me/my-BiRefNet")
    assert (stranger.repo, stranger.licence, stranger.commercial) == ("me/my-BiRefNet", "unknown", False)


@pytest.mark.parametrize(
    "name",
    [
        *("folder/absent.pth", "folder/UPPER.PTH", "absent.onnx", "/a/b", "../x", "a/b/c", ""),
        *("me/a--b", "me/a..b", "me/x.", "me/x.git", f"me/{'x' * 94}", "modèles/été"),
    ],
)
def test_a_path_is_no_hub_id(name: str) -> None:
    with pytest.raises(UnknownModelError):
        spec(name)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"^unknown model 'birefnt'; did you mean 'birefnet'\?$"):
        spec("birefnt")
    with pytest.raises(UnknownModelError, match="known: pocket, birefnet"):
        spec("zzz")


def test_names_of_rembg_lead_to_what_is_nearest() -> None:
    line = r"^unknown model 'birefnet-general', which is rembg's: take 'birefnet', or give its \.onnx file$"
    with pytest.raises(UnknownModelError, match=line):
        spec("birefnet-general")
    assert {*registry._REMBG.values()} <= {*CATALOGUE}
    assert not {*registry._REMBG} & {*CATALOGUE}


def test_catalogue_tells_what_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DECOUPE_CACHE", str(tmp_path))
    lite = CATALOGUE["birefnet-lite"]
    snapshot = tmp_path / "models--ZhengPeng7--BiRefNet_lite" / "snapshots" / lite.revision
    snapshot.mkdir(parents=True)
    (snapshot / lite.file).touch()

    rows = {row.name: row for row in catalogue()}
    assert tuple(rows) == available_models()
    assert rows["birefnet-lite"].downloaded
    assert not rows["birefnet"].downloaded
    assert rows["birefnet-lite"].size == (1024, 1024)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"size": 1024}, "size is 1024, expected two whole numbers above 0"),
        ({"size": (0, 64)}, "size is (0, 64)"),
        ({"size": (64.5, 64)}, "size is (64.5, 64)"),
        ({"size_range": (640, 320)}, "the least side first"),
        ({"two_scale": (512,)}, "two_scale is (512,)"),
        ({"multiple": 0}, "multiple is 0, expected a whole number of pixels above 0"),
        ({"longest": 0}, "longest is 0"),
        ({"mean": 0.5}, "mean is 0.5, expected three numbers"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean is (0.5, 0.5, nan)"),
        ({"std": (0.5, 0, 0.5)}, "std is (0.5, 0, 0.5), expected numbers above 0"),
        ({"fit": "kept"}, "unknown fit 'kept'; did you mean 'keep'?"),
    ],
)
def test_a_preprocessing_that_makes_no_input_is_refused(fields: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)):
        Preprocessing(**{"size": (64, 64), **fields})
