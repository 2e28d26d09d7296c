from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch
from torch import Tensor, nn

import decoupe
from decoupe import weights
from decoupe.cores import container_cores, cores
from decoupe.errors import (
    CheckpointError,
    DeviceError,
    InputError,
    InstallationError,
    MissingExtraError,
    ModelError,
    UnknownModelError,
)
from decoupe.inference.pictures import read_image
from decoupe.inference.preprocess import to_network
from decoupe.memory import Footprint
from decoupe.models.birefnet import PRESETS, BiRefNet, BiRefNetConfig
from decoupe.models.inspyrenet import InSPyReNet, InSPyReNetConfig
from decoupe.runtimes import Runtime, find_spec, open_runtime
from decoupe.runtimes.checkpoints import TorchRuntime, torch_dtype
from decoupe.runtimes.exported import ExportedRuntime, open_file
from decoupe.weights import registry
from decoupe.weights.checkpoint import save_model
from decoupe.weights.convert import to_reference
from decoupe.weights.registry import Preprocessing
from inference.tiny import KEEP, write_onnx

CUDA = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
IMAGES = np.random.default_rng(0).normal(size=(3, 3, 32, 48)).astype(np.float32)


SMALL = BiRefNetConfig("pvt_v2_b0", squeeze="aspp", context="none")


class Red(nn.Module):
    """Logits are the red channel times a weight; in half precision large weights overflow."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.red = nn.Conv2d(3, 1, 1, bias=False)  # of the picture: float32 whatever the rest is
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        with torch.no_grad():
            self.red.weight.copy_(torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1))
            self.conv.weight.fill_(weight)

    def forward(self, x: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.conv(self.red(x)))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A checkpoint file in whose place `Red` is loaded."""
    path = tmp_path / "red.safetensors"
    path.touch()
    model = SimpleNamespace(
        model=Red(), family="birefnet", config=None, preprocessing=KEEP, notes=["backbone: inferred"]
    )
    monkeypatch.setattr(weights, "load_model", lambda name, preprocessing=None: model)
    return path


def test_onnx_files_of_decoupe_bring_their_preprocessing(tmp_path: Path) -> None:
    runtime = open_file(write_onnx(tmp_path / "a.onnx"))
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.device, runtime.dtype, runtime.notes) == ("tiny", "cpu", "float32", ())
    assert runtime.preprocessing == KEEP
    alpha = runtime(IMAGES)
    logits = 3.0 * IMAGES[:, 0] - 1.5 * IMAGES[:, 1] - 1.5 * IMAGES[:, 2]
    np.testing.assert_allclose(alpha[:, 0], 1 / (1 + np.exp(-logits)), atol=1e-5)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_foreign_onnx_files_with_fixed_shapes(tmp_path: Path, sigmoid: bool) -> None:
    path = write_onnx(tmp_path / "foreign.onnx", None, shape=(1, 3, 32, 48), sigmoid=sigmoid)
    runtime = open_file(path)
    assert runtime.name == "foreign"
    assert runtime.preprocessing.size == (32, 48)
    assert "assumed" in runtime.notes[1]
    ours = open_file(write_onnx(tmp_path / "ours.onnx"))
    np.testing.assert_allclose(runtime(IMAGES), ours(IMAGES), atol=1e-5)
    with pytest.raises(InputError, match="takes 48×32 only, not 64×64: leave size out"):
        runtime(np.zeros((1, 3, 64, 64), np.float32))


def test_threads_are_as_many_as_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    for told, more in (("1", 0), ("3", 2)):  # beside the thread that asks
        monkeypatch.setenv("OMP_NUM_THREADS", told)
        before = psutil.Process().num_threads()
        runtime = open_runtime(model)
        assert psutil.Process().num_threads() - before == more
        assert cores() == int(told)
        del runtime


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
    ids=["2", "2 without", "1", "1 without", "none"],
)
def test_a_container_s_share_of_the_cores(tmp_path: Path, files: dict[str, str], share: int) -> None:
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert container_cores(tmp_path) == share


def test_a_fixed_side_need_not_be_a_multiple_of_anything(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "foreign.onnx", None, shape=(1, 3, 50, 51))
    assert decoupe.load(path)(np.zeros((20, 30, 3), np.uint8)).alpha.shape == (20, 30)


