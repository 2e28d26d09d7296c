"""Ray's own machinery is started once; what does not need it is tested without."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
import ray
from PIL import Image

import decoupe
from decoupe import batch
from decoupe.errors import InputError, MissingExtraError, ModelError, OutputError, UnknownModelError
from decoupe.telemetry import import_ray
from inference.tiny import write_onnx


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a token would lie in the developer's home
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures, two of which differ in their ending only, one that is none, and one that is hidden."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("a.jpg", "a.png", "deep/b.JPG", "deep/er/c.webp", ".hidden/d.jpg")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(256, size=(40, 30 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture")
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


RESULTS = {"a.jpg.png", "a.png.png", "deep/b.png", "deep/er/c.png"}


@pytest.mark.usefixtures("cluster")
def test_a_folder_is_mirrored_and_gone_on_with(photos: Path, model: Path, tmp_path: Path) -> None:
    out = photos / "out"  # inside: what was made is not cut in turn
    done = batch.cut(photos, out, model=model, workers=2)
    assert (done.cut, done.kept, list(done.failed)) == (4, 0, ["broken.jpg"])
    assert "is not a picture that can be read" in done.failed["broken.jpg"]
    assert files(out) == RESULTS
    wanted = decoupe.load(model)(photos / "deep" / "b.JPG")
    wanted.save(tmp_path / "wanted.png")
    assert (out / "deep" / "b.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()

    (out / "a.jpg.png").unlink()
    (out / "a.png.png").write_bytes(b"")  # of a run whose disk was full
    (out / "deep" / "b.png").write_bytes(b"kept")
    beach = tmp_path / "beach.png"
    Image.new("RGB", (8, 8), (10, 20, 230)).save(beach)
    # Read once and here: the workers' machines have no such file, and an open one cannot be sent to them.
    with beach.open("rb") as over:
        again = batch.cut(str(photos), f"file://{out}", model=model, over=over)
    assert (again.cut, again.kept) == (2, 2)
    assert files(out) == RESULTS
    assert (out / "deep" / "b.png").read_bytes() == b"kept"
    for name in ("a.jpg", "a.png"):
        behind = decoupe.load(model)(photos / name).over(beach)
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")), np.asarray(behind))


@pytest.mark.usefixtures("cluster")
def test_what_keeps_the_workers_from_starting_is_told(photos: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes 1 GPU, the cluster has 0: let it take less"):
        batch.cut(photos, tmp_path / "out", model=model, gpus=1)
    with pytest.raises(ModelError, match=r"the workers ended: DeviceError: .*cuda"):
        batch.cut(photos, tmp_path / "out", model=model, device="cuda")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"suffix": ".jpg"}, OutputError, "JPEG has no transparency"),
        ({"suffix": ".txt"}, OutputError, "txt"),
        ({"suffix": ".webp", "quality": 300}, InputError, "quality is 300, expected a number from 1 to 100"),
        ({"over": "redd"}, InputError, "redd"),
        ({"model": "birefnt"}, UnknownModelError, "did you mean 'birefnet'"),
        ({"model": "maskformer-swin-base-coco"}, InputError, "names segments and gives no matte"),
        ({"model": "birefnet", "size": 1000}, InputError, "expected multiples of 32: use 992×992"),
        ({"memory": "little"}, InputError, "memory is 'little', expected bytes"),
        ({"dtype": "float61"}, InputError, "unknown dtype 'float61'; did you mean 'float16'"),
        ({"runtime": "onx"}, InputError, "unknown runtime 'onx'; did you mean 'onnx'"),
        ({"sise": 7}, TypeError, "unexpected keyword argument 'sise'"),
        ({"workers": 0}, InputError, "expected at least 1, 1 and 0"),
        ({"target": "photos"}, OutputError, "holds the pictures: choose another target"),
        ({"source": ""}, InputError, "a folder's name is empty: check the variable"),
        ({"target": ""}, InputError, "a folder's name is empty: check the variable"),
        ({"source": "nowhere"}, InputError, "nowhere is not a folder: name a folder of pictures"),
        (
            {"source": "s4://bucket/photos"},
            InputError,
            "s4://bucket/photos cannot be opened .*URI that pyarrow",
        ),
        ({"source": "empty"}, InputError, "holds no pictures"),
    ],
)
def test_what_cannot_be_done_is_refused_before_ray_starts(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()

    def start(**_: Any) -> None:
        raise RuntimeError("started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    with pytest.raises(error, match=message):
        batch.cut(**{"source": "photos", "target": "out", **options})
    assert not Path("out").exists()


def test_a_folder_by_another_name_is_the_same(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    for name in (photos / "deep" / "..", tmp_path / "link"):
        with pytest.raises(OutputError, match="holds the pictures: choose another target"):
            batch.cut(name, photos)


def test_pictures_are_those_that_decoupe_cut_finds(photos: Path, tmp_path: Path) -> None:
    for name, place in {"one": ".", "two": ".", "deep/linked": "../deep"}.items():
        (photos / name).symlink_to(place)
    (photos / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "out").mkdir()
    (photos / "out" / "a.jpg").write_bytes(b"")
    wanted = {"a.jpg", "a.png", "broken.jpg", "deep/b.JPG", "deep/er/c.webp", "gone.jpg"}
    for source, target in ((photos, photos / "out"), (f"file://{photos}", tmp_path / "elsewhere")):
        places = batch._opened(source), batch._opened(target)
        found = set(map(str, batch._pictures(*places)))
        assert found - {"out/a.jpg"} == wanted
        assert ("out/a.jpg" in found) == (target != photos / "out")
    store = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    for link in ("one", "two", "deep/linked", "gone.jpg"):  # which no object store has
        (photos / link).unlink()
    found = set(map(str, batch._pictures((store, "photos"), (store, "photos/out"))))
    assert found == wanted - {"gone.jpg"}


def test_ray_reports_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    import_ray()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'decoupe\[batch\]'"):
        batch.cut(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("kind", ["subtree", "an object store"])
def test_elsewhere_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A folder behind another file system; of object stores, nothing is renamed and no folder is made."""
    store = pyarrow.fs.SubTreeFileSystem(str(tmp_path), pyarrow.fs.LocalFileSystem())
    if kind == "an object store":
        monkeypatch.setattr(batch, "OBJECT_STORES", (store.type_name,))
        (tmp_path / "deep").mkdir()
    batch._write(b"data", store, "deep", "a.png")
    assert (tmp_path / "deep" / "a.png").read_bytes() == b"data"
    assert files(tmp_path) == {"deep/a.png"}

    (tmp_path / "deep" / "b.png").mkdir()
    with pytest.raises(OSError, match=r"b\.png"):
        batch._write(b"data", store, "deep", "b.png")
    assert files(tmp_path) == {"deep/a.png"}


def test_as_many_workers_as_there_is_room_for() -> None:
    held = {"CPU": 16.0, "GPU": 2.0}
    assert batch._room(held, 1, 0) == 16
    assert batch._room(held, 3, 0) == 5
    assert batch._room(held, 1, 1) == 2
    assert batch._room(held, 4, 0.25) == 4  # eight by the GPUs
    with pytest.raises(InputError, match="takes 32 CPU, the cluster has 16"):
        batch._room(held, 32, 0)
