from __future__ import annotations

import copy
import os
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import decoupe
from decoupe import InputError, Matte, Predictor, SizeWarning
from decoupe.inference import predictor as predictor_module
from decoupe.inference.pictures import Picture
from decoupe.weights import registry
from decoupe.weights.registry import Preprocessing
from inference.tiny import KEEP, STRETCH, write_onnx

SIZES = [(40, 60), (60, 40), (40, 60), (33, 200), (1, 1), (64, 64), (40, 60)]


class Recorder:
    """A runtime whose alpha is the normalised red channel, squashed; it remembers its batches."""

    name, engine, device, dtype = "recorder", "hand", "cpu", "float32"
    notes, normalises = (), False

    def __init__(self, preprocessing: Preprocessing = KEEP) -> None:
        self.preprocessing = preprocessing
        self.batches: list[tuple[int, ...]] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(images.shape)
        alpha: np.ndarray = 1 / (1 + np.exp(-images[:, :1]))
        return alpha


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("onnx") / "tiny.onnx")


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 120), width=st.integers(1, 120))
def test_alpha_has_the_pictures_size(height: int, width: int) -> None:
    matte = Predictor(Recorder())(pictures([(height, width)])[0])
    assert isinstance(matte, Matte)
    assert matte.alpha.shape == (height, width)
    assert matte.cutout().size == (width, height)


def test_a_model_that_gives_no_numbers_is_told_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "__call__", lambda self, images: np.full_like(images[:, :1], np.nan))
    with pytest.raises(InputError, match="the model gave NaN for array: its weights are broken"):
        Predictor(Recorder())(pictures()[0])


@pytest.mark.parametrize("preprocessing", [KEEP, STRETCH])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_map_equals_one_by_one(tiny: Path, preprocessing: Preprocessing, batch_size: int) -> None:
    path = write_onnx(tiny.with_name(f"{preprocessing.fit}.onnx"), preprocessing)
    predictor = decoupe.load(path)
    alone = [predictor(picture).alpha for picture in pictures()]
    together = [matte.alpha for matte in predictor.map(pictures(), batch_size=batch_size)]
    assert len(alone) == len(together)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_map_batches_what_has_one_network_size() -> None:
    runtime = Recorder()
    mattes = list(Predictor(runtime).map(pictures(), batch_size=4))
    assert [matte.alpha.shape for matte in mattes] == SIZES
    # Of each four: the two landscape pictures together; the portrait and the panorama alone.
    assert [shape[0] for shape in runtime.batches] == [2, 1, 1, 2, 1]


def test_map_reads_only_what_it_needs() -> None:
    read = 0

    def source() -> Iterator[np.ndarray]:
        nonlocal read
        for picture in pictures() * 10:
            read += 1
            yield picture

    results = Predictor(Recorder()).map(source(), batch_size=3)
    assert read == 0
    next(results)
    assert read == 9  # three are decoded while three are computed and three are made use of


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_map_gives_what_comes_before_a_broken_picture(batch_size: int) -> None:
    results = Predictor(Recorder()).map([*pictures(), b"broken"], batch_size=batch_size)
    for size in SIZES:
        assert next(results).alpha.shape == size
    with pytest.raises(InputError, match="not a picture"):
        next(results)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_map_gives_what_comes_before_its_source_fails(batch_size: int) -> None:
    def source() -> Iterator[np.ndarray]:
        yield from pictures()[:4]
        raise ConnectionError("the camera is gone")

    results = Predictor(Recorder()).map(source(), batch_size=batch_size)
    assert [next(results).alpha.shape for _ in range(4)] == SIZES[:4]
    with pytest.raises(ConnectionError, match="the camera is gone"):
        next(results)


def test_map_refuses_a_batch_size_that_is_none_at_once() -> None:
    with pytest.raises(InputError, match="batch_size is 0, expected at least 1"):
        Predictor(Recorder()).map(pictures(), batch_size=0)
    for size in (1.5, "8", None):
        with pytest.raises(InputError, match=f"batch_size is {size!r}, expected a whole number: such as 8"):
            Predictor(Recorder()).map(pictures(), batch_size=size)  # type: ignore[arg-type]
    assert len(list(Predictor(Recorder()).map(pictures(), batch_size=np.int64(3)))) == len(SIZES)


