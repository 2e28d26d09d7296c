"""Nobody is told what a user does: the runtimes are silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "chelsea.jpg"
SILENCED = ("ORT_DISABLE_TELEMETRY", "CI", "ORT_RUNNING_UNIT_TESTS")
"""Variables with which ONNX Runtime is silent of itself."""


def run(code: str, place: Path) -> str:
    """What a fresh process prints, whose temporary files and home are in ``place``."""
    environment = {name: value for name, value in os.environ.items() if name not in SILENCED}
    environment |= {"TMPDIR": str(place), "HOME": str(place)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_onnx_runtime_opens_no_session_with_its_maker(tmp_path: Path) -> None:
    run(f"import decoupe; decoupe.cut({str(EXAMPLE)!r}).cutout()", tmp_path)
    assert list(tmp_path.iterdir()) == []  # it writes a file of its own, .ses, when it begins to report


def test_a_variable_that_the_user_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from decoupe.telemetry import import_onnxruntime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    import_onnxruntime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = (
        "import sys; from decoupe.telemetry import import_openvino; import_openvino(); import_openvino();"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__);"
        "print('openvino_telemetry' in sys.modules)"
    )
    assert run(code, tmp_path).split() == ["openvino.tools.ovc.telemetry_stub", "False"]
    assert list(tmp_path.iterdir()) == []
