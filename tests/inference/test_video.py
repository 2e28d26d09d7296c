"""Videos in and out: real files, made and read back through PyAV.

Where the picture is not what is tested, the matte is written: the subject's colours take most of the time.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import decoupe
from decoupe.inference import results, video
from decoupe.inference.pictures import read_image
from decoupe.inference.video import cut_video, encoding, interval, mattes, pieces, seconds_of
from decoupe.inference.video import reader as video_reader
from decoupe.inference.video.forms import CODECS, CONTAINERS, form_of
from decoupe.inference.video.frames import BackgroundVideo, surrounded
from decoupe.inference.video.reader import VideoReader
from decoupe.notices import VideoWarning
from inference import clips
from inference.clips import (
    RATE,
    TIME_BASE,
    TURNS,
    add_subtitles,
    frames_of,
    packets_of,
    picture,
    sound_begins,
    sound_of,
    subtitles_of,
    uneven,
)
from inference.tiny import write_onnx

MADE: dict[str, bytes] = {}


def write_clip(path: Path, times: list[int], **options: Any) -> Path:
    """`clips.write_clip`, which encodes each clip once."""
    wanted = repr((path.suffix, times, options))
    if wanted not in MADE:
        MADE[wanted] = clips.write_clip(path, times, **options).read_bytes()
    path.write_bytes(MADE[wanted])
    return path


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> decoupe.Predictor:
    """A model to which bright red is the subject."""
    return decoupe.load(write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx"))


@pytest.fixture
def plain_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cutout has the picture's colours: to tell the subject's from the ground's takes most of its time."""
    monkeypatch.setattr(results, "estimate_foreground", lambda image, alpha: image.copy())


plain_cutouts = pytest.mark.usefixtures("plain_foreground")  # for tests that are not about the picture


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@plain_cutouts
@pytest.mark.parametrize("start", [0, 7001])
def test_frames_times_and_sound_are_those_of_the_source(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    monkeypatch.setattr(video, "PIECE", 8)
    times = [start + time for time in uneven(20)]
    source = write_clip(Path("in.mp4"), times, turn=90)
    written = cut_video(source, "out.mov", predictor)
    assert (written.frames, written.width, written.height) == (20, 64, 96)  # upright
    assert (written.audio, written.codec, written.resumed) == ("kept", "prores", 0)
    frames = frames_of(Path("out.mov"))
    assert [time for time, _ in frames] == [time * TIME_BASE for time in times]
    assert packets_of(Path("out.mov")) == packets_of(source)
    assert np.array_equal(sound_of(Path("out.mov")), sound_of(source))
    assert sorted(path.name for path in Path().iterdir()) == ["in.mp4", "out.mov"]


@pytest.mark.parametrize("turn", TURNS)
def test_what_is_told_about_turning_is_applied_once(predictor: decoupe.Predictor, turn: int | str) -> None:
    write_clip(Path("in.mp4"), uneven(2), turn=turn, audio=None)
    stored = picture(0, 96, 64)
    upright = stored[:, ::-1] if turn == "mirror" else np.rot90(stored, -int(turn) // 90)
    _, matte = next(mattes("in.mp4", predictor))
    assert matte.image.shape == upright.shape
    assert abs(matte.image.astype(int) - upright).mean() < 6
    cut_video("in.mp4", "out.mp4", predictor, over="white")
    (_, first), *_ = frames_of(Path("out.mp4"))
    assert first.shape[:2] == upright.shape[:2]


@pytest.mark.parametrize(
    ("target", "codec", "loss"),
    [
        ("out.mov", "prores", 3),
        ("out.mov", "qtrle", 0),
        ("out.webm", "vp9", 6),
        ("out.mkv", "ffv1", 0),
        ("out", "png", 0),
        ("out/f%03d.png", "png", 0),
    ],
)
def test_transparency_comes_back(predictor: decoupe.Predictor, target: str, codec: str, loss: float) -> None:
    times = uneven(5)
    write_clip(Path("in.mp4"), times)
    given = codec if codec in CODECS else None
    written = cut_video("in.mp4", target, predictor, codec=given)
    assert written.codec == codec
    wanted = [np.asarray(matte.cutout()) for _, matte in mattes("in.mp4", predictor)]
    if codec == "png":
        names = sorted(Path("out").iterdir())
        assert names[0].name == ("f001.png" if "%" in target else "00001.png")
        found = [np.asarray(Image.open(name)) for name in names]
    else:
        found = [pixels for _, pixels in frames_of(Path(target))]
        step = Fraction(1, 1000) if target.endswith((".webm", ".mkv")) else 0
        pairs = zip(frames_of(Path(target)), times, strict=True)
        assert all(abs(time - want * TIME_BASE) <= step / 2 for (time, _), want in pairs)
    assert len(found) == 5
    for got, want in zip(found, wanted, strict=True):
        assert abs(got[..., 3].astype(int) - want[..., 3]).mean() <= loss / 3
        assert abs(got[..., 3].astype(int) - want[..., 3]).max() <= loss * 5
        seen = want[..., 3:] / 255
        assert abs((got[..., :3] - want[..., :3].astype(float)) * seen).mean() <= loss


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("in.mov", "prores_ks", "yuva444p10le"),
        ("in.mov", "qtrle", "argb"),
        ("in.webm", "libvpx-vp9", "yuva420p"),
        ("in.webm", "libvpx", "yuva420p"),
        ("in.mkv", "ffv1", "bgra"),
    ],
)
def test_what_is_transparent_stays_transparent(
    predictor: decoupe.Predictor, name: str, codec: str, pixel_format: str
) -> None:
    options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
    with av.open(name, "w") as out:
        stream: Any = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        for number in range(12):
            pixels = np.full((64, 96, 4), 255, np.uint8)
            pixels[..., :3] = (225, 30, 30)  # all of it the subject, as far as it shows
            pixels[16:48, 8 * number // 2 : 48, 3] = 0
            frame = av.VideoFrame.from_ndarray(pixels, format="rgba")
            out.mux(stream.encode(frame.reformat(format=pixel_format)))
        if name != "in.mov":  # FFV1 needs no mark, and some programs give it one
            stream.metadata["alpha_mode"] = "1"
        out.mux(stream.encode(None))
    found = [matte for _, matte in mattes(name, predictor)]
    assert len(found) == 12
    for number, matte in enumerate(found):
        clear = matte.alpha[20:44, 8 * number // 2 + 6 : 42]
        assert clear.size == 0 or clear.max() < 0.02
        assert matte.alpha[:10].min() > 0.9
        assert (matte.alpha <= matte.opacity).all()
    tail = [matte.alpha for _, matte in mattes(name, predictor, start=0.2, smooth=False)]
    whole = [matte.alpha for _, matte in mattes(name, predictor, smooth=False)]
    assert len(tail) == 7
    assert np.array_equal(tail[-1], whole[-1])
    for target, edits in (("out.mov", {}), ("grown.mov", {"grow": 40})):
        cut_video(name, target, predictor, edits=edits)
        (_, first), *_ = frames_of(Path(target))
        assert first[20:44, 6:42, 3].max() < 6
    behind = BackgroundVideo(name, 10**6)
    assert behind.at(Fraction(0)).shape == (64, 96, 4)


def test_edges_of_lossy_videos_are_not_darkened(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(3), noise=0)
    wanted = [np.asarray(matte.over("white"), float) for _, matte in mattes("in.mp4", predictor)]
    for target in ("out.webm", "out.mov"):
        cut_video("in.mp4", target, predictor)
        for (_, pixels), want in zip(frames_of(Path(target)), wanted, strict=True):
            alpha = pixels[..., 3:] / 255
            error = pixels[..., :3] * alpha + 255 * (1 - alpha) - want
            edge = (pixels[..., 3] > 20) & (pixels[..., 3] < 235)
            assert edge.any()
            assert abs(error[edge].mean()) < 4


@pytest.fixture
def deep_clip() -> np.ndarray:
    """Writes in.mkv, lossless in 10 bits: a red ramp of all levels; its frame, 16 bits."""
    frame = np.zeros((64, 256, 3), np.uint16)
    frame[16:48, 32:224, 0] = (600 << 6) + (np.arange(192, dtype=np.uint16)[None] << 6)
    with av.open("in.mkv", "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=25, options={"level": "3"})
        stream.width, stream.height, stream.pix_fmt = 256, 64, "gbrp10le"
        for number in range(3):
            made = av.VideoFrame.from_ndarray(frame, format="rgb48le").reformat(format="gbrp10le")
            made.pts, made.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(made))
        out.mux(stream.encode(None))
    return frame


@pytest.mark.parametrize(
    ("target", "options", "form", "loss"),
    [
        ("out.mkv", {}, "gbrap16le", 1 / 1023),
        ("out.mov", {}, "yuva444p10le", 6 / 1023),
        ("out.mp4", {"codec": "h265", "over": "white"}, "yuv420p10le", 24 / 1023),
    ],
)
def test_ten_bits_stay_ten(
    predictor: decoupe.Predictor,
    deep_clip: np.ndarray,
    target: str,
    options: dict[str, str],
    form: str,
    loss: float,
) -> None:
    cut_video("in.mkv", target, predictor, **options)
    with av.open(target) as written:
        frame = next(written.decode(video=0))
        assert frame.format.name == form
        seen = video_reader.pixels_of(frame, 256, 64, deep=True)
    ramp = seen[32, 60:200, 0].astype(int)
    assert abs(ramp - deep_clip[32, 60:200, 0]).max() <= loss * 65535
    assert len(np.unique(seen[24:40, 60:200, 0])) > 70  # of 8 bits there would be about 36


def test_ten_bits_in_pictures_and_mattes(predictor: decoupe.Predictor, deep_clip: np.ndarray) -> None:
    cut_video("in.mkv", "frames", predictor)
    first = read_image("frames/00001.png")
    assert first.pixels.dtype == np.uint16
    assert len(np.unique(first.pixels[32, 60:200, 0])) > 130
    cut_video("in.mkv", "matte.mkv", predictor, matte=True, codec="ffv1")
    with av.open("matte.mkv") as written:
        assert next(written.decode(video=0)).format.name == "gbrp16le"
    assert cut_video("in.mkv", "small.webm", predictor).codec == "vp9"  # which holds 8 with transparency


def test_mattes_are_edited(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(2), audio=None, noise=0)
    options = {"matte": True, "codec": "ffv1", "smooth": False}
    cut_video("in.mp4", "plain.mkv", predictor, **options)
    cut_video("in.mp4", "grown.mkv", predictor, edits={"threshold": 0.5, "grow": 3}, **options)
    plain, grown = (frames_of(Path(name))[0][1][..., 0] for name in ("plain.mkv", "grown.mkv"))
    assert set(np.unique(grown)) == {0, 255}
    width = (plain[32] >= 128).sum()
    assert (grown[32] == 255).sum() == width + 6
    with pytest.raises(decoupe.InputError, match="threshold is 3, expected a number from 0 to 1"):
        cut_video("in.mp4", "out.mov", predictor, edits={"threshold": 3})


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_matroska_file_cut_short_is_done_as_far_as_it_goes_and_told(
    predictor: decoupe.Predictor, suffix: str
) -> None:
    write_clip(Path("in.mp4"), uneven(60))
    cut_video("in.mp4", f"whole{suffix}", predictor, matte=True)
    whole = Path(f"whole{suffix}").read_bytes()
    for part, least in ((0.5, 10), (0.94, 50)):
        Path(f"short{suffix}").write_bytes(whole[: int(len(whole) * part)])
        with pytest.warns(VideoWarning, match=rf"short{suffix} ends after .* it may be damaged") as told:
            written = cut_video(f"short{suffix}", "out.mp4", predictor, matte=True, overwrite=True)
        assert [one.filename for one in told] == [__file__]
        assert least < written.frames < 60
        assert len(frames_of(Path("out.mp4"))) == written.frames
    assert cut_video(f"whole{suffix}", "all.mp4", predictor, matte=True).frames == 60


def test_a_shorter_sequence_replaces_a_longer_one_whole(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(6), audio=None)
    cut_video("in.mp4", "out", predictor)
    with pytest.raises(decoupe.OutputError, match=r"out/00001.png and 5 more exist: choose another output"):
        cut_video("in.mp4", "out", predictor)
    cut_video("in.mp4", "out", predictor, end=0.1, overwrite=True)
    assert sorted(path.name for path in Path("out").iterdir()) == ["00001.png", "00002.png"]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("out/", "{:05d}.png"),
        ("out/f%d.png", "f{}.png"),
        ("out/f%01d.png", "f{}.png"),
        ("out/a.%03d.b.png", "a.{:03d}.b.png"),
        ("out/%012d.PNG", "{:012d}.PNG"),
    ],
)
def test_no_frame_of_another_sequence_is_lost(predictor: decoupe.Predictor, target: str, names: str) -> None:
    write_clip(Path("in.mp4"), uneven(3), audio=None)
    Path("out").mkdir()
    others = [Path("out", name) for name in ("poster.png", "f007.png", "0002.png")]
    mine = [Path("out", names.format(number)) for number in (2, 12)]
    for path in [*mine, *others]:
        path.write_text("mine")
    with pytest.raises(
        decoupe.OutputError, match=rf"{mine[0].name} and 1 more exist: choose another"
    ) as told:
        cut_video("in.mp4", target, predictor)
    assert "(--overwrite)" in str(told.value)
    assert all(path.read_text() == "mine" for path in [*mine, *others])
    for path in mine:
        path.unlink()
    assert cut_video("in.mp4", target, predictor).frames == 3
    assert all(path.read_text() == "mine" for path in others)


