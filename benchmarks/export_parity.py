"""Which runtime gives which model's numbers, at sizes and batches that were not traced.

    python benchmarks/export_parity.py [CONFIGURATION ...] [--only COLUMN ...] [--page docs/export.md]

A row a configuration, each in a process of its own: the largest difference from PyTorch in float64, of the
output's spread, of the exported file in ONNX Runtime (as it is by default, and with deformable convolutions
gathered), in OpenVINO and as a program of torch.export. Where a runtime refuses, the cell says "no", and why
is told on standard error. Weights are those of the golden cases (tests/golden), which keep maps in a healthy
range.
--only measures some columns; --page puts what was found into the table of that page, cell by cell.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # for the golden cases

from machine import machine, parser_of, print_table, versions

SHAPES = ((1, 13, 5), (3, 4, 7))
"""Batch, rows and columns of 32 pixels; (2, 9, 13) is traced."""

COLUMNS = ("ONNX Runtime", "ONNX Runtime, gathered", "OpenVINO", "torch.export")
MARKS = ("<!-- runtimes -->", "<!-- end of runtimes -->")


CASES = {
    "BiRefNet Swin-T (lite)": "birefnet_swin_v1_t",
    "BiRefNet Swin-L": "birefnet_swin_v1_l",
    "BiRefNet PVT": "birefnet_pvt_v2_b0",
    "BiRefNet ResNet": "birefnet_resnet50",
    "BiRefNet VGG": "birefnet_vgg16bn",
    "BiRefNet DINOv3": "birefnet_dino_v3_s",
    "BiRefNet ASPP, residual, added scales": "birefnet_aspp_resblk_add",
    "InSPyReNet Swin-B": "inspyrenet_swin_b",
    "InSPyReNet Res2Net": "inspyrenet_res2net50",
    "MaskFormer Swin-T": "maskformer_swin_t",
    "MaskFormer ResNet": "maskformer_resnet50",
}
WHOLE = ", inward not split"
TWICE = ", two looks"


def configurations() -> list[str]:
    """Names of what is measured: the golden cases, and BiRefNets whose inward reference is not split."""
    return [*CASES, *(f"{name}{WHOLE}" for name in list(CASES)[:6]), "BiRefNet pocket"]


def model_of(name: str) -> Any:
    """The model of a configuration; weights that the golden cases do not hold are cut out of theirs."""
    import torch

    from decoupe.models import BiRefNet
    from decoupe.weights import load_model
    from golden_cases import GoldenCase

    if name == "BiRefNet pocket":
        return load_model("pocket").model
    model = GoldenCase(CASES[name.removesuffix(WHOLE)]).model(torch.float32)
    if not name.endswith(WHOLE):
        return model
    whole = BiRefNet(replace(model.config, inward="resize")).eval()
    state = whole.state_dict()
    for key, tensor in model.state_dict().items():
        if (count := state[key].shape[1:2]) != tensor.shape[1:2]:  # a convolution of fewer channels
            tensor = tensor[:, : count[0]] * (tensor.shape[1] / count[0]) ** 0.5
        state[key] = tensor
    whole.load_state_dict(state)
    return whole


def measure(name: str, only: Sequence[str]) -> dict[str, list[str]]:
    """The cells of a configuration's rows, by the row's name."""
    import torch

    from decoupe.export import forms, graph_of, graphs, onnx_file, openvino_file, outputs_of
    from decoupe.export.gathering import without_deform_conv
    from decoupe.runtimes.sessions import OpenVinoSession, OrtSession, ProgramSession
    from decoupe.weights.registry import Preprocessing

    model = model_of(name)
    wanted = functools.cache(functools.partial(computed, outputs_of(model)))
    looks = 2 if name.startswith("InSPyReNet") else 1
    once = Preprocessing((64, 64), "stretch", (32, 1024))

    def cell(looks: int, session: Callable[[], Any]) -> str:
        try:
            return f"{difference(wanted, session(), looks):.1e}"
        except Exception as error:  # whatever a runtime raises
            print(f"{name}: {' '.join(str(error).split())[-300:]}", file=sys.stderr)
            return "no"

    with tempfile.TemporaryDirectory() as folder:

        def written(proto: Any) -> Path:
            path = Path(folder, f"{time.monotonic_ns()}.onnx")
            path.write_bytes(onnx_file.finish(proto, {}))
            return path

        @functools.cache
        def default() -> Path:
            preprocessing = replace(once, two_scale=(80, 128)) if looks == 2 else once
            return written(graph_of(model, preprocessing, phased=True))

        @functools.cache
        def plain() -> Any:
            return graph_of(model, once)

        def converted() -> Any:
            import openvino

            path = Path(folder, "model.xml")
            openvino.save_model(openvino_file.convert(written(plain())), path, compress_to_fp16=False)
            return OpenVinoSession(path, "cpu")

        def program() -> Any:
            kind = graphs.SegmentGraph if name.startswith("MaskFormer") else graphs.MatteGraph
            with torch.no_grad():
                captured = onnx_file.captured(kind(forms.traceable(model)), gridded=False)
            path = Path(folder, "model.pt2")
            with path.open("wb") as file:
                torch.export.save(captured, file)
            return ProgramSession(path, "cpu")

        openers = {
            COLUMNS[0]: lambda: OrtSession(default(), "cpu"),
            COLUMNS[1]: lambda: OrtSession(written(without_deform_conv(plain())), "cpu"),
            COLUMNS[2]: converted,
            COLUMNS[3]: program,
        }
        if COLUMNS[1] in only and all(node.op_type != "DeformConv" for node in plain().graph.node):
            del openers[COLUMNS[1]]
        # OpenVINO's file is made first: gathering changes the graph.
        cells = {
            column: cell(1, openers[column]) for column in reversed(COLUMNS) if column in {*only} & {*openers}
        }
        rows = {name: [cells.get(column, "") for column in COLUMNS]}
        if looks == 2 and COLUMNS[0] in only:
            rows[f"{name}{TWICE}"] = [cell(2, openers[COLUMNS[0]]), "", "", ""]
    return rows


def computed(exact: Callable[..., Any], looks: int, shape: tuple[int, int, int]) -> list[Any]:
    """What a file should give: its outputs for `pictures`, one at a time."""
    import torch

    with torch.inference_mode():
        each = [exact(*one) for one in zip(*(one.split(1) for one in pictures(looks, shape)), strict=True)]
    each = [[found] if isinstance(found, torch.Tensor) else found for found in each]
    return [torch.cat(parts).numpy() for parts in zip(*each, strict=True)]


def pictures(looks: int, shape: tuple[int, int, int]) -> list[Any]:
    """Batches of a shape, and of a smaller one for the second look."""
    from decoupe.export import parity

    batch, rows, columns = shape
    sides = ((rows, columns), (4, 5))[:looks]
    return [parity.drawn(batch, 32 * h, 32 * w, seed=h) for h, w in sides]


def difference(wanted: Callable[..., list[Any]], session: Any, looks: int) -> float:
    """The largest difference at any shape, of the spread."""
    from decoupe.export import parity

    largest = 0.0
    for shape in SHAPES:
        given = [picture.numpy() for picture in pictures(looks, shape)]
        given.append(np.zeros((shape[0], 3, 0, 0), np.float32))  # where a file takes two and gets one
        found = session.run(dict(zip((port.name for port in session.inputs), given, strict=False)))
        for one, other in zip(wanted(looks, shape), found, strict=True):
            spread = max(float(one.std()), parity.LEAST_SPREAD)
            largest = float(np.maximum(largest, np.abs(other - one).max() / spread))  # NaN stays
    return largest


def put(page: Path, rows: dict[str, list[str]]) -> None:
    """The rows in the page's table; the head of it names the machine."""
    before, rest = page.read_text().split(MARKS[0])
    table, after = rest.split(MARKS[1])
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    kept = {line[0]: line[1:] for line in lines if len(line) == len(COLUMNS) + 1 and line[0] in order()}
    for name, cells in rows.items():
        held = kept.get(name, [""] * len(COLUMNS))
        kept[name] = [new or old for new, old in zip(cells, held, strict=True)]
    ordered = [[name, *kept[name]] for name in order() if name in kept]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print_table(["largest difference", *COLUMNS], ordered)
    page.write_text(f"{before}{MARKS[0]}\n\n{out.getvalue()}\n{MARKS[1]}{after}")


