from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging.handlers
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import onnxruntime.quantization
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from typer.testing import CliRunner

import decoupe
from contract import picture, with_statistics
from decoupe import backbones, export
from decoupe.backbones.nano import Nano
from decoupe.backbones.pvt import ReducedAttention
from decoupe.backbones.swin import Swin, SwinConfig, WindowAttention
from decoupe.cli import app
from decoupe.commands import export as export_command
from decoupe.datasets.sets import Pair
from decoupe.errors import CheckpointError, ConfigError, InputError, ModelError, OutputError
from decoupe.export import forms, onnx_file, parity, program_file, quantization, two_scale
from decoupe.export.graphs import MatteGraph, SegmentGraph
from decoupe.layers.blocks import ASPP
from decoupe.models import BiRefNet, MaskFormer, fuse
from decoupe.models.birefnet import PRESETS, BiRefNetConfig
from decoupe.models.maskformer import MaskFormerConfig
from decoupe.weights.labels import NO_NAMES, Vocabulary
from decoupe.weights.registry import Preprocessing
from drawn import draw_pair
from inference.tiny import write_onnx
from test_imports import BLOCKED

PREPROCESSING = Preprocessing((320, 320), "keep", (64, 1024))
TWICE = Preprocessing((64, 64), "stretch", (32, 1024), two_scale=(80, 128))
EMBEDDED = Path(decoupe.weights.__file__).with_name("pocket.onnx")
EXAMPLE = Path(__file__).parents[1] / "examples" / "chelsea.jpg"

NARROW = SwinConfig(dim=16, depths=(2, 0, 0, 1), heads=(2, 1, 1, 2), window=5)
ONE_BLOCK = dataclasses.replace(NARROW, depths=(1, 0, 0, 0))
TRACED = ("swin", "segments")

Files = dict[str, Path]
FEW = ((2, 3, 4), (1, 7, 2), (3, 2, 3))  # of pixels that files are compared at here


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    """Small ones: tracing costs by parts, not widths. The Swin's windows are padded, shifted and several,
    and at its end larger than the map; stages between only halve their map, of which some are odd.

    One pyramid of deformable convolutions, in place of five, is enough to see them traced, and one residual
    block of the nano.
    """
    widths = {"context_width": 16, "block_width": 16, "inward_width": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "swin_t", functools.partial(Swin, NARROW))
        patch.setattr(Nano, "DEPTHS", (1, 0, 0, 0))
        torch.manual_seed(0)
        made = {
            "swin": BiRefNet(BiRefNetConfig("swin_t", squeeze="aspp_deformable", context="none", **widths)),
            "segments": segments("nano"),
        }
        patch.setitem(backbones.BACKBONES, "swin_t", functools.partial(Swin, ONE_BLOCK))
        made["swin segments"] = segments("swin_t")
    for module in (module for model in made.values() for module in model.modules()):
        if isinstance(module, WindowAttention):  # as they are drawn, all that it does hardly shows
            torch.nn.init.normal_(module.qkv.weight, std=0.2)
            for linear in (module.qkv, module.proj):
                torch.nn.init.normal_(linear.bias, std=0.3)
    return {name: with_statistics(model) for name, model in made.items()}


def segments(backbone: str) -> MaskFormer:
    small = {"width": 32, "heads": 2, "feed_forward": 32, "layers": 1, "pyramid_width": 64}
    return MaskFormer(MaskFormerConfig(backbone, classes=3, queries=5, **small))


@pytest.fixture(scope="module")
def programs(models: dict[str, torch.nn.Module]) -> dict[int, Any]:
    """What tracing gives, by how many weights a model has: it takes seconds, once for all tests.

    Nothing is told of it by the libraries beneath.
    """
    found = {}
    told = logging.handlers.BufferingHandler(100)
    logging.getLogger().addHandler(told)
    for model in map(models.__getitem__, TRACED):
        kind = SegmentGraph if isinstance(model, MaskFormer) else MatteGraph
        found[weights(model)] = onnx_file.trace(kind(forms.traceable(model)))
    logging.getLogger().removeHandler(told)
    assert not [record.getMessage() for record in told.buffer if record.levelno >= logging.WARNING]
    return found


def weights(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in forms.traceable(model).parameters())