def test_two_runs_do_not_work_on_one_output(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(5))

    def again(done: int, _: int | None) -> None:
        for overwrite in (False, True):
            with pytest.raises(decoupe.OutputError, match=r"another run is making out.mov: wait for it"):
                cut_video("in.mp4", "out.mov", predictor, overwrite=overwrite)

    assert cut_video("in.mp4", "out.mov", predictor, progress=again).frames == 5
    assert len(frames_of(Path("out.mov"))) == 5
    assert sorted(path.name for path in Path().iterdir()) == ["in.mp4", "out.mov"]


def test_names_with_colons(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mp4"), uneven(3)).rename("intro:final.mp4")
    assert cut_video(source, "take:1.mov", predictor).audio == "kept"
    assert len(frames_of(Path("take:1.mov").rename("take.mov"))) == 3


@pytest.mark.parametrize("base", [90_000, 1_000_000])
def test_mpeg4_of_sources_with_fine_clocks(predictor: decoupe.Predictor, base: int) -> None:
    with av.open("in.mov", "w", options={"video_track_timescale": str(base)}) as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, base)
        for number in range(4):
            frame = av.VideoFrame.from_ndarray(picture(number, 64, 48), format="rgb24")
            frame.pts, frame.time_base = number * base // 30 + number * number, Fraction(1, base)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    cut_video("in.mov", "out.mp4", predictor, codec="mpeg4", over="white")
    times = [time for time, _ in frames_of(Path("out.mp4"))]
    assert times == [Fraction(number * base // 30 + number * number, base) for number in range(4)]


def test_what_a_file_tells_of_itself_is_kept_without_sound_too(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(2), audio=None, tags={"title": "Cuts"})
    cut_video("in.mp4", "out.mov", predictor)
    with av.open("out.mov") as clip:
        assert clip.metadata["title"] == "Cuts"


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mov", "mpeg4"),
        ("a.mkv", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
    ],
)
def test_a_video_where_a_picture_is_expected_is_told_as_one(name: str, codec: str) -> None:
    with av.open(name, "w") as clip:
        stream: Any = clip.add_stream(codec, rate=25, width=96, height=64, pix_fmt="yuv420p")
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, 96, 64))))
        clip.mux(stream.encode())
    with pytest.raises(decoupe.InputError, match="is a video, not a picture: use decoupe video"):
        read_image(name)


@pytest.mark.parametrize("transparent", [True, False])
def test_prores_is_what_its_slow_search_would_choose(transparent: bool) -> None:
    codec = CODECS["prores"]
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 4), np.uint8)
    kind = codec.pixel_format(transparent=transparent, deep=False)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgba").reformat(format=kind)
    found = []
    for options in (codec.settings(transparent=transparent), dict(codec.options)):
        coder: Any = av.CodecContext.create("prores_ks", "w")
        coder.width, coder.height, coder.pix_fmt = 160, 96, kind
        coder.time_base, coder.options = TIME_BASE, options
        found.append([bytes(packet) for packet in [*coder.encode(frame), *coder.encode()]])
    assert found[0] == found[1]