def order() -> list[str]:
    """Names of rows as the table has them."""
    names = []
    for name in configurations():
        names += [name, f"{name}{TWICE}"] if name.startswith("InSPyReNet") else [name]
    return names


def main() -> None:
    """Print the machine and the table."""
    parser = parser_of(__doc__)
    parser.add_argument("names", nargs="*", metavar="CONFIGURATION")
    parser.add_argument("--only", nargs="+", choices=COLUMNS, default=list(COLUMNS), metavar="COLUMN")
    parser.add_argument("--page", type=Path, help="put the rows into its table")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.only)))
        return
    print(f"{machine()}; {versions('torch', 'onnx', 'onnxscript', 'onnxruntime', 'openvino')}\n", flush=True)
    found: dict[str, list[str]] = {}
    for name in options.names or configurations():
        begun = time.perf_counter()
        command = [sys.executable, __file__, "--one", name, "--only", *options.only]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if ran.returncode:
            print(f"{name}: failed with status {ran.returncode}", file=sys.stderr)
            continue
        rows = json.loads(ran.stdout.splitlines()[-1])
        found |= rows
        print(f"{name}: {time.perf_counter() - begun:.0f} s, {rows}", file=sys.stderr, flush=True)
        if options.page:
            put(options.page, rows)
    print_table(["largest difference", *COLUMNS], [[name, *cells] for name, cells in found.items()])


if __name__ == "__main__":
    main()
