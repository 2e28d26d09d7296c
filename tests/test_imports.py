"""Imports point one way, and the main job needs no PyTorch."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import decoupe
from inference.tiny import write_onnx

SOURCE = Path(__file__).parents[1] / "src"
# Each part may import those before it; of those beside only the command line knows.
ORDER = (
    "errors",
    "arrays",
    "notices",
    "readings",
    "memory",
    "cores",
    "telemetry",
    "layers",
    "backbones",
    "models",
    "weights",
    "runtimes",
    "inference",
    "batch",
    "commands.plan",
    "commands.watching",
    "interrupts",
    "commands.console",
    "commands.options",
    "commands.running",
    "commands.cut_options",
    "commands.cut_files",
    "commands.raw_frames",
    "commands.cut",
    "commands.segment_files",
    "commands.segment",
    "server",
    "commands.serve",
    "commands.doctor",
    "commands.bench",
    "commands.video",
    "commands.catalogue",
    "commands.training",
    "commands.evaluation",
    "commands.export",
    "cli",
)
KNOWING = ("cli", "commands.training", "commands.evaluation", "commands.export")
BESIDE = ("datasets", "training", "evaluation", "export")
# Plain data about the weights, which torch-free parts share.
FREE = ("decoupe.weights.registry",)


def imported(path: Path) -> set[str]:
    """Every module of decoupe that a file names in an import, wherever the import stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("decoupe.") and not name.startswith(FREE)}


def part(module: str) -> str:
    """The package or module below decoupe; of ``commands``, the module in it."""
    first, *rest = module.split(".")[1:]
    return f"{first}.{rest[0]}" if first == "commands" else first


def name(path: Path) -> str:
    """The module that a file is."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def violations(path: Path) -> list[str]:
    """Imports of one file that point the wrong way, each as ``file: module``."""
    own = part(name(path))
    if own.endswith("__init__"):
        return []
    wrong = []
    for module in imported(path):
        other = part(module)
        if other == own:
            continue
        if own in ORDER and (
            (other in BESIDE and own not in KNOWING)
            or (other in ORDER and ORDER.index(other) > ORDER.index(own))
        ):
            wrong.append(f"{path.relative_to(SOURCE)}: {module}")
    return wrong


def test_imports_point_one_way() -> None:
    files = list((SOURCE / "decoupe").rglob("*.py"))
    parts = {part(name(path)) for path in files}
    assert parts <= {"__init__", "__main__", "commands.__init__", *ORDER, *BESIDE}
    assert [line for path in files for line in violations(path)] == []


def test_a_wrong_import_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "decoupe" / "layers" / "blocks.py"
    file.parent.mkdir(parents=True)
    file.write_text("def later():\n    from decoupe.models import birefnet\n")
    assert violations(file) == ["decoupe/layers/blocks.py: decoupe.models.birefnet"]


def test_no_module_needs_what_windows_lacks() -> None:
    lacking = {"fcntl", "grp", "pwd", "resource", "termios"}
    for path in SOURCE.rglob("*.py"):
        # A module's own imports: those in functions and under an "if" ask for the system first.
        for node in ast.parse(path.read_text()).body:
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            assert not names & lacking, path


def test_every_extra_brings_something_that_is_imported() -> None:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11
    trees = [ast.parse(path.read_text()) for path in (SOURCE / "decoupe").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    modules = {name.partition(".")[0].replace("_", "") for name in names} - {"decoupe"}
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    idle = []
    for extra, requirements in project["optional-dependencies"].items():
        brought = {re.split(r"[\[<>=]", one)[0].replace("-", "") for one in requirements}
        if extra not in ("all", "test", "docs", "dev") and not brought & modules:
            idle.append(extra)
    assert idle == []


def test_public_names_are_found_where_type_checkers_see_them() -> None:
    tree = ast.parse((SOURCE / "decoupe" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*seen, "__version__"} == set(decoupe.__all__) == set(dir(decoupe))
    for name, module in seen.items():
        assert getattr(decoupe, name) is getattr(importlib.import_module(str(module)), name)
    with pytest.raises(AttributeError, match="no attribute 'cuts'"):
        decoupe.cuts  # noqa: B018


def test_version_is_the_packages() -> None:
    assert decoupe.__version__ == importlib.metadata.version("decoupe")


BLOCKED = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Refuse())
"""

WITHOUT_TORCH = (
    BLOCKED
    + """
import decoupe, decoupe.cli, decoupe.runtimes
decoupe.catalogue()
for model in (None, sys.argv[2]):
    decoupe.cut(sys.argv[1], model=model).save(sys.argv[3])
assert "torch" not in sys.modules
try:
    decoupe.load("birefnet")
except decoupe.MissingExtraError as error:
    print(error)
"""
)


SCORED_WITHOUT_TORCH = (
    BLOCKED
    + """
sys.argv[1:] = ["eval", "--pred", sys.argv[1], "--gt", sys.argv[2], "--table", "json", "-o", sys.argv[3]]
from decoupe.cli import main
try:
    main()
except SystemExit as ending:
    assert not ending.code, ending.code
assert "torch" not in sys.modules
"""
)


def test_files_are_scored_without_torch(tmp_path: Path) -> None:
    for name in ("pred", "gt"):
        (tmp_path / name).mkdir()
        Image.linear_gradient("L").save(tmp_path / name / "one.png")
    paths = (str(tmp_path / name) for name in ("pred", "gt", "report"))
    command = [sys.executable, "-c", SCORED_WITHOUT_TORCH, *paths]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert '"SAD": 0.0' in run.stdout
    assert (tmp_path / "report" / "index.html").exists()


def test_exporting_without_torch_names_the_extra(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from decoupe.cli import main; main()"
    command = [sys.executable, "-c", code, "export", "pocket", str(tmp_path / "small.onnx")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    line = "decoupe: decoupe export needs onnx and onnxscript: pip install 'decoupe[export]'\n"
    assert (run.returncode, run.stderr) == (2, line)


def test_models_of_our_own_blocks_need_no_torchvision() -> None:
    """Importing it takes a second and 0.2 GB."""
    code = "import sys, decoupe.models.fuse, decoupe.weights; print('torchvision' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout == "False\n"


def test_the_main_job_runs_without_torch(tmp_path: Path) -> None:
    photo, result = tmp_path / "photo.jpg", tmp_path / "photo.png"
    Image.new("RGB", (60, 40), "red").save(photo)
    model = write_onnx(tmp_path / "tiny.onnx")
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, (photo, model, result))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert "the model 'birefnet' needs PyTorch: pip install 'decoupe[torch]'" in run.stdout
    with Image.open(result) as saved:
        assert (saved.size, saved.mode) == ((60, 40), "RGBA")