@pytest.mark.parametrize(("dtype", "step"), [(np.uint8, 1), (np.uint16, 257)])
def test_hidden_pixels_get_the_subjects_colours(dtype: type, step: int) -> None:
    pixels = np.zeros((64, 64, 4), dtype)
    pixels[20:40, 20:40] = np.multiply((200, 100, 50, 255), step)
    filled = surrounded(pixels)
    assert filled.dtype == dtype
    assert np.array_equal(filled[..., 3], pixels[..., 3])
    assert np.array_equal(filled[20:40, 20:40], pixels[20:40, 20:40])
    assert abs(filled[30, 41:46, :3] / step - (200, 100, 50)).max() <= 12


def test_over_things_and_the_matte(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(6))
    Image.new("RGB", (30, 30), "blue").save("blue.png")
    write_clip(Path("back.mp4"), [0, 1000, 2000], size=(48, 32), audio=None)
    away = {}
    for name, options in {
        "white": {"over": "white"},
        "picture": {"over": "blue.png"},
        "video": {"over": "back.mp4"},
        "blur": {"over": "blur"},
        "matte": {"matte": True},
    }.items():
        assert cut_video("in.mp4", f"{name}.mp4", predictor, **options).codec == "h264"
        frames = frames_of(Path(f"{name}.mp4"))
        assert len(frames) == 6
        away[name] = frames[0][1][60, 90, :3].astype(int)
        inside = frames[0][1][32, 22, :3].astype(int)
        assert abs(inside - (255 if name == "matte" else (225, 30, 30))).max() < 25, name
    assert away["white"].min() > 245
    assert abs(away["picture"] - (0, 0, 255)).max() < 12
    assert abs(away["video"] - (70, 130, 120)).max() < 12
    assert away["matte"].max() < 16


def test_a_background_video_is_shown_at_its_times_and_begins_anew() -> None:
    write_clip(Path("back.mp4"), [0, 6144, 12288], audio=None, noise=0)
    background = BackgroundVideo("back.mp4", 10**6)
    own = [matte[1] for matte in frames_of(Path("back.mp4"))]

    def shown(seconds: float) -> int:
        pixels = background.at(Fraction(seconds))
        return int(np.argmin([abs(pixels - frame[..., :3].astype(int)).mean() for frame in own]))

    # The file tells that the last frame is shown for a 25th of a second.
    assert [shown(time) for time in (0, 0.39, 0.41, 0.79, 0.81, 0.83, 0.85, 1.25)] == [0, 0, 1, 1, 2, 2, 0, 1]


