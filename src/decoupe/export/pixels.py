"""Preprocessing inside the file: pictures of bytes in, alpha at their own size out."""

from __future__ import annotations

from typing import Any

from decoupe.inference.preprocess import LONGEST_ASPECT
from decoupe.weights.registry import Preprocessing

# A side of the network's input that keeps the picture's aspect ratio: a multiple, the nearest in float64.
_KEPT = """
        pixels_square_{side} = {scale} (pixels_area, pixels_aspect)
        pixels_ideal_{side} = Sqrt (pixels_square_{side})
        pixels_steps_{side} = Div (pixels_ideal_{side}, pixels_multiple)
        pixels_round_{side} = Round (pixels_steps_{side})
        pixels_least_{side} = Max (pixels_round_{side}, pixels_one)
        pixels_float_{side} = Mul (pixels_least_{side}, pixels_multiple)
        pixels_{side} = Cast <to = 7> (pixels_float_{side})
"""
# Both sides, int64 (1) each.
_SIDES = {
    "stretch": """
        pixels_h = Constant <value_ints = [{height}]> ()
        pixels_w = Constant <value_ints = [{width}]> ()
""",
    "keep": _KEPT.format(side="h", scale="Div") + _KEPT.format(side="w", scale="Mul"),
}

_BEFORE = """
<ir_version: 10, opset_import: ["" : 20]>
before (uint8[batch, picture_height, picture_width, 3] picture) => (float[batch, 3, height, width] pixels_out)
{{
    pixels_batch = Shape <start = 0, end = 1> (picture)
    pixels_own_h = Shape <start = 1, end = 2> (picture)
    pixels_own_w = Shape <start = 2, end = 3> (picture)
    pixels_exact_h = Cast <to = 11> (pixels_own_h)
    pixels_exact_w = Cast <to = 11> (pixels_own_w)
    pixels_ratio = Div (pixels_exact_w, pixels_exact_h)
    pixels_longest = Constant <value = double[1] {{ {longest}.0 }}> ()
    pixels_shortest = Constant <value = double[1] {{ {shortest} }}> ()
    pixels_capped = Min (pixels_ratio, pixels_longest)
    pixels_aspect = Max (pixels_capped, pixels_shortest)
    pixels_area = Constant <value = double[1] {{ {area}.0 }}> ()
    pixels_multiple = Constant <value = double[1] {{ {multiple}.0 }}> ()
    pixels_one = Constant <value = double[1] {{ 1.0 }}> ()
    {sides}
    pixels_first = Transpose <perm = [0, 3, 1, 2]> (picture)
    pixels_three = Constant <value_ints = [3]> ()
    pixels_size = Concat <axis = 0> (pixels_batch, pixels_three, pixels_h, pixels_w)
    pixels_sized = Resize <antialias = 1, mode = "linear", coordinate_transformation_mode = "half_pixel"> (
        pixels_first, , , pixels_size
    )
    pixels_floats = Cast <to = 1> (pixels_sized)
    pixels_full = Constant <value_float = 255.0> ()
    pixels_unit = Div (pixels_floats, pixels_full)
    pixels_mean = Constant <value = float[1, 3, 1, 1] {{ {mean} }}> ()
    pixels_std = Constant <value = float[1, 3, 1, 1] {{ {std} }}> ()
    pixels_centred = Sub (pixels_unit, pixels_mean)
    pixels_out = Div (pixels_centred, pixels_std)
}}
"""

_AFTER = """
after (float[batch, 1, height, width] seen) => (float[batch, 1, picture_height, picture_width] alpha)
{
    pixels_single = Constant <value_ints = [1]> ()
    pixels_back = Concat <axis = 0> (pixels_batch, pixels_single, pixels_own_h, pixels_own_w)
    pixels_alpha = Resize <antialias = 1, mode = "linear", coordinate_transformation_mode = "half_pixel"> (
        seen, , , pixels_back
    )
    pixels_zero = Constant <value_float = 0.0> ()
    pixels_most = Constant <value_float = 1.0> ()
    alpha = Clip (pixels_alpha, pixels_zero, pixels_most)
}
"""


def with_preprocessing(model: Any, preprocessing: Preprocessing) -> Any:
    """A model of ``image`` -> ``alpha`` as one of ``picture`` uint8 ``(N, H, W, 3)`` -> ``alpha``.

    Args:
        model: ``onnx.ModelProto``; its nodes are taken.
        preprocessing: of fit "stretch" or "keep".

    Returns:
        The larger model; its alpha ``(N, 1, H, W)`` has the picture's size.
    """
    from onnx import helper, parser

    height, width = preprocessing.size
    sides = _SIDES[preprocessing.fit].format(height=height, width=width)
    before = parser.parse_model(
        _BEFORE.format(
            sides=sides,
            longest=LONGEST_ASPECT,
            shortest=1 / LONGEST_ASPECT,
            area=height * width,
            multiple=preprocessing.multiple,
            mean=", ".join(map(str, preprocessing.mean)),
            std=", ".join(map(str, preprocessing.std)),
        )
    ).graph
    after = parser.parse_graph(_AFTER)
    for node in model.graph.node:
        node.input[:] = ["pixels_out" if name == "image" else name for name in node.input]
        node.output[:] = ["seen" if name == "alpha" else name for name in node.output]
    graph = helper.make_graph(
        [*before.node, *model.graph.node, *after.node],
        "decoupe",
        before.input,
        after.output,
        list(model.graph.initializer),
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
