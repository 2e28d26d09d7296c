"""What a worker does, in this process: batches, segment models, budgets and failures."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from decoupe.commands.cut_files import Wanted
from decoupe.errors import ModelError
from decoupe.inference.predictor import Predictor, load
from decoupe.server import worker
from decoupe.server.forms import Form
from decoupe.server.jobs import Cut, Job, Looks, Segmentation
from decoupe.server.options import cut_job, segment_job
from decoupe.server.problems import ProblemError
from decoupe.server.worker import Workplace, measured, opened
from inference.queries import see
from server.running import png, squares

SQUARES = squares()
LEFT = np.zeros((64, 96), bool)
LEFT[:, :50] = True


class Hired:
    """A worker in a thread of this process."""

    def __init__(self, models: dict[str, str | None], **options: Any) -> None:
        self.here, theirs = multiprocessing.Pipe()
        place = Workplace(models, **options)
        self.worker = worker._Worker(theirs, place, opened(place))
        self.thread = threading.Thread(target=self.worker.run)
        self.thread.start()

    def ask(self, *jobs: Job) -> list[tuple[dict[str, Any], bytes]]:
        """The answers to jobs that are given at once, in their order."""
        for number, job in enumerate(jobs):
            self.here.send((number, job))
        answers = {}
        for _ in jobs:
            assert self.here.poll(20)
            line, _, body = self.here.recv_bytes().partition(b"\n")
            about = json.loads(line)
            answers[about["number"]] = about, body
        return [answers[number] for number in range(len(jobs))]


Hire = Callable[..., Hired]


@pytest.fixture
def hire(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hire]:
    """Workers that have the tiny model and a segment model that sees a dog on the left, and a cat."""
    see(monkeypatch, [LEFT, ~LEFT], [1, 0], matte_model=tiny)
    hired = []

    def one(*others: str, **options: Any) -> Hired:
        hired.append(Hired({"tiny": str(tiny), **{name: name for name in others}}, **options))
        return hired[-1]

    yield one
    for each in hired:
        each.here.close()
        each.thread.join(10)


def photos(count: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    sizes = [(96, 64), (64, 96), (80, 80)]
    return [png(Image.fromarray(rng.integers(0, 256, (*sizes[n % 3], 3), np.uint8))) for n in range(count)]


def test_answers_do_not_depend_on_batch_neighbours(tiny: Path, hire: Hire) -> None:
    jobs = [Cut(data, "tiny") for data in photos(9)]
    together = hire(batch=4).ask(*jobs)
    predictor = load(tiny)
    for job, (about, body) in zip(jobs, together, strict=True):
        assert about["media_type"] == "image/png"
        assert body == Wanted().bytes_of(predictor(job.image), None)


def test_the_embedded_model_gives_the_same_in_batches() -> None:
    """Bytes, not only numbers: what a server answers is what the command writes."""
    predictor = load()
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (90, 120, 3), np.uint8) for _ in range(4)]
    for picture, matte in zip(pictures, predictor.map(pictures, batch_size=4), strict=True):
        assert np.array_equal(matte.mask(), predictor(picture).mask())


def test_a_model_without_memory_for_a_picture_says_so(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime tells it where memory is bounded; it was the client's mistake, in words of C++."""
    told = (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
        "Name:'one' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:360 void* "
        "AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 13762560\n"
    )

    class Bounded:
        def run(self, *arguments: object) -> None:
            raise RuntimeError(told)

    one = hire()
    monkeypatch.setattr(one.worker.models["tiny"].runtime.session, "_session", Bounded())
    (about, _), (again, _) = one.ask(
        Cut(SQUARES, "tiny"), Cut(SQUARES, "tiny", chosen={"box": (0, 0, 50, 50)})
    )
    line = "the picture needs more memory than this server gives: make it smaller"
    assert (about["failed"], about["line"]) == (again["failed"], again["line"]) == ("large", line)
    with pytest.raises(
        ModelError, match=r"tiny cannot compute 1×3×\d+×\d+ images \(not enough memory\): change"
    ):
        one.worker.models["tiny"](SQUARES)


def test_a_bad_picture_spoils_no_other(hire: Hire) -> None:
    jobs = [Cut(SQUARES, "tiny"), Cut(b"text", "tiny"), Cut(SQUARES, "tiny", chosen={"box": (0, 0, 999, 9)})]
    good, text, box = hire().ask(*jobs)
    assert good[1].startswith(b"\x89PNG")
    assert (text[0]["failed"], box[0]["failed"]) == ("input", "input")
    assert "not a picture" in text[0]["line"]