def test_a_cuda_that_is_installed_and_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under auto the CPU takes over; asked for by name, CUDA is never replaced."""
    path = write_onnx(tmp_path / "tiny.onnx")
    session = onnxruntime.InferenceSession

    def broken(*arguments: Any, providers: list[Any], **options: Any) -> onnxruntime.InferenceSession:
        if len(providers) > 1:
            raise RuntimeError("CUDA failure 35: driver too old")
        return session(*arguments, providers=providers, **options)

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setattr(onnxruntime, "InferenceSession", broken)
    assert open_file(path).device == "cpu"
    with pytest.raises(DeviceError, match="device 'cuda:0' cannot be used by ONNX Runtime"):
        open_file(path, device="cuda:0")


def test_too_little_memory_is_one_line(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = open_runtime(loaded)

    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(runtime, "_computed", full)
    with pytest.raises(ModelError, match="has not enough memory for 1×3×64×64 images on cpu"):
        runtime(np.zeros((1, 3, 64, 64), np.float32))


@pytest.mark.parametrize(
    "sentence",
    [
        "DefaultCPUAllocator: can't allocate memory: you tried 9 GB",
        "data. DefaultCPUAllocator: not enough memory: you tried to allocate 9663676416 bytes.",  # on Windows
        "MPS backend out of memory (MPS allocated: 18.04 GB). Tried to allocate 9.00 GB on private pool.",
        "Invalid buffer size: 9.00 GB",  # likewise on MPS, of one that is larger than all of it
        "mat1",
    ],
)
def test_the_cpu_s_memory_as_well(loaded: Path, monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    """PyTorch has no exception of its own for it; whatever else goes wrong is not taken for it."""
    runtime = open_runtime(loaded)

    def full(*_: Any) -> torch.Tensor:
        raise RuntimeError(sentence)

    monkeypatch.setattr(runtime, "_computed", full)
    wanted = (RuntimeError, "mat1") if sentence == "mat1" else (ModelError, "has not enough memory for 1×3")
    with pytest.raises(wanted[0], match=wanted[1]):
        runtime(np.zeros((1, 3, 64, 64), np.float32))


def test_a_checkpoint_is_told_how_it_is_fed(tmp_path: Path) -> None:
    """Another's does not tell; ours does."""
    model = BiRefNet(SMALL)
    torch.save(to_reference(model), tmp_path / "other.pth")
    told = Preprocessing((96, 64), "stretch", (1, 384), 1, (0.5, 0.5, 0.5), (1, 1, 1))
    opened = open_runtime(tmp_path / "other.pth", preprocessing=told)
    assert (opened.preprocessing.size, opened.preprocessing.multiple) == ((96, 64), 32)
    assert opened.preprocessing.mean == (0.5, 0.5, 0.5)
    assert not any("assumed" in note for note in opened.notes)
    with pytest.raises(CheckpointError, match="the input's size is 100×96, expected multiples of 32"):
        open_runtime(tmp_path / "other.pth", preprocessing=dataclasses.replace(told, size=(96, 100)))
    assert "--input-size says another" in open_runtime(tmp_path / "other.pth").notes[-1]
    save_model(model, tmp_path / "own.safetensors", family="birefnet", preprocessing=KEEP)
    for tells in (tmp_path / "own.safetensors", "birefnet"):  # the latter before it is downloaded
        with pytest.raises(InputError, match=r"tells how .* is fed"):
            open_runtime(tells, preprocessing=told)


@pytest.mark.parametrize("endings", [("UPPER.ONNX", "onnx"), ("a.Onnx", "onnx")])
def test_endings_in_capitals(tmp_path: Path, endings: tuple[str, str]) -> None:
    name, runtime = endings
    opened = open_runtime(write_onnx(tmp_path / name), runtime=runtime)
    assert isinstance(opened, ExportedRuntime)
    with pytest.raises(UnknownModelError, match=r"model file .*NO\.PTH does not exist"):
        find_spec(tmp_path / "NO.PTH")


def given(runtime: ExportedRuntime, masks: np.ndarray) -> np.ndarray:
    """What becomes of these masks of a file."""
    runtime.session = SimpleNamespace(inputs=runtime.session.inputs, run=lambda *_: [masks])
    return runtime(np.zeros((len(masks), 3, *masks.shape[-2:]), np.float32))