def test_map_refuses_one_picture_at_once() -> None:
    arrays = [np.zeros(shape, np.uint8) for shape in ((4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4))]
    for image in (
        *("photo.jpg", Path("photo.jpg"), b"\xff\xd8", BytesIO(), Image.new("RGB", (4, 4))),
        *arrays,
    ):
        with pytest.raises(InputError, match="images is one picture, expected several: put it in a list"):
            Predictor(Recorder()).map(image)
    assert len(list(Predictor(Recorder()).map(np.zeros((2, 9, 9, 3), np.uint8)))) == 2
    for none in (None, 7):
        with pytest.raises(
            InputError, match=r"images is of type .*, expected several pictures: such as a list"
        ):
            Predictor(Recorder()).map(none)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"cannot read a picture from list; .* for several call map"):
        Predictor(Recorder())(["a.jpg", "b.jpg"])


def test_sources_and_their_extras_pass_through() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    opacity = np.full((20, 30), 0.5, np.float32)
    matte = Predictor(Recorder())(Picture(pixels, opacity, b"profile", "there.png"))
    assert matte.source == "there.png"
    assert matte.icc_profile == b"profile"
    assert matte.alpha.max() <= 0.5
    assert matte.opacity is opacity
    with pytest.raises(InputError, match="max_pixels is None, expected a number of pixels"):
        Predictor(Recorder())(Path("photo.jpg"), max_pixels=None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the cap is 10"):
        Predictor(Recorder())(Image.new("RGB", (4, 3)), max_pixels=10)


def test_size_chooses_the_networks_size() -> None:
    picture = pictures([(50, 90)])
    for size, wanted in ((None, (48, 80)), (128, (96, 176)), ("native", (48, 96)), ((32, 128), (48, 80))):
        runtime = Recorder()
        list(Predictor(runtime, size=size).map(picture))
        assert runtime.batches == [(1, 3, *wanted)]
    with pytest.raises(InputError, match="expected multiples of 16"):
        Predictor(Recorder(STRETCH), size=100)


@pytest.mark.parametrize(
    ("preprocessing", "size", "told_of"),
    [
        (STRETCH, (16, 64), "a side, not at 64×16: leave size out"),
        (STRETCH, (64, 512), "a side: 512×64 is seen in tiles of 208×64"),
        (KEEP, 512, "624×416 is seen in tiles of 256×240"),
    ],
)
def test_predicting_outside_the_size_range_warns_once(
    preprocessing: Preprocessing, size: int, told_of: str
) -> None:
    predictor = Predictor(Recorder(preprocessing), size=size)
    with pytest.warns(
        SizeWarning, match=f"recorder is known to work at 32 to 256 pixels .*{told_of}"
    ) as told:
        predictor(pictures()[0])
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor(pictures()[0])
    with pytest.warns(SizeWarning) as told:
        next(Predictor(Recorder(preprocessing), size=size).map(pictures()))
    assert told[0].filename == __file__


def test_a_warning_of_one_kind_does_not_silence_another() -> None:
    predictor = Predictor(Recorder(), size="native")
    with pytest.warns(SizeWarning, match="not at 16×16"):
        predictor(pictures([(16, 16)])[0])
    with pytest.warns(SizeWarning, match="is seen in tiles of 240×240"):
        predictor(pictures([(400, 400)])[0])


def test_opening_the_segment_model_keeps_no_thread_from_computing() -> None:
    opening, opened = threading.Event(), threading.Event()

    def open_it() -> None:
        opening.set()
        opened.wait(20)
        raise decoupe.DownloadError("the line is down")

    predictor = Predictor(Recorder(), segmenter=open_it)  # type: ignore[arg-type]
    with ThreadPoolExecutor(2) as pool:
        named = pool.submit(predictor, pictures()[0], what="dog")
        assert opening.wait(20)
        try:
            assert pool.submit(predictor, pictures()[0]).result(10).alpha.shape == SIZES[0]
        finally:
            opened.set()
        with pytest.raises(decoupe.DownloadError, match="the line is down"):
            named.result()


def test_a_forked_process_does_not_wait_for_threads_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(Recorder())
    parent = os.getpid()
    with ThreadPoolExecutor(1) as pool, predictor._turn():  # as a thread that computes has it
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        assert pool.submit(predictor, pictures()[0]).result(10).alpha.shape == SIZES[0]


def test_what_was_chosen_is_told(tiny: Path) -> None:
    predictor = decoupe.load(tiny)
    assert repr(predictor) == "Predictor(tiny on cpu in float32 by ONNX Runtime, size 64×64 (keep))"
    assert "size native" in decoupe.load(tiny, size="native").describe()
    assert "size 64×64" in decoupe.load(tiny, size=np.int64(64)).describe()  # type: ignore[arg-type]
    assert predictor.preprocessing == KEEP
    assert (predictor.device, predictor.dtype, predictor.spec) == ("cpu", "float32", None)


def test_load_without_a_model_is_the_embedded_default(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decoupe.weights.download.fetch", lambda spec: tiny)
    predictor = decoupe.load()
    assert predictor.spec == registry.spec(registry.DEFAULT_MODEL)
    assert predictor.runtime.name == registry.DEFAULT_MODEL


def test_cut_opens_a_model_anew_that_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pictures()[0]
    for folder, sigmoid in (("one", True), ("two", False), ("one", False)):
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        write_onnx(Path("mine.onnx"), sigmoid=sigmoid)
        expected = decoupe.load("mine.onnx")(picture).alpha
        np.testing.assert_array_equal(decoupe.cut(picture, "mine.onnx").alpha, expected)


def test_cut_opens_a_model_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    open_runtime = predictor_module.open_runtime
    monkeypatch.setattr(
        predictor_module, "open_runtime", lambda *a, **k: opened.append(a) or open_runtime(*a, **k)
    )
    first, second = (decoupe.cut(pictures()[0], model=tiny) for _ in range(2))
    np.testing.assert_array_equal(first.alpha, second.alpha)
    assert len(opened) == 1
    decoupe.cut(pictures()[0], model=tiny, size=128)
    assert len(opened) == 2


def test_threads_that_cut_open_a_model_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_onnx(tmp_path / "shared.onnx")
    opened, again = [], threading.Event()
    open_runtime = predictor_module.open_runtime

    def open_it(*arguments: object, **options: object) -> object:
        opened.append(arguments)
        if len(opened) > 1:
            again.set()
        again.wait(0.2)  # the others come meanwhile
        return open_runtime(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor_module, "open_runtime", open_it)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda picture: decoupe.cut(picture, path), pictures()[:4]))) == 4
    assert len(opened) == 1