@plain_cutouts
def test_a_background_that_is_cut_short_is_told_once(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mp4"), uneven(20), audio=None)
    ground = write_clip(Path("ground.mkv"), uneven(75), audio=None)
    whole = ground.read_bytes()
    ground.write_bytes(whole[: len(whole) // 8])
    with pytest.warns(VideoWarning) as told:
        cut_video(source, "out.mkv", predictor, over=ground)
    assert [str(one.message).partition(" ends after")[0] for one in told] == ["ground.mkv"]


def test_a_video_can_be_left_before_its_end(predictor: decoupe.Predictor) -> None:
    """The file is closed after what reads it ahead: this ended the process."""
    write_clip(Path("in.mp4"), uneven(60), audio=None)
    for _ in range(5):
        found = mattes("in.mp4", predictor)
        next(found)
        del found


@plain_cutouts
@pytest.mark.parametrize("target", ["out.mov", "out.mp4", "out.mkv", "out.webm"])
def test_files_tell_the_rate_and_the_length_of_the_source(predictor: decoupe.Predictor, target: str) -> None:
    """Players take them from there: neither the first frames' steps nor the pieces' own rate are it."""
    source = write_clip(Path("in.mp4"), [614 * number for number in range(12)], audio=None)
    cut_video(source, target, predictor, matte=target not in ("out.mov", "out.webm"))
    reader = VideoReader(target)
    assert float(reader.rate) == pytest.approx(15360 / 614, rel=0.01)
    assert reader.duration is not None
    assert float(reader.duration * reader.time_base) == pytest.approx(12 * 614 / 15360, abs=0.0015)
    assert reader.count == 12
    reader.close()
    with av.open(target) as clip:
        assert float(clip.streams.video[0].average_rate) == pytest.approx(15360 / 614, rel=0.05)


def test_a_file_that_tells_no_rate(predictor: decoupe.Predictor) -> None:
    """The clock of its codec is none: VP9 could not be written with a rate that is beyond the file's own."""
    write_clip(Path("in.mp4"), uneven(5))
    with av.open("in.mp4") as clip, av.open("in.mkv", "w") as out:
        stream = out.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with av.open("in.mkv") as clip:
        assert clip.streams.video[0].average_rate == TIME_BASE.denominator
    assert cut_video("in.mkv", "out.webm", predictor).frames == 5


@pytest.mark.parametrize("target", ["out.mov", "out.mkv"])
def test_the_last_picture_of_a_slide_show_is_shown_as_long_as_before(
    predictor: decoupe.Predictor, target: str
) -> None:
    slides = [Image.fromarray(picture(number, 96, 64)) for number in range(0, 60, 15)]
    slides[0].save("in.gif", save_all=True, append_images=slides[1:], duration=[100, 100, 100, 3000])
    cut_video("in.gif", target, predictor)
    with av.open(target) as clip:
        assert clip.duration == pytest.approx(3.3e6, abs=2e3)
    again = VideoReader(target)
    ticks = [time for time, _ in again.frames()]
    assert float((ticks[-1] + again.lasting(ticks[-1])) * again.time_base) == pytest.approx(3.3, abs=2e-3)
    again.close()


def test_a_long_last_picture_is_no_damage(predictor: decoupe.Predictor) -> None:
    write_clip(Path("show.mp4"), [*(600 * number for number in range(50)), 600 * 50], audio=None)
    with av.open("show.mp4") as clip, av.open("long.mp4", "w") as out:
        stream = out.add_stream_from_template(clip.streams.video[0])
        packets = [packet for packet in clip.demux(video=0) if packet.size]
        for packet in packets:
            packet.stream = stream
            packet.duration = 10 * 15360 if packet is packets[-1] else packet.duration
            out.mux(packet)
    options = {"matte": True, "codec": "prores"}
    assert cut_video("long.mp4", "out.mov", predictor, **options).frames == 51
    assert cut_video("long.mp4", "part.mov", predictor, end=4, **options).frames == 51
    with av.open("part.mov") as clip:
        assert clip.duration == pytest.approx(4e6, abs=2e3)


@plain_cutouts
def test_part_of_a_video(predictor: decoupe.Predictor) -> None:
    times = uneven(60)
    source = write_clip(Path("in.mp4"), times)
    cut_video(source, "part.mov", predictor, start="0:00.5", end=1.25)
    start, end = 7680, 19200
    wanted = [time - start for time in times if start <= time < end]
    assert [time for time, _ in frames_of(Path("part.mov"))] == [time * TIME_BASE for time in wanted]
    assert len(sound_of(Path("part.mov"))) / RATE == pytest.approx(0.75, abs=2 * 1024 / RATE)
    whole = [matte.image for _, matte in mattes(source, predictor)]
    first = next(mattes(source, predictor, start=0.5))[1].image
    assert np.array_equal(first, whole[[time >= start for time in times].index(True)])


@plain_cutouts
def test_audio_that_the_container_cannot_hold_is_encoded_again(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mp4"), uneven(40)[::4])
    assert cut_video(source, "out.webm", predictor).audio == "encoded again"
    with av.open("out.webm") as clip:
        assert clip.streams.audio[0].codec_context.name == "opus"
    one, other = sound_of(source), sound_of(Path("out.webm"))
    assert len(other) == pytest.approx(len(one), abs=2 * 1024)
    common = min(len(one), len(other))
    assert np.corrcoef(one[:common], other[:common])[0, 1] > 0.95  # in time with each other
    assert sound_begins(Path("out.webm")) == pytest.approx(sound_begins(source), abs=0.03)
    cut_video(source, "part.webm", predictor, start=0.4)
    assert sound_begins(Path("part.webm")) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(
    ("codec", "name", "target", "audio"),
    [
        ("libopus", "in.mkv", "out.mov", "encoded again"),
        ("flac", "in.mkv", "out.mov", "encoded again"),
        ("pcm_s16le", "in.mov", "out.mp4", "kept"),
        ("pcm_s16le", "in.avi", "out.mp4", "encoded again"),  # which tells no loudspeakers
        ("ac3", "in.mkv", "out.webm", "encoded again"),  # 5.1(side), which Opus has not
    ],
)
def test_audio_of_a_listed_codec_that_the_container_refuses(
    predictor: decoupe.Predictor, codec: str, name: str, target: str, audio: str
) -> None:
    source = write_clip(Path(name), uneven(3), audio=codec, layout="5.1" if codec == "ac3" else "mono")
    assert cut_video(source, target, predictor, over="white").audio == audio
    assert packets_of(Path(target))


@plain_cutouts
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out.webm"])
def test_tracks_keep_their_names_and_which_is_chosen(predictor: decoupe.Predictor, target: str) -> None:
    source = write_clip(Path("in.mkv"), uneven(10))
    told = ({"language": "ger", "title": "Regie"}, {"language": "fra", "title": "Version"})
    with av.open(str(source)) as clip, av.open("two.mkv", "w") as out:
        sound = clip.streams.audio[0]
        tracks: list[Any] = [out.add_stream_from_template(track) for track in (*clip.streams, sound)]
        for track, tags in zip(tracks[1:], told, strict=True):
            track.metadata.update(tags)
        tracks[2].disposition = av.stream.Disposition.default.value
        for packet in clip.demux():
            for track in tracks[1:] if packet.stream is sound else tracks[:1]:
                if packet.size:
                    packet.stream = track
                    out.mux(packet)
    cut_video("two.mkv", target, predictor, over="white")
    with av.open(target) as clip:
        found = [(track.metadata, track.disposition.value) for track in clip.streams.audio]
    assert len(found) == 2
    for (metadata, _), tags in zip(found, told, strict=True):
        assert metadata["language"] == tags["language"]
        assert metadata["handler_name" if target == "out.mp4" else "title"] == tags["title"]
    assert [chosen & 1 for _, chosen in found] == [0, 1]


LINES = {(0.1, 0.5): "un", (0.7, 1.3): "deux", (1.4, 1.5): "trois"}


@pytest.mark.parametrize(
    ("name", "target"), [("in.mkv", "out.mkv"), ("in.mp4", "out.mov"), ("in.mp4", "out.mp4")]
)
@pytest.mark.parametrize("audio", ["aac", None])
def test_subtitles_are_kept_and_stay_at_their_times(
    predictor: decoupe.Predictor, name: str, target: str, audio: str | None
) -> None:
    source = add_subtitles(write_clip(Path("clip.mp4"), uneven(50)[::2], audio=audio), Path(name), LINES)
    written = cut_video(source, target, predictor, matte=True)
    assert (written.audio, written.subtitles) == ("kept" if audio else "none", "kept")
    assert subtitles_of(Path(target)) == LINES
    cut_video(source, target, predictor, matte=True, start=0.3, end=1, overwrite=True)
    assert subtitles_of(Path(target)) == {(0, 0.2): "un", (0.4, 0.7): "deux"}
    with av.open(target) as clip:
        assert clip.duration == pytest.approx(0.7e6, abs=0.05e6)
    none = cut_video(source, target, predictor, matte=True, start=0.51, end=0.69, overwrite=True)
    assert (none.subtitles, subtitles_of(Path(target))) == ("kept", {})


@plain_cutouts
def test_subtitles_that_the_container_cannot_hold_are_left_out(predictor: decoupe.Predictor) -> None:
    source = add_subtitles(write_clip(Path("clip.mp4"), uneven(10)), Path("in.mkv"), {(0.1, 0.2): "un"})
    for target in ("out.mov", "out.webm"):
        assert cut_video(source, target, predictor).subtitles == "left out"
        with av.open(target) as clip:
            assert not clip.streams.subtitles
    assert cut_video(source, "frames", predictor).subtitles == "none"


def broadcast(path: Path, *parts: tuple[float, str]) -> Path:
    """A transport stream of ten frames and a second of AC-3 for each of the parts: seconds, loudspeakers."""
    files = []
    for seconds, layout in parts:
        files.append(Path(f"part{len(files)}.ts"))
        with av.open(str(files[-1]), "w", format="mpegts") as out:
            stream: Any = out.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            sound: Any = out.add_stream("ac3", rate=RATE, layout=layout)
            for number in range(10):
                frame: Any = av.VideoFrame.from_ndarray(picture(number, 96, 64), format="rgb24")
                frame.pts, frame.time_base = round(25 * seconds) + number, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
            silence = np.zeros((sound.layout.nb_channels, RATE), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout=layout)
            frame.rate, frame.pts, frame.time_base = RATE, round(RATE * seconds), Fraction(1, RATE)
            out.mux(sound.encode(frame))
            out.mux(sound.encode(None))
    path.write_bytes(b"".join(file.read_bytes() for file in files))
    return path


def test_sound_that_changes_its_loudspeakers(predictor: decoupe.Predictor) -> None:
    source = broadcast(Path("in.ts"), (10, "stereo"), (11, "5.1"))
    written = cut_video(source, "out.mkv", predictor, matte=True)
    assert (written.audio, written.frames) == ("kept", 20)
    assert cut_video(source, "out.webm", predictor, matte=True).audio == "encoded again"
    assert len(sound_of(Path("out.webm"))) / RATE == pytest.approx(2, abs=0.1)


@plain_cutouts
def test_a_clock_that_jumps_back_is_told(predictor: decoupe.Predictor) -> None:
    source = broadcast(Path("in.ts"), (10, "stereo"), (4, "stereo"))
    with pytest.raises(
        decoupe.InputError, match=r"in\.ts jumps back in time after 0\.3\d+ s, as recordings do"
    ):
        cut_video(source, "out.mov", predictor)
    assert cut_video(source, "out.mov", predictor, end=0.36, overwrite=True).frames <= 10


@plain_cutouts
@pytest.mark.parametrize("name", ["in.mkv", "in.ts"])
def test_sound_after_the_last_frame_stays_where_no_end_was_asked_for(
    predictor: decoupe.Predictor, name: str
) -> None:
    source = broadcast(Path("in.ts"), (10, "stereo"))  # 0.4 s of frames, 1 s of sound
    if name != source.name:
        with av.open(str(source)) as clip, av.open(name, "w") as out:
            streams = {one.index: out.add_stream_from_template(one) for one in clip.streams}
            for packet in clip.demux():
                if packet.size:
                    packet.pts, packet.dts = packet.pts - 900_000, packet.dts - 900_000
                    packet.stream = streams[packet.stream.index]
                    out.mux(packet)
    cut_video(name, "whole.mov", predictor)
    assert len(sound_of(Path("whole.mov"))) / RATE == pytest.approx(1, abs=0.05)
    cut_video(name, "later.mov", predictor, start=0.2)
    assert len(sound_of(Path("later.mov"))) / RATE == pytest.approx(0.8, abs=0.05)
    cut_video(name, "part.mov", predictor, start=0.1, end=0.3)
    assert len(sound_of(Path("part.mov"))) / RATE == pytest.approx(0.2, abs=0.07)


@plain_cutouts
def test_damaged_sound_is_left_out_and_told(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mkv"), uneven(40)[::4])
    content = bytearray(source.read_bytes())
    damaged = packets_of(source)[20]
    place = content.index(damaged)
    content[place : place + len(damaged)] = b"\xff" * len(damaged)
    source.write_bytes(content)
    with pytest.warns(VideoWarning, match=r"part of the sound of in\.mkv is damaged, and left out") as told:
        written = cut_video(source, "out.webm", predictor)
    assert [one.filename for one in told] == [__file__]
    assert (written.frames, written.audio) == (10, "encoded again")


@pytest.mark.parametrize("target", ["out.mp4", "out.mov", "out.mkv"])
def test_a_timecode_is_no_obstacle(predictor: decoupe.Predictor, target: str) -> None:
    source = write_clip(Path("in.mkv"), uneven(3), tags={"TIMECODE": "01:00:00:00", "title": "Cuts"})
    cut_video(source, target, predictor, over="white")
    with av.open(target) as clip:
        assert {name.lower(): value for name, value in clip.metadata.items()}["title"] == "Cuts"


def test_a_video_without_sound(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mp4"), uneven(3), audio=None)
    assert cut_video("in.mp4", "out.mov", predictor).audio == "none"


def test_odd_sides(predictor: decoupe.Predictor) -> None:
    frames = [np.full((33, 51, 4), 200, np.uint8)] * 2
    with av.open("odd.mkv", "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 51, 33, "bgra"
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="bgra")))
        out.mux(stream.encode(None))
    for target, options, shape in (("a.mov", {}, (33, 51)), ("b.mp4", {"over": "white"}, (34, 52))):
        written = cut_video("odd.mkv", target, predictor, **options)
        assert (written.height, written.width) == shape
        assert frames_of(Path(target))[0][1].shape[:2] == shape
    assert cut_video("odd.mkv", "c.webm", predictor).frames == 2
    assert frames_of(Path("c.webm"))[0][1].shape[:2] == (33, 51)


def test_colours_survive(predictor: decoupe.Predictor) -> None:
    """Through the source's matrix and back through the output's, as a player reads both."""
    write_clip(Path("in.mp4"), uneven(2), noise=0)
    cut_video("in.mp4", "out.mp4", predictor, over="#4682b4")
    pixels = frames_of(Path("out.mp4"))[0][1][50:, 60:, :3].astype(int)
    _, matte = next(mattes("in.mp4", predictor))
    wanted = np.asarray(matte.over("#4682b4"))[50:, 60:]
    assert abs(pixels - wanted).max() <= 3


WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""How much red and blue weigh in luma, by the matrices' numbers: BT.709, BT.601 and BT.2020."""
PRIMARIES = np.array(np.meshgrid(*[(0, 255)] * 3)).reshape(3, -1).T
GREYS = np.repeat([[16], [64], [128], [192]], 3, axis=1)
SKIN_AND_SKY = [(224, 172, 105), (141, 85, 36), (255, 219, 172), (70, 130, 180)]
FLAT = np.concatenate([PRIMARIES, GREYS, SKIN_AND_SKY]).reshape(4, 4, 3)
"""Colours, each in a square of 16 pixels."""


def squares(values: np.ndarray, side: int = 16) -> np.ndarray:
    return values.repeat(side, axis=0).repeat(side, axis=1)


def ycbcr_of(colours: np.ndarray, matrix: int, bits: int, full: bool) -> np.ndarray:
    """By ITU-T H.273's equations, rounded."""
    (red, blue), (r, g, b) = WEIGHTS[matrix], np.moveaxis(colours / 255, -1, 0)
    luma = red * r + (1 - red - blue) * g + blue * b
    chroma = np.stack([(b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)], -1)
    if full:
        most = 2**bits - 1
        found = np.dstack([luma * most, chroma * most + 2 ** (bits - 1)])
        return found.round().clip(0, most)
    return (np.dstack([219 * luma + 16, 224 * chroma + 128]) * 2 ** (bits - 8)).round()


def rgb_of(stored: np.ndarray, matrix: int, bits: int, full: bool) -> np.ndarray:
    """The other way, in [0, 255]."""
    (red, blue), unit = WEIGHTS[matrix], 2 ** (bits - 8)
    luma, *chroma = np.moveaxis(stored, -1, 0)
    if full:
        luma, (cb, cr) = luma / (2**bits - 1), [(part - 128 * unit) / (2**bits - 1) for part in chroma]
    else:
        luma, (cb, cr) = (luma / unit - 16) / 219, [(part / unit - 128) / 224 for part in chroma]
    r, b = luma + (2 - 2 * red) * cr, luma + (2 - 2 * blue) * cb
    return np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], -1).clip(0, 1) * 255


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("form", "bits"),
    [
        ("yuv420p", 8),
        ("yuva420p", 8),
        ("yuv422p", 8),
        ("yuv420p10le", 10),
        ("yuv422p10le", 10),
        ("yuva444p10le", 10),
        ("yuv444p12le", 12),
    ],
)
def test_colours_are_read_as_their_equations_say(form: str, bits: int, full: bool) -> None:
    frame = av.VideoFrame(64, 64, form)
    frame.color_range = 2 if full else 1
    alpha = np.arange(16).reshape(4, 4) * 2 ** (bits - 4)
    for matrix in WEIGHTS:
        frame.colorspace = matrix
        stored = ycbcr_of(FLAT, matrix, bits, full)
        for number, plane in enumerate(frame.planes):
            values = stored[..., number] if number < 3 else alpha
            held: Any = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16).reshape(plane.height, -1)
            sides = 16 * plane.height // 64, 16 * plane.width // 64
            held[:, : plane.width] = values.repeat(sides[0], axis=0).repeat(sides[1], axis=1)
        for deep in {False, bits > 8}:
            found = video_reader.pixels_of(frame, 64, 64, deep=deep)[8::16, 8::16] / (257 if deep else 1)
            error = found[..., :3] - rgb_of(stored, matrix, bits, full)
            assert abs(error).max() < (0.03 if deep else 0.53)
            if "a" in form:
                assert abs(found[..., 3] - alpha / (2**bits - 1) * 255).max() < (0.01 if deep else 0.501)