@pytest.fixture
def traced(programs: dict[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def trace(graph: torch.nn.Module) -> Any:
        return copy.deepcopy(programs[sum(parameter.numel() for parameter in graph.parameters())])

    monkeypatch.setattr(onnx_file, "trace", trace)
    monkeypatch.setattr(parity, "SHAPES", FEW)


@pytest.fixture(scope="module")
def files(
    models: dict[str, torch.nn.Module],
    programs: dict[int, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Files:
    """Each exported, once for all tests."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            onnx_file,
            "trace",
            lambda graph: copy.deepcopy(programs[sum(each.numel() for each in graph.parameters())]),
        )
        patch.setattr(parity, "SHAPES", FEW)
        for name in TRACED:
            report = export.export_onnx(
                models[name],
                folder / f"{name}.onnx",
                preprocessing=PREPROCESSING,
                metadata={"name": f"tiny {name}"},
                vocabulary=Vocabulary(("cat", "dog", "mug")),
            )
            assert len({row.shape for row in report}) == 3
            assert all(row.agrees and not row.rounded for row in report)
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("shape", [(2, 128, 96), (1, 256, 352), (3, 32, 64)])
def test_other_sizes_and_batches_run_with_the_models_numbers(
    models: dict[str, torch.nn.Module], files: Files, shape: tuple[int, int, int]
) -> None:
    image = picture(*shape)
    with torch.inference_mode():
        expected = models["swin"](image).logits.sigmoid().numpy()
    (found,) = onnxruntime.InferenceSession(files["swin"]).run(None, {"image": image.numpy()})
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


@pytest.mark.usefixtures("traced")
def test_weights_in_half_precision(models: dict[str, torch.nn.Module], files: Files, tmp_path: Path) -> None:
    """They take half the place and change the alpha by no more than their rounding."""
    path = tmp_path / "half.onnx"
    report = export.export_onnx(
        models["swin"], path, preprocessing=PREPROCESSING, metadata={}, half_weights=True
    )
    assert all(row.agrees for row in report)
    assert any(row.rounded for row in report)
    assert path.stat().st_size < 0.7 * files["swin"].stat().st_size
    feeds = {"image": picture(2, 128, 96).numpy()}
    plain, half = (onnxruntime.InferenceSession(file).run(None, feeds)[0] for file in (files["swin"], path))
    assert 0 < np.abs(half - plain).max() < 2e-3


def test_standard_operators_alone(files: Files) -> None:
    for path in files.values():
        model = onnx.load(path)
        assert [opset.domain for opset in model.opset_import] == [""]
        assert not model.functions


def test_deformable_convolution_as_onnx_has_it(files: Files) -> None:
    nodes = onnx.load(files["swin"]).graph.node
    assert sum(node.op_type == "DeformConv" for node in nodes) == 4  # one pyramid's branches


@pytest.mark.usefixtures("traced")
def test_deformable_convolution_without_its_operator(
    models: dict[str, torch.nn.Module], tmp_path: Path
) -> None:
    """What the exporter writes behind it is made in its row: if it were not found, only time would tell."""
    path = tmp_path / "swin.onnx"
    report = export.export_onnx(
        models["swin"], path, preprocessing=PREPROCESSING, metadata={}, deform="gather"
    )
    assert all(row.agrees for row in report)
    model = onnx.load(path)
    assert [opset.domain for opset in model.opset_import] == [""]
    assert not model.functions
    assert "DeformConv" not in {node.op_type for node in model.graph.node}
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert len(scans) == 4
    for scan in scans:
        (body,) = (attribute.g for attribute in scan.attribute if attribute.name == "body")
        assert [node.op_type for node in body.node[-2:]] == ["Relu", "MatMul"]


@pytest.mark.parametrize(("options", "phased"), [({}, True), ({"deform": "gather"}, False)])
def test_the_default_form_is_traced_in_phases(
    models: dict[str, torch.nn.Module],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    phased: bool,
) -> None:
    """The others here are handed one graph for both."""

    def trace(graph: torch.nn.Module) -> None:
        assert any(isinstance(module, forms.PhasedContext) for module in graph.modules()) == phased
        raise ConfigError("seen")

    monkeypatch.setattr(onnx_file, "trace", trace)
    with pytest.raises(ConfigError, match="seen"):
        export.export_onnx(
            models["swin"], tmp_path / "swin.onnx", preprocessing=PREPROCESSING, metadata={}, **options
        )


def test_each_level_has_as_many_phases_as_always_divide_its_rows() -> None:
    """Sides are multiples of 32, so the map at a quarter of the size has a multiple of 8 rows."""
    form = forms.traceable(BiRefNet(BiRefNetConfig("nano", context_width=8, block_width=8)), phased=True)
    contexts = [block.context for block in form.decoder.blocks]
    assert all(isinstance(context, forms.PhasedContext) for context in contexts)
    assert [context.phases for context in contexts] == [1, 2, 4, 8]


@pytest.mark.parametrize("block", ["basic", "residual"])
def test_what_a_level_concatenates_fills_blocks(block: Any) -> None:
    """ONNX Runtime takes longer for a convolution of 50 channels than for one of 52."""
    model = with_statistics(BiRefNet(dataclasses.replace(PRESETS["pocket"], block=block)))
    form = forms.traceable(model)
    assert [block.reduce[0].in_channels % 16 for block in model.decoder.blocks] == [8, 8, 6, 13]
    assert [block.reduce[0].in_channels % 4 for block in form.decoder.blocks] == [0] * 4
    image = picture(1, 96, 64)
    with torch.inference_mode():
        torch.testing.assert_close(form(image).logits, model(image).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 96, 64), (2, 32, 128)])
def test_phases_of_an_exported_file(phased: dict[str, Any], shape: tuple[int, int, int]) -> None:
    image = picture(*shape)
    with torch.inference_mode():
        found = {name: phased[name](image).numpy() for name in ("plain", "eight", "two branches")}
    (found["traced"],) = phased["traced"].run(None, {"image": image.numpy()})
    for one, other in (("eight", "plain"), ("traced", "two branches")):
        assert np.abs(found[one] - found[other]).max() < 1e-5 * found[other].std()


@pytest.fixture(scope="module")
def phased() -> dict[str, Any]:
    """A context module at a quarter of the picture's size: plain; in the eight phases of a level, by torch.

    Two of its branches; traced in two phases, by ONNX Runtime: tracing costs by the branch and phase. Those
    are the one that pads nothing and the one that pads most.
    """

    class Quarter(torch.nn.Module):
        inputs, outputs = ("image",), ("found",)

        def __init__(self, context: torch.nn.Module) -> None:
            super().__init__()
            self.context = context

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.context(torch.nn.functional.avg_pool2d(image, 4))

    plain = with_statistics(ASPP(3, 4, width=8, deformable=True))
    context = fuse.Context(fuse.fold_(copy.deepcopy(plain)))
    eight = Quarter(forms.PhasedContext(context, 8))
    few = copy.deepcopy(context)
    few.branches = few.branches[::3]
    graph = onnx_file.trace(Quarter(forms.PhasedContext(few, 2)))
    strides = [
        [list(attribute.ints) for attribute in node.attribute if attribute.name == "strides"]
        for node in graph.graph.node
        if node.op_type == "DeformConv"
    ]
    assert strides == [[[2, 1]]] * 2 * 2
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    return {"plain": Quarter(plain), "eight": eight, "two branches": Quarter(few), "traced": session}


def test_the_file_tells_what_it_needs(files: Files) -> None:
    stored = onnxruntime.InferenceSession(files["swin"]).get_modelmeta().custom_metadata_map
    assert stored["decoupe.name"] == "tiny swin"
    assert Preprocessing(**json.loads(stored["decoupe.preprocessing"])).fit == "keep"
    for path in files.values():
        assert b"/work/" not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def looking(body: str, inputs: str, weight: float) -> Any:
    return onnx.parser.parse_model(f"""<ir_version: 9, opset_import: ["" : 20]>
        g ({inputs}) => (float[batch, 1, height, width] alpha)
        <float[1, 3, 1, 1] kernel = {{1.0, 2.0, 3.0}}, float[1] own = {{{weight}}}> {{ {body} }}""")


def test_the_closer_look_is_taken_where_it_is_given(tmp_path: Path) -> None:
    """Weights that are equal are stored once; what has the same name and differs is kept apart."""
    image = "float[batch, 3, height, width] image"
    once = looking("x = Conv (image, kernel) alpha = Mul (x, own)", image, 2.0)
    body = "y = Conv (image, kernel) x = ReduceMax <keepdims = 0> (low) z = Add (y, x) alpha = Mul (z, own)"
    twice = looking(body, f"{image}, float[batch, 3, h, w] low", 5.0)
    model = two_scale.joined(once, twice)
    assert sum(tensor.name == "kernel" for tensor in model.graph.initializer) == 1
    onnx.helper.set_model_props(model, {"decoupe.preprocessing": json.dumps(dataclasses.asdict(TWICE))})
    onnx.save(model, tmp_path / "two.onnx")
    predictor = decoupe.load(tmp_path / "two.onnx")
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype(np.float32)
    low = np.full((2, 3, 2, 2), 7, np.float32)
    seen = (images * np.array([1, 2, 3]).reshape(3, 1, 1)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predictor.runtime(images), 2 * seen, rtol=1e-5)
    np.testing.assert_allclose(predictor.runtime(images, low), 5 * (seen + 7), rtol=1e-5)
    folder = photographs(tmp_path / "set", 2) / "im"
    with pytest.raises(InputError, match="looks twice at large pictures: quantise a file that looks once"):
        quantization.quantise(tmp_path / "two.onnx", tmp_path / "small.onnx", folder, most=1)


def test_segments_need_nothing_else(models: dict[str, torch.nn.Module], files: Files, tmp_path: Path) -> None:
    segmenter = decoupe.load(files["segments"])
    assert isinstance(segmenter, decoupe.Segmenter)
    assert segmenter.vocabulary.names == ("cat", "dog", "mug")
    image = picture(2, 96, 160)
    with torch.inference_mode():
        out = models["segments"](image)
    classes, masks = segmenter.runtime(image.numpy())
    assert np.abs(classes - out.class_logits.numpy()).max() < 1e-4 * float(out.class_logits.std())
    assert np.abs(masks - out.mask_logits.numpy()).max() < 1e-4 * float(out.mask_logits.std())
    target = tmp_path / "labels.json"
    ran = CliRunner().invoke(
        app, ["segment", str(EXAMPLE), "-m", str(files["segments"]), "-o", str(tmp_path / "s.png")]
    )
    assert ran.exit_code == 0, ran.output
    assert not target.exists()


WITHOUT_TORCH = (
    BLOCKED
    + """
from decoupe.cli import main
sys.argv[1:] = ["cut", sys.argv[1], "-m", sys.argv[2], "-o", sys.argv[3]]
try:
    main()
except SystemExit as ending:
    assert not ending.code, ending.code
assert "torch" not in sys.modules
"""
)


def test_an_exported_file_runs_without_torch(files: Files, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, EXAMPLE, files["swin"], tmp_path / "cut.png"]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    with Image.open(tmp_path / "cut.png") as cutout:
        assert cutout.mode == "RGBA"


@pytest.mark.usefixtures("traced")
def test_preprocessing_inside_the_file(
    models: dict[str, torch.nn.Module], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "checked", lambda *_: [])  # what `files` has been
    path = tmp_path / "pixels.onnx"
    export.export_onnx(
        models["swin"], path, preprocessing=PREPROCESSING, metadata={}, pixels=True, force=True
    )
    session = onnxruntime.InferenceSession(path)
    photograph = np.asarray(Image.open(EXAMPLE))
    (alpha,) = session.run(None, {"picture": photograph[None]})
    assert alpha.shape == (1, 1, *photograph.shape[:2])
    outside = decoupe.load(files["swin"], guided=False)(photograph).alpha
    # ONNX Runtime rounds a few of the bytes that it resizes otherwise than Pillow does.
    assert np.abs(alpha[0, 0] - outside).mean() < 1e-4
    predictor = decoupe.load(path)
    np.testing.assert_allclose(predictor(photograph).alpha, alpha[0, 0], atol=1e-6)
    # The range of sizes is of what the network inside sees: no photograph is too large for the file.
    large = np.asarray(Image.fromarray(photograph).resize((1400, 930)))
    (alpha,) = session.run(None, {"picture": large[None]})
    np.testing.assert_allclose(predictor(large).alpha, alpha[0, 0], atol=1e-6)
    with pytest.raises(InputError, match="chooses the size by itself"):
        decoupe.load(path, size=64)


def test_the_callers_model_stays_as_it_is(models: dict[str, torch.nn.Module]) -> None:
    mine = copy.deepcopy(models["swin"]).train()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    forms.traceable(mine)
    assert export.prepared(mine) is not mine
    assert mine.training
    assert mine.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("difference", [float("nan"), 1.1 * export.PARITY])
def test_a_file_that_differs_is_not_written_unless_forced(
    models: dict[str, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    rows = [export.Parity((1,), each, 0.0) for each in (1e-9, difference)]
    monkeypatch.setattr(export, "checked", lambda *_: rows)
    options: dict[str, Any] = {"preprocessing": PREPROCESSING, "metadata": {}}
    with pytest.raises(ConfigError, match=r"differs from torch in float64 by .*--force keeps it"):
        export.export_onnx(models["swin"], tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []
    export.export_onnx(models["swin"], tmp_path / "a.onnx", force=True, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


def test_what_stands_in_the_way_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decoupe.weights.load_model", lambda _: pytest.fail("it was opened"))
    ran = CliRunner().invoke(app, ["export", "pocket", str(tmp_path / "no" / "a.onnx")])
    assert ran.exit_code == 2
    assert "its folder does not exist: create" in ran.stderr
    (tmp_path / "a.onnx").write_text("mine")
    ran = CliRunner().invoke(app, ["export", "pocket", str(tmp_path / "a.onnx")])
    assert "a.onnx exists: add --overwrite" in ran.stderr


def test_both_files_of_openvino_are_kept_and_so_is_the_model_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decoupe.weights.load_model", lambda _: pytest.fail("it was opened"))
    (tmp_path / "pytorch_model.bin").write_text("mine")
    command = ["export", str(tmp_path / "pytorch_model.bin"), str(tmp_path / "pytorch_model.xml")]
    ran = CliRunner().invoke(app, command)
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "pytorch_model.bin exists: add --overwrite" in ran.stderr
    ran = CliRunner().invoke(app, [*command, "--overwrite"])
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert "pytorch_model.bin is the model that is read: name another output" in ran.stderr
    assert (tmp_path / "pytorch_model.bin").read_text() == "mine"


def test_a_hub_id_brings_the_catalogue_s_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SimpleNamespace(
        model=None, family="birefnet", preprocessing=TWICE, vocabulary=NO_NAMES, licence=""
    )
    stored: list[str] = []
    monkeypatch.setattr(decoupe.weights, "load_model", lambda name: loaded)
    monkeypatch.setattr(
        export, "export_onnx", lambda *_, metadata, **__: stored.append(metadata["licence"]) or []
    )
    for model in ("rmbg-2.0", "briaai/RMBG-2.0", "someone/else"):
        ran = CliRunner().invoke(app, ["export", model, str(tmp_path / "a.onnx")])
        assert ran.exit_code == 0, ran.output
    assert stored == ["CC-BY-NC-4.0", "CC-BY-NC-4.0", ""]


def test_what_may_be_lost_is_of_8_bits(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app, ["export", "pocket", str(tmp_path / "a.onnx"), "--most-lost", "0.1"])
    assert (ran.exit_code, len(ran.stderr.splitlines())) == (2, 1)
    assert "--most-lost goes with --int8: add --int8" in ran.stderr


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--deform", "gathr"], "unknown form of deformable convolution 'gathr'; did you mean 'gather'?"),
        (["--int8", "nowhere"], "--int8 nowhere is not a folder: name one that holds photographs"),
        (["--int8", ".", "--most-lost", "nan"], "--most-lost is nan, expected a number from 0 to 1"),
    ],
)
def test_what_can_be_known_is_told_before_the_work(
    options: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a download, and minutes of tracing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decoupe.weights, "load_model", lambda name: pytest.fail("the model was loaded"))
    ran = CliRunner().invoke(app, ["export", "birefnet", "a.ONNX", *options])
    assert ran.exit_code == 2
    assert line in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_more_than_such_a_file_can_hold(
    models: dict[str, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "LARGEST", 1000)
    with pytest.raises(ConfigError, match=r"GB of weights, .* export it to \.pt2"):
        export.export_onnx(models["swin"], tmp_path / "a.onnx", preprocessing=PREPROCESSING, metadata={})


def test_what_differs_is_found() -> None:
    def wrong(image: np.ndarray) -> list[np.ndarray]:
        return [image * 1.001 if len(image) == 3 else image]

    report = parity.compared(lambda image: image, wrong)
    assert [row.agrees for row in report] == [row.shape[0] != 3 for row in report]


@pytest.mark.usefixtures("traced")
def test_an_output_that_cannot_be_written(
    models: dict[str, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "checked", lambda *_: [])
    with pytest.raises(OutputError, match="cannot be written"):
        export.export_onnx(
            models["swin"],
            tmp_path / "no" / "a.onnx",
            preprocessing=PREPROCESSING,
            metadata={},
            force=True,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [({"deform": "onyx"}, "did you mean 'onnx'"), ({"pixels": True}, "models that give mattes")],
)
def test_forms_that_there_are_not(
    models: dict[str, torch.nn.Module], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        export.export_onnx(
            models["segments"], tmp_path / "a.onnx", preprocessing=PREPROCESSING, metadata={}, **options
        )


def cut(*options: object) -> Any:
    return CliRunner().invoke(app, ["cut", str(EXAMPLE), *map(str, options)])


def test_files_of_others_are_fed_as_told(tmp_path: Path) -> None:
    path, target = write_onnx(tmp_path / "any.onnx", None), tmp_path / "matte.png"
    told = ("--input-size", "96x64", "--mean", "0.5,0.4,0.3", "--std", "0.5", "--matte", "--no-guided")
    ran = cut("-m", path, "-o", target, *told)
    assert ran.exit_code == 0, ran.output
    red, green, blue = np.asarray(Image.open(EXAMPLE).resize((96, 64), Image.Resampling.BILINEAR)).T / 255
    logits = (3 * (red - 0.5) - 1.5 * (green - 0.4) - 1.5 * (blue - 0.3)).T / 0.5
    found = np.asarray(Image.open(target).resize((96, 64), Image.Resampling.BILINEAR)) / 255
    assert np.abs(found - 1 / (1 + np.exp(-logits))).mean() < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5"), "add --input-size N"),
        (("--input-size", "native"), "expected N or WxH"),
        (("--input-size", "64", "--mean", "1,2"), "--mean is '1,2', expected three numbers"),
        (("--input-size", "64", "--std", "0"), "expected numbers above 0"),
        (("--input-size", "64"), "takes 48×32 only, not 64×64: give --input-size 48x32"),
    ],
)
def test_a_wrong_feeding_is_one_line(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    path = write_onnx(tmp_path / "any.onnx", None, shape=(1, 3, 32, 48))
    ran = cut("-m", path, "-o", tmp_path / "cut.png", *options)
    assert ran.exit_code != 0
    assert message in ran.stderr
    assert "Traceback" not in ran.output


def test_decoupes_own_files_are_not_fed_otherwise(tmp_path: Path) -> None:
    ran = cut("-m", write_onnx(tmp_path / "ours.onnx"), "-o", tmp_path / "a.png", "--input-size", "64")
    assert "tells its own size and normalisation" in ran.stderr


@pytest.mark.usefixtures("traced")
def test_openvino(models: dict[str, torch.nn.Module], tmp_path: Path) -> None:
    """With a Swin and deformable convolutions; what other models have, these have too."""
    pytest.importorskip("openvino")
    from decoupe.export.openvino_file import export_openvino

    path = tmp_path / "model.xml"
    report = export_openvino(models["swin"], path, preprocessing=PREPROCESSING, metadata={"name": "tiny"})
    assert all(row.agrees for row in report)
    predictor = decoupe.load(path, guided=False)
    assert (predictor.runtime.name, predictor.preprocessing) == ("tiny", PREPROCESSING)
    assert "tiny on cpu in float32 by OpenVINO" in repr(predictor)
    image = picture(1, 96, 64)
    with torch.inference_mode():
        expected = models["swin"](image).logits.sigmoid().numpy()
    assert np.abs(predictor.runtime(image.numpy()) - expected).max() < 1e-4 * expected.std()
    with pytest.raises(ModelError, match=r"reshape: the shape of input data .* conflicts"):
        predictor.runtime(np.zeros((1, 3, 40, 64), np.float32))
    path.with_suffix(".bin").unlink()
    with pytest.raises(CheckpointError, match=r"not a usable OpenVINO model .*bin file.*: export it again"):
        decoupe.load(path)


def test_a_program_of_torch_export(
    models: dict[str, torch.nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a Swin, whose operators the program names; two outputs, and the names of classes."""
    monkeypatch.setattr(parity, "SHAPES", FEW)
    path, words = tmp_path / "segments.pt2", Vocabulary(("cat", "dog", "mug"))
    # Each operator is seen once: to remember what it gave takes longer.
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        report = program_file.export_program(
            models["swin segments"], path, preprocessing=TWICE, metadata={"name": "tiny"}, vocabulary=words
        )
    assert [row.agrees for row in report] == [True] * len(FEW)
    segmenter = decoupe.load(path, trust=True)
    assert (segmenter.runtime.name, segmenter.vocabulary) == ("tiny", words)
    assert "tiny on cpu in float32 by torch.export" in repr(segmenter)
    assert segmenter.preprocessing == dataclasses.replace(TWICE, two_scale=None)
    image = picture(2, 96, 160)
    with torch.inference_mode():
        out = models["swin segments"](image)
    classes, masks = segmenter.runtime(image.numpy())
    assert np.abs(classes - out.class_logits.numpy()).max() < 1e-4 * float(out.class_logits.std())
    assert np.abs(masks - out.mask_logits.numpy()).max() < 1e-4 * float(out.mask_logits.std())
    with pytest.raises(ModelError, match="cannot compute 1×3×40×64 images"):
        segmenter.runtime(np.zeros((1, 3, 40, 64), np.float32))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(CheckpointError, match=r"not a usable program of torch\.export .*: export it again"):
        decoupe.load(path, trust=True)


def test_a_program_is_not_opened_unless_trusted(tmp_path: Path) -> None:
    """Not even looked into: opening runs what its maker put in."""
    path = tmp_path / "strange.pt2"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="can run any code that its maker put in"):
        decoupe.load(path)
    ran = cut("-m", path, "-o", tmp_path / "cut.png")
    assert (ran.exit_code, "--trust" in ran.stderr) == (2, True)
    with pytest.raises(InputError, match="can run any code that its maker put in"):
        _ = decoupe.load(segments=path).segmenter
    with pytest.raises(CheckpointError, match="not a usable program"):
        _ = decoupe.load(segments=path, trust=True).segmenter
    ran = cut("--what", "list", "--segments", path, "--trust")
    assert (ran.exit_code, "not a usable program" in ran.stderr) == (2, True)
    with pytest.raises(CheckpointError, match="is an exported model"):
        decoupe.weights.load_model(path)


def test_a_vision_transformer_is_traced_at_any_size() -> None:
    sincos = pytest.importorskip("timm.layers.pos_embed_sincos")
    for half in (True, False):
        rope = sincos.RotaryEmbeddingDinoV3(16, temperature=100.0, rotate_half=half)
        torch.testing.assert_close(forms.TracedRope(rope).get_embed((3, 5)), rope.get_embed((3, 5)))


def test_the_smallest_maps_of_a_pvt_are_padded_at_any_size() -> None:
    """A side of 32 pixels is seen at half its size too: there it has fewer cells than become one key."""

    class Half(torch.nn.Module):
        inputs, outputs = ("image",), ("found",)

        def __init__(self) -> None:
            super().__init__()
            self.attention = ReducedAttention(3, 1, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.attention(torch.nn.functional.avg_pool2d(image, 8).permute(0, 2, 3, 1))

    graph = Half().eval()
    session = onnxruntime.InferenceSession(onnx_file.trace(graph).SerializeToString())
    for rows, columns in ((32, 32), (32, 160), (96, 32), (64, 96)):
        image = picture(2, rows, columns)
        with torch.inference_mode():
            expected = graph(image)
        (found,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), expected)


def photographs(folder: Path, count: int) -> Path:
    for row in range(count):
        draw_pair(folder, f"{row:02}", seed=row)
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs: photographs, turned and lit differently, and what the embedded model makes of them."""
    folder = tmp_path_factory.mktemp("examples")
    for part in ("im", "gt"):
        (folder / part).mkdir()
    for name in ("astronaut", "chelsea", "coffee"):
        with Image.open(EXAMPLE.with_name(f"{name}.jpg")) as photograph:
            for number, light in enumerate((0.8, 1.2)):
                turned = ImageOps.mirror(photograph) if number % 2 else photograph
                picture = ImageEnhance.Brightness(turned).enhance(light)
                picture.save(folder / "im" / f"{name}-{number}.jpg")
                decoupe.cut(picture).edited(threshold=0.5).mask().save(folder / "gt" / f"{name}-{number}.png")
    return folder


@pytest.fixture(scope="module")
def quantised(examples: Path) -> tuple[Path, quantization.Effect]:
    """The embedded model in 8 bits, which takes seconds, and what that changed."""
    target = examples / "small.onnx"
    return target, quantization.quantise(EMBEDDED, target, examples, most=0.05)


@pytest.fixture
def read(quantised: tuple[Path, quantization.Effect], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is calibrated on; ONNX Runtime's quantiser hands over the file that it has made once."""
    inputs: list[Any] = []

    def quantize_static(source: Path, target: Path, reader: Any, **_: Any) -> None:
        onnx.checker.check_model(source)
        inputs.extend(iter(reader.get_next, None))
        shutil.copy(quantised[0], target)

    monkeypatch.setattr(onnxruntime.quantization, "quantize_static", quantize_static)
    return inputs


def test_8_bits(quantised: tuple[Path, quantization.Effect]) -> None:
    target, effect = quantised
    assert effect.pictures == 4
    assert effect.before is not None
    assert 0 < effect.alpha < 0.05
    graph = onnx.load(target).graph
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
    weights = [array for array in arrays if array.dtype == np.int8 and array.ndim == 4]
    assert 60 <= max(int(np.abs(array.astype(int)).max()) for array in weights) <= 64  # see `calibrate`
    assert target.stat().st_size < EMBEDDED.stat().st_size
    plain, small = (decoupe.load(path)(EXAMPLE).alpha for path in (EMBEDDED, target))
    assert np.abs(plain - small).mean() < 0.05


def test_8_bits_of_photographs_without_masks(
    examples: Path, quantised: tuple[Path, quantization.Effect], read: list[Any], tmp_path: Path
) -> None:
    target = tmp_path / "small.onnx"
    effect = quantization.quantise(EMBEDDED, target, examples / "im", most=0.05)
    assert len(read) == 2
    assert effect.pictures == 4
    assert effect.before is None
    assert effect.alpha == quantised[1].alpha
    assert target.read_bytes() == quantised[0].read_bytes()


def test_photographs_and_masks_by_other_names(examples: Path, tmp_path: Path) -> None:
    for one, other in (("im", "images"), ("gt", "masks")):
        shutil.copytree(examples / one, tmp_path / other)
    parts = quantization.parts_of(tmp_path)
    assert [len(part) for part in parts] == [2, 4]
    assert all(isinstance(picture, Pair) for part in parts for picture in part)


def test_8_bits_look_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exported to be quantised has no second input, whatever the model asks for."""
    loaded = SimpleNamespace(
        model=None, family="inspyrenet", preprocessing=TWICE, vocabulary=NO_NAMES, licence=""
    )
    exported: list[Preprocessing] = []
    monkeypatch.setattr(decoupe.weights, "load_model", lambda name: loaded)
    monkeypatch.setattr(
        export, "export_onnx", lambda *_, preprocessing, **__: exported.append(preprocessing) or []
    )
    monkeypatch.setattr(quantization, "quantise", lambda *_, **__: quantization.Effect(1, 0.0))
    monkeypatch.setattr(quantization, "parts_of", lambda folder: ([], []))
    told = CliRunner().invoke(app, ["export", "pocket", str(tmp_path / "a.onnx"), "--int8", str(tmp_path)])
    assert (told.exit_code, exported) == (0, [dataclasses.replace(TWICE, two_scale=None)])


def test_8_bits_that_lose_too_much_are_not_kept(read: list[Any], tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(EXAMPLE, tmp_path / "two" / name)
    with pytest.raises(ConfigError, match="of alpha on average, at most 0 is allowed: not written"):
        quantization.quantise(EMBEDDED, tmp_path / "a.onnx", tmp_path / "two", most=0)
    assert len(read) == 1
    with pytest.raises(InputError, match="holds 1 photographs, expected at least 2"):
        quantization.quantise(EMBEDDED, tmp_path / "a.onnx", photographs(tmp_path / "one", 1) / "im", most=1)
    assert not (tmp_path / "a.onnx").exists()


def test_what_calibration_warns_of_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quantise(source: Path, target: Path, folder: Path, *, most: float) -> quantization.Effect:
        warnings.warn(f"{folder} has several frames: the first is read", decoupe.FramesWarning, stacklevel=1)
        return quantization.Effect(1, most)

    monkeypatch.setattr(export, "export_onnx", lambda *_, **__: [])
    monkeypatch.setattr(quantization, "quantise", quantise)
    monkeypatch.setattr(quantization, "parts_of", lambda folder: ([], []))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    done = CliRunner().invoke(app, ["export", "pocket", str(tmp_path / "a.onnx"), "--int8", "photos"])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[0] == "decoupe: photos has several frames: the first is read"


def test_the_verdict_says_what_it_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    plain = export.Parity((1, 3, 64, 64), 1e-6, 1e-7)
    halved = dataclasses.replace(plain, largest=3.6e-3, rounded=True)
    for rows, verdict in (
        ([plain], "equal: at most 0.0001 of the spread is right"),
        (
            [plain, halved],
            "before the weights were rounded equal: at most 0.0001 of the spread is right; "
            "what rounding changes is told and not judged",
        ),
        (
            [dataclasses.replace(plain, largest=1), halved],
            "before the weights were rounded not equal, kept by --force: at most 0.0001 of the spread is "
            "right; what rounding changes is told and not judged",
        ),
    ):
        export_command.tell(rows)
        assert capsys.readouterr().err.splitlines()[-1] == f"decoupe: {verdict}"


def test_a_size_that_cannot_be_free_is_told() -> None:
    class Fixed(torch.nn.Module):
        inputs, outputs = ("image",), ("alpha",)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * int(image.shape[2])

    with pytest.raises(ConfigError, match="cannot be traced with free sizes"):
        onnx_file.captured(Fixed())