def test_masks_of_whole_numbers(tmp_path: Path) -> None:
    """Bytes of 0 to 255 and of 0 and 1, each picture's by themselves; numbers of classes are no mask."""
    runtime = open_file(write_onnx(tmp_path / "bytes.onnx", None))
    masks = np.array([[0, 51, 255], [0, 1, 1]], np.uint8).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(given(runtime, masks).reshape(2, 3), [[0, 0.2, 1], [0, 1, 1]], atol=1e-6)
    whole = given(runtime, np.array([0, 1, 1], np.int64).reshape(1, 1, 1, 3))
    assert (whole.dtype, whole.ravel().tolist()) == (np.float32, [0, 1, 1])
    with pytest.raises(CheckpointError, match="bytes gives whole numbers from 0 to 15, as of classes"):
        given(runtime, np.array([0, 15, 3], np.int64).reshape(1, 1, 1, 3))


def test_logits_are_recognised_for_each_picture_by_itself(tmp_path: Path) -> None:
    runtime = open_file(write_onnx(tmp_path / "foreign.onnx", None, sigmoid=False))
    together, alone = runtime(IMAGES), [runtime(IMAGES[index : index + 1])[0] for index in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (4, 3, 32, 32)}, "takes 4 images at a time, expected 1 or any number"),
        ({"masks": 2}, r"gives alpha .*; expected one mask output"),
        ({"inputs": 2}, r"takes image .*, other1 .*; expected one image input"),
    ],
)
def test_unusable_onnx_files(tmp_path: Path, options: dict[str, object], message: str) -> None:
    path = write_onnx(tmp_path / "a.onnx", None, **options)
    with pytest.raises(CheckpointError, match=message):
        open_file(path)


def test_of_several_outputs_of_others_the_first_is_the_mask(tmp_path: Path) -> None:
    """U²-Net and IS-Net, as rembg keeps them, give seven and more."""
    alone = open_file(write_onnx(tmp_path / "one.onnx", None))
    runtime = open_file(write_onnx(tmp_path / "u2net.onnx", None, outputs=7))
    assert "u2net.onnx gives 7 outputs: the first is its mask" in runtime.notes
    np.testing.assert_array_equal(runtime(IMAGES), alone(IMAGES))
    with pytest.raises(CheckpointError, match=r"gives alpha .*, alpha1 .*; expected one mask output"):
        open_file(write_onnx(tmp_path / "ours.onnx", KEEP, outputs=2))


def test_grey_inputs_are_refused(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx", None))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    kernel = np.ones((1, 1, 1, 1), np.float32)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(kernel, "weight"))
    onnx.save(model, tmp_path / "grey.onnx")
    with pytest.raises(CheckpointError, match="expected one image input"):
        open_file(tmp_path / "grey.onnx")


def test_inputs_with_their_channels_last_are_refused(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx", None, shape=(1, 3, 32, 48)))
    for side, length in zip(model.graph.input[0].type.tensor_type.shape.dim, (1, 32, 48, 3), strict=True):
        side.dim_value = length
    model.graph.node[0].input[0] = "planes"
    turned = onnx.helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2])
    model.graph.node.insert(0, turned)
    onnx.save(model, tmp_path / "last.onnx")
    with pytest.raises(CheckpointError, match=r"32, 48, 3.*expected one image input \(N, 3, H, W\)"):
        open_file(tmp_path / "last.onnx")


def test_free_inputs_with_their_channels_last_are_refused(tmp_path: Path) -> None:
    """As TensorFlow's converters write them; width was taken for 3."""
    model = onnx.load(write_onnx(tmp_path / "a.onnx", None, shape=("N", "H", "W", 3)))
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]))
    model.graph.node[1].input[0] = "planes"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "last.onnx")
    with pytest.raises(CheckpointError, match="expected one image input"):
        open_file(tmp_path / "last.onnx")


def test_files_of_other_inputs_and_outputs_than_their_metadata_promise(tmp_path: Path) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx"))
    model.metadata_props.add(key="decoupe.vocabulary", value='{"names": ["cat"]}')
    onnx.save(model, tmp_path / "forged.onnx")
    with pytest.raises(
        CheckpointError, match=r"gives alpha .*; expected one image, and class and mask logits"
    ):
        open_file(tmp_path / "forged.onnx")
    zeros = onnx.numpy_helper.from_array(np.zeros((1, 1, 8, 8), np.float32))
    constant = onnx.helper.make_node("Constant", [], ["alpha"], value=zeros)
    output = onnx.helper.make_tensor_value_info("alpha", 1, [1, 1, 8, 8])
    graph = onnx.helper.make_graph([constant], "nothing", [], [output])
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9), tmp_path / "none.onnx")
    with pytest.raises(CheckpointError, match="takes nothing; expected one image input"):
        open_file(tmp_path / "none.onnx")


