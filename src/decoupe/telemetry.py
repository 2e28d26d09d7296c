"""Runtimes that tell their makers of every use, imported so that they do not.

decoupe sends nothing anywhere: what is cut, with which model and how often, is its user's affair.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from decoupe.errors import InstallationError


def import_onnxruntime() -> Any:
    """``onnxruntime``, silent.

    From 1.29 on its Linux builds, as those of Windows, report each session to Microsoft, among other things
    the model file's name, unless this variable is set before they are imported.

    Raises:
        InstallationError: it cannot be imported, as without a library of the system's.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise InstallationError("onnxruntime", error) from error

    onnxruntime.disable_telemetry_events()  # where somebody imported it before
    return onnxruntime


def import_openvino() -> Any:
    """``openvino``, silent: through a package of its own it reports to Google Analytics that it was imported.

    Raises:
        ImportError: it is not installed.
    """
    reporter = "openvino_telemetry"
    absent = reporter not in sys.modules
    if absent:
        sys.modules[reporter] = None  # type: ignore[assignment]  # Python's way to say: not to be imported
    try:
        import openvino
    finally:
        if absent:
            del sys.modules[reporter]
    return openvino


def import_ray() -> Any:
    """``ray``, silent: a run that it starts itself would be reported to its makers.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    return ray