def test_cutting_by_one_model_does_not_wait_for_another_to_be_opened(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = write_onnx(tmp_path / "slow.onnx")
    opening, opened = threading.Event(), threading.Event()
    open_runtime = predictor_module.open_runtime

    def open_it(model: object, **options: object) -> object:
        if model == slow:
            opening.set()
            opened.wait(20)
        return open_runtime(model, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(predictor_module, "open_runtime", open_it)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(decoupe.cut, pictures()[0], slow)
        assert opening.wait(20)
        try:
            assert pool.submit(decoupe.cut, pictures()[0], tiny).result(10).alpha.shape == SIZES[0]
        finally:
            opened.set()
        assert waiting.result().alpha.shape == SIZES[0]


def test_red_is_the_subject(tiny: Path) -> None:
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[20:40, 30:60] = (255, 0, 0)
    matte = decoupe.cut(picture, model=tiny)
    assert matte.alpha[30, 45] > 0.95
    assert matte.alpha[5, 5] < 0.5


@pytest.mark.parametrize("size", [[64, 64], (64, "64"), {"side": 64}, 64.0, ("64", 64)])
def test_a_size_that_is_none_is_told(size: object) -> None:
    with pytest.raises(InputError, match=r"size is .*, expected a number, \(height, width\) or 'native'"):
        decoupe.cut(np.zeros((8, 8, 3), np.uint8), size=size)  # type: ignore[call-overload]
    with pytest.raises(InputError, match="size is"):
        decoupe.load(size=size)


def test_an_open_model_is_not_pickled(tiny: Path) -> None:
    with pytest.raises(decoupe.ModelError, match=r"threads share it, each process calls decoupe.load"):
        pickle.dumps(decoupe.load(tiny))
    with pytest.raises(decoupe.ModelError, match="neither copied nor pickled"):
        copy.copy(decoupe.load(tiny))