@pytest.mark.parametrize("later", ["opset", "format"])
def test_files_of_a_later_onnx_ask_for_a_later_runtime(tmp_path: Path, later: str) -> None:
    model = onnx.load(write_onnx(tmp_path / "a.onnx"))
    if later == "opset":
        model.opset_import[0].version = 99
    else:
        model.ir_version = 99
    onnx.save(model, tmp_path / "later.onnx")
    with pytest.raises(CheckpointError, match=r"later\.onnx is of a later ONNX .*99.*: upgrade onnxruntime$"):
        open_file(tmp_path / "later.onnx")
    (tmp_path / "opset.onnx").write_bytes(b"no model")  # what a file is called says nothing
    with pytest.raises(CheckpointError, match=r"export it again$"):
        open_file(tmp_path / "opset.onnx")


def test_masks_of_another_shape_are_refused(tmp_path: Path) -> None:
    runtime = open_file(write_onnx(tmp_path / "two.onnx", None))
    # Not every file says how many masks it gives.
    runtime.session = SimpleNamespace(
        inputs=runtime.session.inputs, run=lambda *_: [np.zeros((3, 2, 32, 48), np.float32)]
    )
    with pytest.raises(CheckpointError, match=r"two gives \(3, 2, 32, 48\), expected one mask"):
        runtime(IMAGES)


def test_sizes_that_a_model_cannot_compute(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tiny cannot compute 1×4×8×8 images \(.*\): change size"):
        open_file(write_onnx(tmp_path / "a.onnx"))(np.zeros((1, 4, 8, 8), np.float32))


def test_broken_onnx_files(tmp_path: Path) -> None:
    whole = write_onnx(tmp_path / "a.onnx")
    broken = tmp_path / "broken.onnx"
    for data in (b"", b"no model", whole.read_bytes()[: len(whole.read_bytes()) // 2]):
        broken.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"broken\.onnx is not a usable ONNX model") as caught:
            open_file(broken)
        assert "\n" not in str(caught.value)


def test_unusable_metadata(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "a.onnx")
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "decoupe.preprocessing":
            entry.value = '{"sizes": 3}'
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match=r"metadata decoupe\.preprocessing that cannot be used"):
        open_file(path)


def test_torch_checkpoints(loaded: Path) -> None:
    runtime = open_runtime(loaded, dtype="float32")
    assert isinstance(runtime, TorchRuntime)
    assert isinstance(runtime, Runtime)
    assert (runtime.device, runtime.dtype, runtime.notes) == ("cpu", "float32", ("backbone: inferred",))
    alpha = runtime(IMAGES)
    assert alpha.dtype == np.float32
    np.testing.assert_allclose(alpha[:, 0], 1 / (1 + np.exp(-2 * IMAGES[:, 0])), atol=1e-6)


def test_a_saved_model_predicts_as_it_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BiRefNet(PRESETS["pocket"]).eval()
    path = tmp_path / "pocket.safetensors"
    save_model(model, path, family="birefnet", preprocessing=KEEP)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(IMAGES[:, :, :32, :32].copy())).logits.sigmoid().numpy()
    for fuse in (True, False):
        runtime = open_runtime(path, dtype="float32", fuse=fuse)
        assert runtime.preprocessing == KEEP
        np.testing.assert_allclose(runtime(IMAGES[:, :, :32, :32].copy()), wanted, atol=1e-6)