@pytest.mark.parametrize(
    ("codec", "transparent", "deep"),
    [
        (codec, transparent, deep)
        for codec, kind in CODECS.items()
        for transparent in ([False] if kind.alpha is None else [False, True])
        for deep in ([False] if kind.deep is None else [False, True])
    ],
)
def test_colours_and_alpha_are_written_as_they_are(codec: str, transparent: bool, deep: bool) -> None:
    target = next(ending for ending, one in CONTAINERS.items() if codec in one.codecs)
    form = form_of(f"out{target}", codec, transparent=transparent)
    pixels = squares(np.dstack([FLAT, 16 * np.arange(1, 17).reshape(4, 4) - 1])).astype(np.uint8)
    pixels = pixels if transparent else pixels[..., :3]
    for matrix in [5] if codec == "mpeg4" else WEIGHTS:  # of which a .mov tells no matrix alone
        look, path = video_reader.Look(matrix=matrix), Path(f"out{target}")
        frames = [(0, pixels * np.uint16(257) if deep else pixels)]
        encoding.write_piece(path, form, frames, time_base=Fraction(1, 25), rate=Fraction(25), look=look)
        ((_, found),) = VideoReader(str(path), deep=deep).frames()
        error = (found / (257 if deep else 1) - pixels)[8::16, 8::16]
        # What a lossy codec changes is as often darker as brighter.
        assert abs(error[..., :3]).max() <= (0 if form.lossless else 3.01)
        assert abs(error[..., :3].mean()) <= 0.4
        assert abs(error[..., 3:]).max(initial=0) <= (0.16 if deep else 0)


@pytest.mark.parametrize(("target", "codec"), [("out.mp4", "h264"), ("out.mp4", "h265"), ("out.webm", "vp9")])
def test_colours_of_narrow_stripes_stay_in_their_places(target: str, codec: str) -> None:
    wave = 128 + 100 * np.sin(np.arange(96) * 2 * np.pi / 16)
    pixels = np.stack(np.broadcast_arrays(128, 128, wave[np.newaxis].repeat(64, 0)), -1).astype(np.uint8)
    form, look = form_of(target, codec, transparent=False), video_reader.Look(matrix=5)
    ticks, rate = Fraction(1, 25), Fraction(25)
    encoding.write_piece(Path(target), form, [(0, pixels)], time_base=ticks, rate=rate, look=look)
    ((_, found),) = VideoReader(target).frames()
    error = (found.astype(int) - pixels)[:, 8:-8, 2]
    assert abs(error).mean() < 8  # half a pixel aside it is 12


