from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import decoupe
from decoupe.errors import CheckpointError, InputError, OutputError, UnknownModelError
from decoupe.models import BiRefNet, BiRefNetConfig
from decoupe.models.birefnet import PRESETS
from decoupe.weights import load_model, located
from decoupe.weights.checkpoint import read_model, save_model
from decoupe.weights.registry import CATALOGUE, Preprocessing
from weights.fake_hub import FakeHub

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = BiRefNetConfig(
    backbone="nano",
    multi_scale="none",
    context_fusion=False,
    squeeze="none",
    context="none",
    block_width=8,
    inward="none",
    outward=False,
    side_outputs=False,
)
PREPROCESSING = Preprocessing(size=(96, 128), fit="keep", size_range=(64, 256))


@pytest.fixture(scope="module")
def model() -> BiRefNet:
    torch.manual_seed(0)
    return BiRefNet(CONFIG).eval()


def test_a_file_may_be_read_by_whom_the_umask_lets(saved: Path) -> None:
    (saved.parent / "other").touch()
    assert saved.stat().st_mode == (saved.parent / "other").stat().st_mode


@pytest.fixture
def saved(model: BiRefNet, tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    save_model(model, path, family="birefnet", preprocessing=PREPROCESSING, extra={"epoch": 3})
    return path


def refused(path: Path, family: str | None = None) -> str:
    with pytest.raises(CheckpointError) as error:
        read_model(path, family)
    message = str(error.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_what_is_saved_is_read_back(model: BiRefNet, saved: Path) -> None:
    model.train()
    loaded = read_model(saved)
    model.eval()

    assert (loaded.family, loaded.config, loaded.preprocessing) == ("birefnet", CONFIG, PREPROCESSING)
    assert loaded.notes == []
    assert not loaded.model.training
    image = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        assert torch.equal(loaded.model(image).logits, model(image).logits)


def test_others_may_read_it_as_any_file_of_its_writer(saved: Path) -> None:
    any_file = saved.with_name("any")
    any_file.touch()
    assert saved.stat().st_mode == any_file.stat().st_mode


def test_the_metadata_tell_who_wrote_it(saved: Path) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        metadata = json.loads(file.metadata()["decoupe"])
    assert metadata["extra"] == {"epoch": 3}
    assert metadata["version"]
    assert metadata["config"]["backbone"] == "nano"


def test_saving_works_from_a_source_folder_that_was_never_installed(
    model: BiRefNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_metadata(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", no_metadata)
    save_model(model, tmp_path / "mine.safetensors", family="birefnet", preprocessing=PREPROCESSING)
    assert read_model(tmp_path / "mine.safetensors").config == CONFIG


def test_a_half_precision_file_is_read_as_float32(model: BiRefNet, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    half = BiRefNet(CONFIG).half()
    save_model(half, path, family="birefnet", preprocessing=PREPROCESSING)
    assert {tensor.dtype for tensor in read_model(path).model.parameters()} == {torch.float32}


def test_saving_replaces_whole_files_only(
    model: BiRefNet, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OutputError, match=r"cannot write .*mine\.safetensors: No space left"):
        save_model(model, saved, family="birefnet", preprocessing=PREPROCESSING)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_needs_an_existing_folder(model: BiRefNet, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        save_model(
            model, tmp_path / "absent" / "m.safetensors", family="birefnet", preprocessing=PREPROCESSING
        )


def test_what_could_not_be_read_again_is_not_written(saved: Path, model: BiRefNet) -> None:
    """Names of a wrapped model have a prefix: what was trained would be lost, and the file before it."""
    before = saved.read_bytes()
    for wrapped, family, line in (
        (nn.DataParallel(model), "birefnet", "model is a DataParallel, expected the BiRefNet itself"),
        (model, "inspyrenet", "model is a BiRefNet, expected the InSPyReNet itself"),
        (model, "birefnett", "unknown family 'birefnett'; did you mean 'birefnet'"),
    ):
        with pytest.raises(InputError, match=line):
            save_model(wrapped, saved, family=family, preprocessing=PREPROCESSING)
    assert saved.read_bytes() == before


def test_a_missing_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 9, 200, -1])
def test_a_truncated_safetensors_file(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    message = refused(saved)
    assert "truncated or damaged" in message or "not a weights file" in message


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("keep", [60, -1])
def test_a_truncated_pickle(tmp_path: Path, legacy: bool, keep: int) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated or damaged" in refused(path)


def test_a_pickle_that_holds_itself(tmp_path: Path) -> None:
    path = tmp_path / "knot.pth"
    knot: dict[str, Any] = {}
    knot["model"] = knot
    torch.save(knot, path)
    assert "holds dicts within dicts without end" in refused(path)


def test_a_legacy_pickle_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    torch.save({"a.b": torch.zeros(10), "c": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for keep in range(20, len(whole), 3):
        path.write_bytes(whole[:keep])
        assert re.search("truncated or damaged|holds more than tensors", refused(path))


@pytest.mark.parametrize("name", ["picture.png", "notes.safetensors", "empty.pth"])
def test_not_a_weights_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"" if name.startswith("empty") else b"\x89PNG and so on, for a while")
    assert "not a weights file" in refused(path)


def test_an_exported_model_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x0a" * 8)
    assert "use decoupe.load" in refused(path)


def test_a_pickle_that_needs_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.pth"
    torch.save(nn.Linear(2, 2), path)
    assert "would run its code" in refused(path)


class Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_an_attack_is_refused_and_told_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "attack.pth"
    torch.save({"weight": torch.zeros(1), "more": Attack()}, path)
    assert "would run its code" in refused(path)


def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "would run its code" in refused(path)


def test_a_pickle_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(1)], path)
    assert "holds a list, expected a dict" in refused(path)


@pytest.fixture(scope="module")
def reference() -> dict[str, torch.Tensor]:
    """Tensors under the reference's names, of a BiRefNet on PVT v2 b0."""
    manifest = json.loads((GOLDEN / "birefnet_pvt_v2_b0.json").read_text())
    return {name: torch.full(shape, 0.01) for name, shape in manifest["state"].items()}


def test_a_references_file_is_converted_and_says_what_was_inferred(
    reference: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "BiRefNet-epoch_9.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in reference.items()}, "epoch": 9}, path)

    loaded = read_model(path)
    assert loaded.family == "birefnet"
    assert loaded.config.backbone == "pvt_v2_b0"
    assert loaded.preprocessing.size == (1024, 1024)
    assert any("backbone='pvt_v2_b0'" in note for note in loaded.notes)
    assert any("1024×1024 assumed" in note for note in loaded.notes)
    assert not loaded.model.training


def test_of_a_hub_id_outside_the_catalogue_the_size_is_assumed_and_told(
    hub: FakeHub, reference: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(reference, tmp_path / "served")
    hub.files["me/my-birefnet/model.safetensors"] = (tmp_path / "served").read_bytes()
    loaded = load_model("me/my-birefnet")
    assert loaded.config.backbone == "pvt_v2_b0"
    assert any("1024×1024 assumed" in note for note in loaded.notes)


def test_a_reference_file_that_does_not_fit_names_the_tensors(
    reference: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({**reference, "decoder.stray.weight": torch.zeros(1)}, path)
    assert "decoder.stray.weight" in refused(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_of_another_model_names_its_tensors(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other{suffix}"
    state = {"conv1.weight": torch.zeros(2), "layer1.0.bn1.bias": torch.zeros(2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    message = refused(path)
    assert "fits no model that decoupe knows" in message
    assert "conv1.weight" in message


def test_own_files_must_fit_their_configuration(saved: Path, model: BiRefNet) -> None:
    from safetensors import safe_open

    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    state = load_file(saved)
    gone, bent = sorted(state)[:2]
    del state[gone]
    state[bent] = torch.zeros(7, 7, 7)
    save_file({**state, "stray": torch.zeros(1)}, saved, metadata)
    message = refused(saved)
    assert f"1 tensors missing ({gone})" in message
    assert "1 tensors left over (stray)" in message
    assert f"1 tensors of another shape ({bent})" in message
    whole = sorted(state)[3]
    save_file({**load_file(saved), whole: torch.ones_like(state[whole], dtype=torch.int64)}, saved, metadata)
    assert f"1 tensors of another kind of number ({whole})" in refused(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "birdnet"}, "unknown family 'birdnet'; did you mean 'birefnet'"),
        ({"family": None}, "unknown family 'None'; known"),
        ({"config": {"colour": "red"}, "version": "9.9"}, "written by decoupe 9.9, this is .*upgrade"),
        ({"config": {"backbone": "later"}, "version": "9.9"}, "written by decoupe 9.9, this is .*upgrade"),
        ({"config": None, "version": "9.9"}, "written by decoupe 9.9, this is .*upgrade"),
        ({"config": None, "version": decoupe.__version__}, r"its description was changed \("),
        ({"config": {"dropout": "x"}}, "dropout is 'x', expected a share"),
        ({"config": {"backbone": "nano", "inward_width": 10**13}}, "written by decoupe 0, this is"),
    ],
)
def test_a_file_of_a_later_version(
    saved: Path, change: dict[str, Any], message: str, model: BiRefNet
) -> None:
    metadata = {
        "family": "birefnet",
        "config": dataclasses.asdict(CONFIG),
        "preprocessing": dataclasses.asdict(PREPROCESSING),
        "version": "0",
    }
    save_file(load_file(saved), saved, {"decoupe": json.dumps(metadata | change)})
    with pytest.raises(CheckpointError, match=message):
        read_model(saved)


@pytest.mark.parametrize(
    "written",
    ["{", "[]", "{}", '{"family": "birefnet", "version": "0.1"}', "[" * 200_000],
    ids=["cut", "list", "empty", "part", "deep"],
)
def test_damaged_metadata_are_told(saved: Path, written: str) -> None:
    save_file(load_file(saved), saved, metadata={"decoupe": written})
    assert "metadata" in refused(saved)


def test_the_family_asked_for_must_be_the_files(saved: Path) -> None:
    assert "family 'birefnet', expected 'maskformer'" in refused(saved, "maskformer")


def test_a_family_that_there_is_not(tmp_path: Path) -> None:
    save_file({"bb.weight": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    with pytest.raises(UnknownModelError, match="unknown family 'birefnett'; did you mean 'birefnet'"):
        read_model(tmp_path / "theirs.safetensors", "birefnett")


def test_load_model_takes_a_file(saved: Path) -> None:
    assert load_model(saved).config == CONFIG
    assert load_model(str(saved)).family == "birefnet"


def test_load_model_of_an_unknown_name() -> None:
    with pytest.raises(UnknownModelError, match=r"did you mean 'birefnet'\?"):
        load_model("birefnt")


@pytest.mark.parametrize("name", ["weights/absent.pth", "weights/ABSENT.PTH"])
def test_load_model_of_a_file_that_is_not_there(name: str) -> None:
    with pytest.raises(UnknownModelError, match=f"model file {re.escape(name)} does not exist"):
        load_model(name)


def test_a_folder_is_never_a_hub_id(
    saved: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever owns that name on the hub could supply other weights than those in the folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/finetune")
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_bytes(saved.read_bytes())
    hub.files["runs/finetune/model.safetensors"] = saved.read_bytes()
    with pytest.raises(UnknownModelError, match=r"runs/finetune is a folder: name the .* file in it"):
        load_model("runs/finetune")
    assert hub.requests == []
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        (folder / index).write_text("{}")
        with pytest.raises(
            UnknownModelError, match=r"runs/finetune holds weights in several files, .* as one"
        ):
            load_model("runs/finetune")
        (folder / index).unlink()
    (folder / "best.safetensors").rename(folder / "model.safetensors")
    assert located("runs/finetune") == folder / "model.safetensors"
    assert load_model("runs/finetune").config == CONFIG
    Path("birefnet").mkdir()
    assert located("birefnet") == CATALOGUE["birefnet"]  # a folder of pictures is no model


def test_the_embedded_model_in_pytorch_is_the_exported_one(tmp_path: Path) -> None:
    """So that it can be fine-tuned; what only training uses is not in the file."""
    loaded = load_model("pocket")
    assert loaded.notes == ["gradient and side_heads, which only training uses, begin at random"]
    image = np.random.default_rng(0).integers(256, size=(90, 120, 3), dtype=np.uint8)
    save_model(
        loaded.model, tmp_path / "p.safetensors", family=loaded.family, preprocessing=loaded.preprocessing
    )
    in_torch = decoupe.load(tmp_path / "p.safetensors", dtype="float32")
    exported, again = decoupe.load("pocket")(image), in_torch(image)
    assert np.abs(exported.alpha - again.alpha).max() < 1e-4


def test_an_embedded_file_of_another_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "pocket", dataclasses.replace(PRESETS["pocket"], block_width=32))
    with pytest.raises(CheckpointError, match=r"pocket\.onnx does not hold the model 'pocket' .*reinstall"):
        load_model("pocket")