def test_the_precision_is_what_the_cpu_computes_in(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for able, dtype in (({"avx512_bf16": True}, "bfloat16"), ({"avx512_f": True}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert open_runtime(loaded).dtype == dtype
        assert torch_dtype("auto", torch.device("cpu"), "inspyrenet", "swin_b") == "float32"
        assert torch_dtype("auto", torch.device("cpu"), "birefnet", "efficientnet_lite0") == "float32"
    # On Macs PyTorch comes without what uses the instructions that an M2 has.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "aarch64", "bf16": True})
    for built, dtype in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda built=built: built)
        assert torch_dtype("auto", torch.device("cpu"), "birefnet", "swin_t") == dtype


def test_lower_precision_is_near_and_given_as_float32(loaded: Path) -> None:
    exact = open_runtime(loaded, dtype="float32")(IMAGES)
    for dtype in ("bfloat16", "float16"):
        runtime = open_runtime(loaded, dtype=dtype)
        assert runtime.dtype == dtype
        alpha = runtime(IMAGES)
        assert alpha.dtype == np.float32
        assert 0 < np.abs(alpha - exact).max() < 0.02


def test_what_overflows_is_computed_again_in_float32(loaded: Path) -> None:
    runtime = open_runtime(loaded, dtype="float16")
    images = IMAGES.copy()
    images[1] *= 1e5
    alone = [runtime(images[index : index + 1])[0] for index in range(3)]
    assert np.isfinite(alone).all()
    np.testing.assert_array_equal(runtime(images), alone)
    np.testing.assert_array_equal(alone[1], open_runtime(loaded, dtype="float32")(images)[1])


@pytest.mark.parametrize(("pooled", "sides"), [(384, (256, 384)), (1024, (512, 640))])
def test_memory_is_measured_where_it_grows_with_the_picture(
    pooled: int, sides: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """InSPyReNet pools context at a size of its own, which for smaller pictures is all that shows."""
    seen = []
    monkeypatch.setattr(
        "decoupe.models.footprint.footprint",
        lambda module, run, sides: seen.append(sides) or Footprint(0, 0),
    )
    model = InSPyReNet(InSPyReNetConfig("nano", depth=8, base_size=(pooled, pooled)))
    save_model(
        model.eval(),
        tmp_path / "a.safetensors",
        family="inspyrenet",
        preprocessing=Preprocessing((64, 64), "keep"),
    )
    open_runtime(tmp_path / "a.safetensors").footprint()
    assert seen == [sides]


def test_half_precision_weights_as_on_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of CUDA on a CPU: whole maps, products' weights held in half precision."""
    torch.manual_seed(0)
    path = tmp_path / "pocket.safetensors"
    model = BiRefNet(dataclasses.replace(PRESETS["pocket"], backbone="nano"))
    save_model(model.eval(), path, family="birefnet", preprocessing=KEEP)
    images = IMAGES[:, :, :32, :32].copy()
    exact = open_runtime(path, dtype="float32")
    for part in ("contexts", "stripes", "windows"):
        monkeypatch.setattr(f"decoupe.models.fuse.{part}.in_blocks", lambda x: False)
    monkeypatch.setattr("decoupe.runtimes.checkpoints.LOWERED", {("cpu", "float16"), ("cpu", "bfloat16")})
    for dtype in ("float16", "bfloat16"):
        runtime = open_runtime(path, dtype=dtype)
        kinds = {parameter.dtype for parameter in runtime.module.parameters()}
        assert kinds == {torch.float32, getattr(torch, dtype)}
        assert 0 < np.abs(runtime(images) - exact(images)).max() < 0.02
    # What overflows is computed in float32, by weights that are loaded again, once.
    half, images = open_runtime(path, dtype="float16"), 1e5 * images
    loads = []
    load, half._again = half._again, lambda: loads.append(1) or load()
    alone = np.concatenate(
        [exact(image[np.newaxis]) for image in images]
    )  # sums of a batch are in another order
    for _ in range(2):
        np.testing.assert_allclose(half(images), alone, atol=1e-6)
    assert loads == [1]
    assert torch.float16 in {parameter.dtype for parameter in half.module.parameters()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_pictures_are_normalised_where_the_model_is_to_the_bit(loaded: Path, device: str) -> None:
    predictor = decoupe.load(loaded, device=device)
    assert predictor.runtime.normalises
    steps = np.arange(256, dtype=np.uint8)
    picture = read_image(np.stack([steps, steps[::-1], np.roll(steps, 7)], axis=1).reshape(16, 16, 3))
    wanted = to_network(picture, (32, 48), KEEP)
    fed = predictor.runtime._fed(predictor._batch([picture, picture], (32, 48)))
    assert fed.device.type == device
    assert fed.is_contiguous()
    np.testing.assert_array_equal(fed.cpu().numpy(), np.stack([wanted, wanted]))
    wide = read_image(257 * picture.pixels.astype(np.uint16))  # 16 bits among them: all as floats
    np.testing.assert_array_equal(predictor._batch([picture, wide], (32, 48))[0], wanted)


def test_missing_devices_and_precisions_are_errors(loaded: Path, tmp_path: Path) -> None:
    onnx_file = write_onnx(tmp_path / "a.onnx")
    for device in ("cuda:63", "mps", "meta", "toaster"):
        with pytest.raises(DeviceError, match=device):
            open_runtime(loaded, device=device)
    with pytest.raises(DeviceError, match=r"^device 'gpu' cannot be used here \(no such device\): use"):
        open_runtime(loaded, device="gpu")
    for device in ("mps", "toaster"):
        with pytest.raises(DeviceError, match=f"device '{device}'"):
            open_runtime(onnx_file, device=device)
    with pytest.raises(DeviceError, match="exported files compute in float32"):
        open_runtime(onnx_file, dtype="float16")
    with pytest.raises(InputError, match="unknown dtype 'float61'; did you mean 'float16'"):
        open_runtime(onnx_file, dtype="float61")


def test_runtime_follows_from_the_model(loaded: Path, tmp_path: Path) -> None:
    onnx_file = write_onnx(tmp_path / "a.onnx")
    assert isinstance(open_runtime(onnx_file, runtime="onnx"), ExportedRuntime)
    for model, name in ((onnx_file, f"{onnx_file}"), (None, "the embedded model")):
        with pytest.raises(InputError, match=f"^{re.escape(name)} runs on onnx, not on torch"):
            open_runtime(model, runtime="torch")
    with pytest.raises(InputError, match="is an exported file, fused as it was written: leave fuse out"):
        open_runtime(onnx_file, fuse=False)
    with pytest.raises(InputError, match="is an exported file, which is not compiled: leave compile out"):
        open_runtime(onnx_file, compiled=True)
    with pytest.raises(InputError, match="runs on torch, not on onnx: export it"):
        open_runtime(loaded, runtime="onnx")
    with pytest.raises(InputError, match="unknown runtime 'onx'; did you mean 'onnx'"):
        open_runtime(onnx_file, runtime="onx")
    with pytest.raises(InputError, match="unknown runtime '5'; known: auto, onnx"):
        open_runtime(onnx_file, runtime=5)
    with pytest.raises(InputError, match="the embedded model runs on onnx, not on openvino"):
        open_runtime(runtime="openvino")


def test_models_are_found_by_name_file_or_hub_id(tmp_path: Path) -> None:
    assert find_spec(None) == registry.spec(registry.DEFAULT_MODEL)
    assert find_spec("birefnet") == registry.spec("birefnet")
    assert find_spec("ZhengPeng7/BiRefNet") == registry.spec("birefnet")
    assert find_spec(write_onnx(tmp_path / "a.onnx")) is None
    with pytest.raises(UnknownModelError, match="did you mean 'birefnet'"):
        find_spec("birefnt")
    with pytest.raises(UnknownModelError, match=r"missing\.onnx does not exist"):
        find_spec(tmp_path / "missing.onnx")
    with pytest.raises(UnknownModelError, match="is a folder"):
        find_spec(tmp_path)


def test_without_torch_the_extra_is_named(loaded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match="the model 'maskformer-swin-tiny-ade' needs PyTorch"):
        open_runtime("maskformer-swin-tiny-ade")
    with pytest.raises(
        MissingExtraError, match=r"the model 'birefnet' needs PyTorch: pip install 'decoupe\[torch\]'"
    ):
        open_runtime("birefnet")


@pytest.mark.parametrize("library", ["torch", "onnxruntime", "openvino"])
def test_a_library_that_is_installed_and_does_not_work(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To install it once more would change nothing, and is what the message for a missing one says."""

    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == library:
                raise ImportError("libcudnn.so.9: cannot open shared object file", name=library)

    kept = {name for name in sys.modules if name.split(".")[0] == library}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    model = {"torch": "birefnet", "onnxruntime": None, "openvino": tmp_path / "a.xml"}[library]
    (tmp_path / "a.xml").touch()
    with pytest.raises(InstallationError, match=rf"^{library} is installed and does not work \(libcudnn"):
        open_runtime(model)


def test_importing_the_runtimes_imports_none() -> None:
    code = (
        "import sys, decoupe.runtimes; print({'torch', 'onnxruntime', 'huggingface_hub'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes_on_one_thread(loaded: Path) -> None:
    """On more it would wait for ever for threads that were not forked."""
    open_runtime(loaded)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which is the point
        if (child := os.fork()) == 0:
            os._exit(torch.get_num_threads())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    torch.set_num_threads(before)