def test_files_tell_their_colours(predictor: decoupe.Predictor) -> None:
    """Primaries, transfer and matrix (ITU-T H.273) of a camera's video, in the file and in its frames."""
    with av.open("in.mp4", "w") as out:
        stream: Any = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9
        frame = av.VideoFrame.from_ndarray(picture(0, 64, 48), format="rgb24")
        out.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=9)))
        out.mux(stream.encode(None))
    options: dict[str, dict[str, Any]] = {
        "prores.mov": {},
        "rle.mov": {"codec": "qtrle"},
        "vp9.webm": {},
        "h264.mp4": {"over": "white"},
    }
    for target, asked in options.items():
        cut_video("in.mp4", target, predictor, **asked)
        with av.open(target) as made:
            told = made.streams.video[0].codec_context
            shown = next(made.decode(video=0))
        matrix = 0 if target == "rle.mov" else 9
        assert (told.color_primaries, told.color_trc, told.colorspace) == (9, 16, matrix), target
        assert (shown.color_primaries, shown.color_trc, shown.colorspace) == (9, 16, matrix), target
    cut_video("in.mp4", "frames", predictor)
    assert b"cICP\x09\x10\0\1" in Path("frames/00001.png").read_bytes()
    write_clip(Path("plain.mp4"), [0], audio=None)
    cut_video("plain.mp4", "plain", predictor)
    assert b"cICP" not in Path("plain/00001.png").read_bytes()


@pytest.mark.parametrize("smooth", [True, False])
def test_an_interrupted_run_goes_on_and_equals_an_uninterrupted_one(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch, smooth: bool
) -> None:
    monkeypatch.setattr(video, "PIECE", 6)
    write_clip(Path("in.mp4"), uneven(20))
    options = {"batch_size": 3, "smooth": smooth, "codec": "qtrle"}
    cut_video("in.mp4", "whole.mov", predictor, **options)

    def interrupt(done: int, _: int | None) -> None:
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_video("in.mp4", "out.mov", predictor, progress=interrupt, **options)
    assert not Path("out.mov").exists()
    with pytest.raises(decoupe.InputError, match=r"another smooth: give what was given then, or begin anew"):
        cut_video("in.mp4", "out.mov", predictor, **{**options, "smooth": not smooth})
    written = cut_video("in.mp4", "out.mov", predictor, **options)
    assert (written.frames, written.resumed) == (20, 6)
    assert Path("out.mov").read_bytes() == Path("whole.mov").read_bytes()
    assert not Path("out.mov.part").exists()


@pytest.mark.parametrize(("target", "codec"), [("out.mkv", "ffv1"), ("out.webm", "vp9"), ("out.mp4", "h265")])
def test_two_runs_write_the_same_bytes(predictor: decoupe.Predictor, target: str, codec: str) -> None:
    """Of H.264 frames alone are the same before they are encoded: x264's threads do not always agree."""
    write_clip(Path("in.mp4"), uneven(5))
    made = []
    for _ in range(2):
        cut_video("in.mp4", target, predictor, over="white", codec=codec, overwrite=True)
        made.append(Path(target).read_bytes())
    assert made[0] == made[1]


def _interrupted(target: str, predictor: decoupe.Predictor, **options: Any) -> None:
    """Leave a run with its first pieces; `video.PIECE` is small."""

    def interrupt(done: int, _: int | None) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_video("in.mp4", target, predictor, batch_size=2, progress=interrupt, **options)