def test_what_no_step_expects_is_told_without_a_traceback(
    hire: Hire, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = hire()

    def fail(error: Exception) -> None:
        def raising(*_: object) -> None:
            raise error

        monkeypatch.setattr(Wanted, "bytes_of", raising)

    fail(RuntimeError("secret"))
    ((about, _),) = one.ask(Cut(SQUARES, "tiny"))
    assert about["failed"] == "fault"
    assert "secret" not in about["line"]
    # One line of the log, however many the traceback has.
    assert "secret" in json.loads(capsys.readouterr().err)["fault"]
    fail(MemoryError())
    ((about, _),) = one.ask(Cut(SQUARES, "tiny"))
    assert about["failed"] == "large"


def test_an_answer_that_cannot_be_begun_stops_no_other(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    one = hire()
    with monkeypatch.context() as patched:
        patched.setattr(one.worker._writers, "submit", lambda *_: 1 / 0)
        ((about, _),) = one.ask(Cut(SQUARES, "tiny"))
    assert about["failed"] == "fault"
    ((about, _),) = one.ask(Cut(SQUARES, "tiny"))
    assert about["media_type"] == "image/png"


def test_no_thread_is_left_to_start_once_memory_is_bounded() -> None:
    here, theirs = multiprocessing.Pipe()
    before = set(threading.enumerate())
    one = worker._Worker(theirs, Workplace(threads=3), {})
    assert len(set(threading.enumerate()) - before) == 2 * 3 + 1
    here.close()
    one.run()


def test_a_warning_is_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        worker.log_warnings()
        warnings.warn("seen in\ntiles", UserWarning, stacklevel=1)
    assert json.loads(capsys.readouterr().err)["warning"] == "seen in\ntiles"


def test_a_batch_that_fails_is_done_one_by_one(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "map", lambda *_, **__: iter([1 / 0]))
    answers = hire(batch=4).ask(*[Cut(SQUARES, "tiny")] * 3)
    assert all(body.startswith(b"\x89PNG") for _, body in answers)


def test_pictures_wait_until_there_is_memory_for_them(hire: Hire) -> None:
    pixels = 96 * 64
    answers = hire(max_pixels=pixels + 1).ask(*[Cut(SQUARES, "tiny")] * 5)
    assert all("failed" not in about for about, _ in answers)


def test_what_nobody_waits_for_is_not_computed(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = Predictor.map
    begun, gate = threading.Event(), threading.Event()

    def watched(self: Predictor, images: list[Any], **options: Any) -> Any:
        begun.set()
        assert gate.wait(20)
        seen.append(len(images))
        return whole(self, images, **options)

    monkeypatch.setattr(Predictor, "map", watched)
    one = hire(batch=1, max_pixels=10**6)
    one.here.send((0, Cut(SQUARES, "tiny")))
    assert begun.wait(20)
    for number in (1, 2, 3):
        one.here.send((number, Cut(SQUARES, "tiny")))
    for number in (1, 2, 7):  # the last never came, and is told of once those before it are known
        one.here.send((number, None))
    told: dict[int, bool] = {}
    while 7 not in told:
        told |= said(one, 1)
    gate.set()
    told |= said(one, 5 - len(told))
    assert told == {0: False, 1: True, 2: True, 3: False, 7: True}
    assert seen == [1, 1]


def said(one: Hired, count: int) -> dict[int, bool]:
    """The numbers of jobs that a worker told of, and whether it let go of them."""
    told = []
    for _ in range(count):
        assert one.here.poll(20)
        told.append(json.loads(one.here.recv_bytes().partition(b"\n")[0]))
    return {each["number"]: each == {"number": each["number"], "dropped": True} for each in told}


def test_a_job_that_is_let_go_of_is_told_of_wherever_it_was(hire: Hire) -> None:
    one = hire(threads=1)
    with one.worker._budget._changed:  # the first waits for memory, the second for the first
        for number in (0, 1):
            one.here.send((number, Cut(SQUARES, "tiny")))
        for number in (1, 7):  # the last never came: its sender left before it was handed over
            one.here.send((number, None))
        assert said(one, 1) == {7: True}
    assert said(one, 2) == {0: False, 1: True}
    assert one.worker._budget._left == one.worker._budget._total


def test_labels_choose_and_segments_are_told(hire: Hire) -> None:
    one = hire("maskformer-swin-base-coco")
    known = {"matte": ["tiny"], "segment": ["maskformer-swin-base-coco"]}
    files = {"image": SQUARES}
    jobs: list[Job] = [
        cut_job(Form({"what": ["dog"], "matte": ["1"]}, files), known),
        cut_job(Form({"what": ["bird"]}, files), known),
        segment_job(Form({}, files), known),
        segment_job(Form({"picture": ["true"], "format": ["labels"]}, files), known),
        segment_job(Form({"format": ["coco"], "score": ["0.5"]}, files), known),
    ]
    dog, bird, polygons, labels, coco = one.ask(*jobs)
    mask = np.asarray(Image.open(io.BytesIO(dog[1])))
    assert mask[24, 24] > 200
    assert not mask[:, 55:].any()
    assert "unknown label 'bird'" in bird[0]["line"]
    assert {one["properties"]["label"] for one in json.loads(polygons[1])["features"]} == {"dog", "cat"}
    assert labels[0]["media_type"] == "image/png"
    assert len(json.loads(coco[1])["annotations"]) == 2


def test_every_model_is_tried_before_a_worker_is_ready(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    one = hire("maskformer-swin-base-coco", max_pixels=96 * 64)
    assert one.worker.tries_each()
    assert one.ask(Cut(SQUARES, "tiny"))[0][1].startswith(b"\x89PNG")  # answers go to the server again

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Segmentation, "answer", fail)
    assert not one.worker.tries_each()


def test_looks_of_a_job_are_its_own(hire: Hire) -> None:
    grey = png(Image.new("RGB", (64, 64), (150, 128, 128)))
    wanted = Wanted(kind="matte")
    plain, stretched = hire().ask(
        Cut(grey, "tiny", wanted), Cut(SQUARES, "tiny", wanted, looks=Looks(minmax=True))
    )
    assert plain[1] != stretched[1]
    least, most = Image.open(io.BytesIO(stretched[1])).getextrema()
    assert (least, most) == (0, 255)


def test_a_size_is_one_that_the_model_knows(hire: Hire) -> None:
    known = {"matte": ["tiny"], "segment": []}
    files = {"image": SQUARES}
    jobs = [
        cut_job(Form({"matte": ["1"], "size": [size]}, files), known) for size in ("32", "128x128", "300")
    ]
    square, wide, large = hire().ask(*jobs)
    assert square[1] != wide[1]
    assert Image.open(io.BytesIO(wide[1])).size == (96, 64)
    assert large[0]["line"] == "size is 300x300, this model knows 32 to 256 pixels a side"
    with pytest.raises(ProblemError, match="size is 'native'"):
        cut_job(Form({"size": ["native"]}, files), known)


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=300),
    kind=st.sampled_from([b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF"]),
)
def test_headers_are_measured_whatever_they_hold(data: bytes, kind: bytes) -> None:
    with contextlib.suppress(worker.TooLargeError):  # and nothing else
        assert measured(kind + data, 10_000, 3) <= 10_000


def test_what_is_damaged_behind_the_first_frame_is_measured_all_the_same() -> None:
    frames = [Image.new("L", (60, 40), shade) for shade in (0, 90)]
    pages = bytearray(png(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    (first,) = struct.unpack_from("<I", pages, 4)
    (entries,) = struct.unpack_from("<H", pages, first)
    struct.pack_into("<I", pages, first + 2 + 12 * entries, len(pages) - 1)  # where the second page is
    for data in (png(frames[0], "GIF", save_all=True, append_images=frames[1:])[:-100], bytes(pages)):
        assert measured(data, 2400, 3) == 2400
        with pytest.raises(worker.TooLargeError, match="60×40"):
            measured(data, 2399, 3)


def test_no_picture_is_larger_than_the_place_allows(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "measured", lambda *_: 0)
    ((about, _),) = hire(max_pixels=96 * 64 - 1).ask(Cut(SQUARES, "tiny"))
    assert "the cap is 6,143" in about["line"]


def test_a_segmentation_has_its_own_thresholds(hire: Hire) -> None:
    one = hire("maskformer-swin-base-coco")
    strict = Segmentation(SQUARES, "maskformer-swin-base-coco", score=1.0)
    none, all_ = one.ask(strict, replace(strict, score=None))
    assert json.loads(none[1])["features"] == []
    assert len(json.loads(all_[1])["features"]) == 2


def test_a_model_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    here, theirs = multiprocessing.Pipe()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    # In a process of its own: it changes how that process opens pictures.
    process = multiprocessing.get_context("spawn").Process(target=start, args=(theirs, str(broken)))
    process.start()
    theirs.close()  # where the process ends without a word, here is told
    assert "is not a usable ONNX model" in json.loads(here.recv_bytes())["error"]
    process.join(20)
    assert process.exitcode == 0


def start(connection: Connection, model: str) -> None:
    worker.main(connection, Workplace({"broken": model}))