def _interrupted_while_moving(
    source: str, predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> None:
    """Leave a run of which three frames have their names."""
    real = pieces.sequence_path

    def interrupt(target: Path, number: int) -> Path:
        if number == 4:
            raise KeyboardInterrupt
        return real(target, number)

    with monkeypatch.context() as patched:
        patched.setattr(pieces, "sequence_path", interrupt)
        with pytest.raises(KeyboardInterrupt):
            cut_video(source, "out", predictor, **options)


@plain_cutouts
@pytest.mark.parametrize(("target", "path"), [("out.mkv", "out.mkv"), ("out", "out/00005.png")])
def test_what_was_written_since_an_interruption_is_not_replaced(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch, target: str, path: str
) -> None:
    monkeypatch.setattr(video, "PIECE", 2)
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    _interrupted(target, predictor)
    mine = Path(path)
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    line = rf"{path} exists: choose another output.*\(--overwrite\); what is made is kept in {target}.part"
    with pytest.raises(decoupe.OutputError, match=line):
        cut_video("in.mp4", target, predictor, batch_size=2)
    assert mine.read_text() == "mine"
    mine.unlink()
    written = cut_video("in.mp4", target, predictor, batch_size=2)
    assert (written.frames, written.resumed) == (8, 4)
    assert not Path(f"{target}.part").exists()


@plain_cutouts
@pytest.mark.parametrize(("target", "path"), [("out.mkv", "out.mkv"), ("out", "out/00005.png")])
@pytest.mark.parametrize("asked", [False, True])
def test_what_was_written_during_a_run_is_replaced_only_when_asked(
    predictor: decoupe.Predictor, target: str, path: str, asked: bool
) -> None:
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    mine = Path(path)

    def write(done: int, _: int | None) -> None:
        if done == 8:
            mine.parent.mkdir(exist_ok=True)
            mine.write_text("mine")

    if asked:
        assert cut_video("in.mp4", target, predictor, progress=write, overwrite=True).frames == 8
        assert mine.read_bytes() != b"mine"
        return
    with pytest.raises(decoupe.OutputError, match=rf"{path} exists: .* kept in {target}.part, and the same"):
        cut_video("in.mp4", target, predictor, progress=write)
    assert mine.read_text() == "mine"
    mine.unlink()
    written = cut_video("in.mp4", target, predictor)
    assert (written.frames, written.resumed) == (8, 8)


@plain_cutouts
@pytest.mark.parametrize(("target", "path"), [("out.mkv", "out.mkv"), ("out", "out/00005.png")])
def test_a_run_that_was_to_overwrite_goes_on_so(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch, target: str, path: str
) -> None:
    monkeypatch.setattr(video, "PIECE", 2)
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    cut_video("in.mp4", target, predictor, end=0.2)
    _interrupted(target, predictor, overwrite=True)
    written = cut_video("in.mp4", target, predictor, batch_size=2)
    assert (written.frames, written.resumed) == (8, 4)
    assert Path(path).exists()


@plain_cutouts
def test_a_sequence_that_was_being_moved_goes_on(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "PIECE", 2)
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    cut_video("in.mp4", "whole", predictor, batch_size=2)
    _interrupted_while_moving("in.mp4", predictor, monkeypatch, batch_size=2)
    assert sorted(path.name for path in Path("out").iterdir()) == ["00001.png", "00002.png", "00003.png"]
    mine = Path("out/00005.png")
    mine.write_text("mine")
    with pytest.raises(decoupe.OutputError, match=r"out/00005.png exists: choose another output"):
        cut_video("in.mp4", "out", predictor, batch_size=2)
    assert mine.read_text() == "mine"
    assert len(list(Path("out").iterdir())) == 4
    mine.unlink()
    assert cut_video("in.mp4", "out", predictor, batch_size=2).resumed == 8
    found, wanted = (
        {path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("out", "whole")
    )
    assert found == wanted
    assert not Path("out.part").exists()


@plain_cutouts
def test_frames_that_a_killed_webcam_run_moved_are_not_replaced(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_reader.sys, "platform", "linux")
    monkeypatch.setitem(video_reader.DEVICES, "linux", ("lavfi", "testsrc=size=64x48:rate=25"))
    _interrupted_while_moving("webcam", predictor, monkeypatch, end=0.3)
    frames = {path: path.read_bytes() for path in Path("out").iterdir()}
    with pytest.raises(decoupe.OutputError, match=r"out/00001.png and 2 more exist: choose another output"):
        cut_video("webcam", "out", predictor, end=0.3)
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == frames


@plain_cutouts
@pytest.mark.parametrize("other", ["model.onnx", "other/model.onnx"])
def test_a_run_does_not_go_on_with_another_model_of_the_same_name(
    monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(video, "PIECE", 2)
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    one = decoupe.load(write_onnx(Path("model.onnx")))
    _interrupted("out.mkv", one)
    Path("other").mkdir()
    two = decoupe.load(write_onnx(Path(other), sigmoid=False))
    assert one.describe() == two.describe()
    with pytest.raises(decoupe.InputError, match=r"an interrupted run with another model file: give what"):
        cut_video("in.mp4", "out.mkv", two, batch_size=2)
    assert cut_video("in.mp4", "out.mkv", one, batch_size=2).resumed == 4  # as it was when it was opened


@plain_cutouts
def test_a_model_without_a_file_goes_on_by_its_description(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "PIECE", 2)
    write_clip(Path("in.mp4"), uneven(8), audio=None)
    own = decoupe.Predictor(predictor.runtime)
    _interrupted("out.mkv", own)
    described = Path("out.mkv.part/job.json")
    job = described.read_text()
    older = {name: value for name, value in json.loads(job).items() if name != "model file"}
    described.write_text(json.dumps(older))
    with pytest.raises(decoupe.InputError, match=r"an interrupted run with another model file: give what"):
        cut_video("in.mp4", "out.mkv", own, batch_size=2)
    described.write_text(job)
    assert cut_video("in.mp4", "out.mkv", decoupe.Predictor(predictor.runtime), batch_size=2).resumed == 4


def test_times() -> None:
    assert [seconds_of(time) for time in (2, 2.5, "2.5", "1:02", "1:00:02.5")] == [
        2,
        Fraction(5, 2),
        Fraction(5, 2),
        62,
        Fraction(7205, 2),
    ]
    for wrong in ("", "x", "-1", "1:60", "1:2:3:4", "1/2", "nan", "inf", -1, "1:-2"):
        with pytest.raises(decoupe.InputError, match="is not a time, expected seconds"):
            seconds_of(wrong)
    with pytest.raises(decoupe.InputError, match="does not come after the start, 3"):
        interval(3, "0:02")
    with pytest.raises(decoupe.InputError, match="'99999999999999999999' is later than any video lasts"):
        seconds_of("99999999999999999999")


@pytest.mark.parametrize(
    ("target", "codec", "transparent", "line"),
    [
        ("out.avi", None, True, r"unknown kind of video '.avi'; (did you mean|known)"),
        ("out.mp4", None, True, "mp4 has no transparency: name a .mov or .webm file, or put"),
        ("out.mov", "h264", True, "h264 has no transparency"),
        ("out.mov", "prorez", True, "unknown codec 'prorez'; did you mean 'prores'?"),
        ("out.webm", "h264", False, ".webm cannot hold h264: it can hold vp9"),
        ("out.png", None, True, "out.png is one picture: name a pattern with %d or %05d"),
        ("out/%5d.png", None, True, "%5d.png is one picture: name a pattern with %d or %05d"),
        ("out/%05D.png", None, True, "%05D.png is one picture"),
        ("out/%0999999999d.png", None, True, "%0999999999d.png is one picture"),
        ("o" * 240 + "%030d.png", None, True, r"o%030d.png makes names that are too long: .* shorter"),
        ("out", "prores", True, "is a sequence of PNG files: leave the codec out"),
    ],
)
def test_forms_that_are_not_written(target: str, codec: str | None, transparent: bool, line: str) -> None:
    with pytest.raises(decoupe.OutputError, match=line):
        form_of(target, codec, transparent=transparent)


@pytest.mark.parametrize(
    "target", ["take1.0/", "clip.mp4-frames/", "there.mov", "out", "a/f%05d.png", "F%d.PNG"]
)
def test_folders_and_patterns_are_sequences(target: str) -> None:
    Path("there.mov").mkdir()
    assert form_of(target, None, transparent=True).word == "png"


def test_what_suits_is_chosen() -> None:
    chosen = {
        (ending, flat): form_of(f"a{ending}", None, transparent=not flat).word
        for ending in (".mov", ".webm", ".mkv")
        for flat in (False, True)
    }
    assert list(chosen.values()) == ["prores", "h264", "vp9", "vp9", "ffv1", "h264"]


def test_files_that_cannot_be_read(predictor: decoupe.Predictor) -> None:
    whole = write_clip(Path("in.mp4"), uneven(10)).read_bytes()
    Path("text.mp4").write_text("no video")
    Path("short.mp4").write_bytes(whole[: len(whole) // 3])
    Path("empty.mp4").touch()
    Path("folder").mkdir()
    with av.open("sound.mka", "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        out.mux(stream.encode(sound))
    for name, line in {
        "gone.mp4": "gone.mp4 does not exist: check the path",
        "text.mp4": "text.mp4 is not a video that can be read, or is damaged",
        "short.mp4": "short.mp4 is not a video that can be read, or is damaged",  # its index was at its end
        "empty.mp4": "empty.mp4 is not a video",
        "folder": "folder is a folder: name a video",
        "sound.mka": "sound.mka has no pictures, only sound",
    }.items():
        with pytest.raises(decoupe.InputError, match=line):
            cut_video(name, "out.mov", predictor)
        assert not Path("out.mov").exists()
    with pytest.raises(decoupe.InputError, match=r"in.mp4 is 96×64, more than 1,000 pixels"):
        cut_video("in.mp4", "out.mov", predictor, max_pixels=1000)
    with pytest.raises(decoupe.InputError, match="batch_size is 0"):
        cut_video("in.mp4", "out.mov", predictor, batch_size=0)
    with pytest.raises(decoupe.InputError, match=r"in.mp4 ends before 99 s: start earlier"):
        cut_video("in.mp4", "out.mov", predictor, start=99)
    assert not Path("out.mov.part").exists()


def test_interlacing_is_told_once(predictor: decoupe.Predictor) -> None:
    with av.open("in.mkv", "w") as out:
        stream: Any = out.add_stream("mpeg2video", rate=25, options={"flags": "+ilme+ildct"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, 96, 64), format="rgb24")))
        out.mux(stream.encode(None))
    line = r"in.mkv is interlaced, and .*: write it progressive first, as with ffmpeg -i in.mkv -vf bwdif OUT"
    with pytest.warns(VideoWarning, match=line) as told:
        assert cut_video("in.mkv", "out.mov", predictor).frames == 3
    assert [one.filename for one in told] == [__file__]
    with pytest.warns(VideoWarning, match=line) as told:
        assert len(list(mattes("in.mkv", predictor))) == 3
    assert [one.filename for one in told] == [__file__]


@plain_cutouts
def test_the_shape_of_pixels_is_kept_or_told_of(predictor: decoupe.Predictor) -> None:
    with av.open("in.mp4", "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0, 96, 64), format="rgb24")))
        out.mux(stream.encode(None))
    for name, wanted in {
        "prores.mov": {},
        "qtrle.mov": {"codec": "qtrle"},
        "h264.mov": {"matte": True},
        "h264.mkv": {"matte": True},
        "mpeg4.mp4": {"matte": True, "codec": "mpeg4"},
    }.items():
        cut_video("in.mp4", name, predictor, **wanted)
        with av.open(name) as made:
            assert made.streams.video[0].sample_aspect_ratio == Fraction(4, 3), name
    for name in ("out.webm", "out.mkv", "out"):
        with pytest.warns(
            VideoWarning, match=r"in\.mp4 has pixels 4/3 times as wide as high, of which \w+ tells"
        ):
            cut_video("in.mp4", name, predictor)


@plain_cutouts
def test_frames_that_change_their_size_and_clocks_that_start_anywhere(predictor: decoupe.Predictor) -> None:
    for name, start, (width, height) in (("a.ts", 100, (96, 64)), ("b.ts", 110, (48, 32))):
        with av.open(name, "w", format="mpegts") as out:
            stream = out.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for number in range(10):
                frame = av.VideoFrame.from_ndarray(picture(number, width, height), format="rgb24")
                frame.pts, frame.time_base = 10 * start + number, Fraction(1, 25)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    Path("in.ts").write_bytes(Path("a.ts").read_bytes() + Path("b.ts").read_bytes())
    assert cut_video("in.ts", "out.mov", predictor).frames >= 19
    frames = frames_of(Path("out.mov"))
    assert frames[0][0] < 0.1
    assert {pixels.shape[:2] for _, pixels in frames} == {(64, 96)}
    assert {matte.alpha.shape for _, matte in mattes("in.ts", predictor)} == {(64, 96)}


def test_a_matroska_file_that_lost_its_index_alone_is_no_damage(predictor: decoupe.Predictor) -> None:
    whole = write_clip(Path("in.mkv"), uneven(40)).read_bytes()
    Path("short.mkv").write_bytes(whole[: whole.rindex(b"\x1c\x53\xbb\x6b")])  # its cues
    assert cut_video("short.mkv", "out.mov", predictor, matte=True).frames == 40


@pytest.mark.parametrize("codec", ["libx264", "mjpeg"])
def test_a_file_cut_short_is_told_at_once_and_what_there_is_can_be_had(
    predictor: decoupe.Predictor, codec: str
) -> None:
    times = uneven(75)
    source = write_clip(Path("in.mov"), times, options={"movflags": "+faststart"}, codec=codec)
    whole = source.read_bytes()
    options: dict[str, Any] = {"matte": True, "overwrite": True}
    shown: list[int] = []
    for part in (0.6, 0.98):
        Path("fast.mov").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(
            decoupe.InputError, match=r"fast.mov ends after .* damaged.*end before \(end, --to\)"
        ) as told:
            cut_video("fast.mov", "out.mov", predictor, progress=lambda done, _: shown.append(done))
        assert not shown
        assert not Path("out.mov").exists()
        last = str(told.value).split("ends after ")[1].split(" s of ")[0]
        with pytest.raises(decoupe.InputError, match=rf"fast.mov ends after {last} s"):
            cut_video("fast.mov", "out.mov", predictor, end=float(last) + 0.2)
        written = cut_video("fast.mov", "part.mov", predictor, end=last, **options)
        assert written.frames == sum(time * TIME_BASE < Fraction(last) for time in times) > 25


def test_an_interrupted_recording_in_fragments_is_done_as_far_as_it_goes_and_told(
    predictor: decoupe.Predictor,
) -> None:
    options = {"movflags": "+empty_moov", "frag_duration": "400000"}  # microseconds
    source = write_clip(Path("in.mp4"), uneven(60), audio=None, options=options)
    assert cut_video(source, "whole.mov", predictor, matte=True).frames == 60
    whole = source.read_bytes()
    last = whole.rindex(b"mdat")
    Path("short.mp4").write_bytes(whole[: (last + whole.index(b"mfra", last)) // 2])
    with pytest.warns(VideoWarning, match=r"short.mp4 ends after .* it may be damaged"):
        written = cut_video("short.mp4", "out.mov", predictor, matte=True)
    assert 20 < written.frames < 60


def test_outputs_that_cannot_be_written(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mov"), uneven(3), audio=None)
    Path("there.mov").write_bytes(b"mine")
    Path("file").touch()
    for target, line in {
        "there.mov": r"there.mov exists: choose another output, or overwrite it \(--overwrite\)",
        "gone/out.mov": "gone/out.mov cannot be written, its folder does not exist: create gone",
        "in.mov": "in.mov is the input, and would be overwritten",
        "file/out": "file/out cannot be written",
    }.items():
        with pytest.raises(decoupe.OutputError, match=line):
            cut_video("in.mov", target, predictor, overwrite=target == "in.mov")
    assert Path("there.mov").read_bytes() == b"mine"
    Path("out.mov.part").mkdir()
    Path("out.mov.part/mine").touch()
    for overwrite in (False, True):
        with pytest.raises(decoupe.OutputError, match=r"out.mov.part is in the way, not an interrupted run"):
            cut_video("in.mov", "out.mov", predictor, overwrite=overwrite)
    assert Path("out.mov.part/mine").exists()
    assert cut_video("in.mov", "there.mov", predictor, overwrite=True).frames == 3
    with pytest.raises(decoupe.InputError, match="neither a colour nor a file"):
        cut_video("in.mov", "out.mp4", predictor, over="beach.jpg")


def test_what_a_link_points_to_is_replaced_and_the_link_stays(predictor: decoupe.Predictor) -> None:
    write_clip(Path("in.mov"), uneven(3), audio=None)
    Path("real").mkdir()
    Path("real/there.mov").write_bytes(b"mine")
    Path("link.mov").symlink_to("real/there.mov")
    with pytest.raises(decoupe.OutputError, match="exists: choose another output"):
        cut_video("in.mov", "link.mov", predictor)
    cut_video("in.mov", "link.mov", predictor, overwrite=True)
    assert Path("link.mov").is_symlink()
    assert len(frames_of(Path("real/there.mov"))) == 3
    assert [path.name for path in Path("real").iterdir()] == ["there.mov"]


def test_a_background_is_never_the_output(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mp4"), uneven(3), audio=None)
    ground = write_clip(Path("ground.mp4"), uneven(2), audio=None)
    before = ground.read_bytes()
    with pytest.raises(decoupe.OutputError, match=r"ground\.mp4 is an input, and would be overwritten"):
        cut_video(source, ground, predictor, over=ground, overwrite=True)
    assert ground.read_bytes() == before


def test_what_is_no_name_and_no_model(predictor: decoupe.Predictor) -> None:
    source: Any = write_clip(Path("in.mp4"), uneven(2))
    wrong: Any = "birefnet"
    model = r"predictor is 'birefnet', expected an open model: such as decoupe.load\('birefnet'\)"
    with pytest.raises(decoupe.InputError, match=model):
        cut_video(source, "out.mov", wrong)
    with pytest.raises(decoupe.InputError, match=model):
        next(mattes(source, wrong))
    with pytest.raises(decoupe.OutputError, match="the output is a NoneType, expected a file's name"):
        cut_video(source, None, predictor)  # type: ignore[arg-type]
    with source.open("rb") as file:
        with pytest.raises(decoupe.InputError, match="the video is a BufferedReader, expected a file's name"):
            cut_video(file, "out.mov", predictor)
        with pytest.raises(decoupe.InputError, match="the video is a BufferedReader, expected a file's name"):
            next(mattes(file, predictor))


def test_numbers_of_numpy_and_open_files(predictor: decoupe.Predictor) -> None:
    source = write_clip(Path("in.mp4"), uneven(3), audio=None)
    Image.new("RGB", (96, 64), (20, 40, 60)).save("ground.png")
    edits = {"grow": np.int64(1), "feather": np.float32(0.5)}
    with Path("ground.png").open("rb") as over:
        cut_video(source, "out.mkv", predictor, over=over, edits=edits, batch_size=np.int64(4))  # type: ignore[arg-type]
    corner = frames_of(Path("out.mkv"))[0][1][-1, -1, :3].astype(int)
    assert np.abs(corner - (20, 40, 60)).max() < 12


@plain_cutouts
def test_a_webcam_is_read_until_it_is_stopped(
    predictor: decoupe.Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video_reader.sys, "platform", "linux")
    # FFmpeg's test picture stands in for a camera: it never ends either.
    monkeypatch.setitem(video_reader.DEVICES, "linux", ("lavfi", "testsrc=size=64x48:rate=25"))
    shown: list[int] = []
    options = {"progress": lambda done, _: shown.append(done), "batch_size": 2}
    written = cut_video("webcam", "out.mov", predictor, stop=lambda: len(shown) > 4, **options)
    assert written.frames == len(frames_of(Path("out.mov"))) == shown[-1] < 20
    assert cut_video("0", "short.mov", predictor, end=0.2).frames == 5


@pytest.mark.parametrize("kept", [True, False])
def test_a_webcam_on_macos(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    """AVFoundation's reader asks for 29.97 frames a second where nobody says 30, and has none at first."""
    asked: list[dict[str, str] | None] = []
    opened = av.open

    class Camera:
        """FFmpeg's test picture, late as a camera's."""

        def __init__(self) -> None:
            self.inner = opened("testsrc=size=64x48:rate=25", format="lavfi")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def demux(self, stream: Any) -> Iterator[Any]:
            for number, packet in enumerate(self.inner.demux(stream)):
                if number == 1:
                    raise av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable", "0")
                yield packet

    def open_camera(name: str, format: str, options: dict[str, str] | None = None) -> Camera:  # noqa: A002
        asked.append(options)
        if options and not kept:
            raise av.error.OSError(errno.EIO, "Input/output error", name)
        return Camera()

    monkeypatch.setattr(video_reader.sys, "platform", "darwin")
    monkeypatch.setattr(av, "open", open_camera)
    reader = VideoReader("webcam")
    times = [time for time, _ in itertools.islice(reader.frames(), 3)]
    assert len(times) == 3
    assert asked == ([{"framerate": "30"}] if kept else [{"framerate": "30"}, None])


def test_no_webcam_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_reader.sys, "platform", "linux")
    for source in ("webcam:97", "97", "/dev/video97"):
        with pytest.raises(
            decoupe.InputError,
            match=rf"{source} cannot be opened as a webcam \(.*\): plug one in, or name another",
        ):
            VideoReader(source)
    monkeypatch.setattr(video_reader.sys, "platform", "plan9")
    with pytest.raises(decoupe.InputError, match="webcams are read on linux and darwin, not on plan9"):
        VideoReader("webcam")
