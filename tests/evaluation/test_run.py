"""Scoring folders: what matches, what is read, what is told, and what is written of it."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decoupe.errors import InputError, OutputError
from decoupe.evaluation import protocols, scenes
from decoupe.evaluation.compare import compare
from decoupe.evaluation.compare import difference as compared
from decoupe.evaluation.files import fitted, match, read_matte
from decoupe.evaluation.mattes import MatteScores
from decoupe.evaluation.measures import COLUMNS
from decoupe.evaluation.published import PUBLISHED, published
from decoupe.evaluation.report import (
    About,
    Look,
    check_folder,
    difference,
    ends,
    ranked,
    read_report,
    write_report,
)
from decoupe.evaluation.run import Evaluation, Job, evaluate, jobs_of
from evaluation.test_mattes import pictures


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve predictions and their truths."""
    pred, gt = tmp_path / "pred", tmp_path / "gt"
    for folder in (pred, gt):
        folder.mkdir()
    for number, (alpha, truth) in enumerate(pictures(12)):
        Image.fromarray(alpha).save(pred / f"p{number:02}.png")
        Image.fromarray(truth).save(gt / f"p{number:02}.png")
    return pred, gt


def test_processes_score_as_one_does(folders: tuple[Path, Path]) -> None:
    pairs = match(*folders).pairs
    columns = ("S", "maxF", "HCE", "SAD")
    counted: list[int] = []
    alone = evaluate(jobs_of(pairs), columns, stretch=True)
    several = evaluate(jobs_of(pairs), columns, stretch=True, workers=2, advance=lambda: counted.append(1))
    direct = MatteScores(columns, stretch=True)
    for pair in pictures(12):
        direct.update(*pair)
    assert several.scores.result() == alone.scores.result() == direct.result()
    assert several.names == alone.names == [f"p{number:02}" for number in range(12)]
    assert several.scores.values == alone.scores.values
    assert len(counted) == 12


def test_more_cores_than_windows_lets_a_pool_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert evaluate((), ("MAE",), workers=64).names == []


def test_predictions_are_made_as_they_are_needed(folders: tuple[Path, Path]) -> None:
    made: list[str] = []

    def jobs() -> object:
        for pair in match(*folders).pairs:
            made.append(pair.name)
            yield Job(pair.name, np.asarray(Image.open(pair.prediction)), pair.truth)

    seen: list[int] = []
    evaluate(jobs(), ("MAE",), advance=lambda: seen.append(len(made)))  # type: ignore[arg-type]
    assert seen == list(range(1, 13))


def test_names_match_whatever_their_endings(tmp_path: Path) -> None:
    for name in ("pred/a/x.png", "pred/y.jpg", "pred/z.png", "gt/a/x.webp", "gt/y.png", "gt/w.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    matching = match(tmp_path / "pred", tmp_path / "gt")
    assert [pair.name for pair in matching.pairs] == ["a/x", "y"]
    assert (matching.missing, matching.spare, matching.photographs) == (["w"], ["z"], {})


def test_names_that_all_end_in_more_match(tmp_path: Path) -> None:
    for name in (
        "pred/x_1.cut.png",
        "pred/y_1.cut.png",
        "pred/z_1.cut.png",
        "set/im/x_1.png",
        "set/im/y_1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    for name in ("x_1", "y_1", "w_1"):
        (tmp_path / "set/gt").mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / f"set/gt/{name}_mask.png")
    matching = match(tmp_path / "pred", tmp_path / "set")
    assert [(pair.name, pair.prediction.name) for pair in matching.pairs] == [
        ("x_1_mask", "x_1.cut.png"),
        ("y_1_mask", "y_1.cut.png"),
    ]
    assert (matching.missing, matching.spare, matching.endings) == (
        ["w_1_mask"],
        ["z_1.cut"],
        (".cut", "_mask"),
    )
    assert matching.photographs["y_1_mask"].name == "y_1.png"


def test_a_set_gives_its_masks_and_photographs(discs: Path, tmp_path: Path) -> None:
    for truths in (discs, discs / "gt"):
        matching = match(discs / "im", truths)
        assert len(matching.pairs) == len(matching.photographs) == 24
        assert matching.pairs[0].truth.parent == discs / "gt"
        assert matching.photographs["disc00"] == discs / "im" / "disc00.jpg"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("gt", "gt"), "is given as prediction and as truth: give two folders"),
        (("nowhere", "gt"), "nowhere is no folder: give one with pictures"),
        (("empty", "gt"), "empty holds no pictures"),
        (("others", "gt"), r"no picture of .*others has the name of one in .*gt: q is none of theirs"),
        (("twice", "gt"), r"p00.jpg and p00.png share a name: keep one of them"),
    ],
)
def test_folders_that_do_not_match(
    folders: tuple[Path, Path], tmp_path: Path, given: tuple[str, str], message: str
) -> None:
    for name in ("empty", "others/q.png", "twice/p00.jpg", "twice/p00.png"):
        path = tmp_path / name
        (path.parent if path.suffix else path).mkdir(exist_ok=True)
        if path.suffix:
            Image.new("L", (8, 8)).save(path)
    with pytest.raises(InputError, match=message):
        match(*(tmp_path / name for name in given))


def test_every_depth_and_mode_is_read(tmp_path: Path) -> None:
    matte = np.array([[0, 60], [128, 255]], np.uint8)
    deep = matte.astype(np.uint16) * 257
    colour = np.full((2, 2, 3), (250, 20, 90), np.uint8)
    files = {
        "grey.png": Image.fromarray(matte),
        "rgb.png": Image.fromarray(np.repeat(matte[..., None], 3, 2)),
        "palette.png": Image.fromarray(matte).convert("P"),
        "alpha.png": Image.fromarray(np.dstack([colour, matte])),
        "opaque.png": Image.merge("LA", [Image.fromarray(matte), Image.new("L", (2, 2), 255)]),
        "grey-alpha.tif": Image.merge("LA", [Image.new("L", (2, 2), 9), Image.fromarray(matte)]),
    }
    for name, picture in files.items():
        picture.save(tmp_path / name)
        assert read_matte(tmp_path / name).tolist() == matte.tolist(), name
    Image.fromarray(deep).save(tmp_path / "deep.png")
    found = read_matte(tmp_path / "deep.png")
    assert (found.dtype, found.tolist()) == (np.uint16, deep.tolist())
    Image.fromarray(matte > 100).save(tmp_path / "bits.png")
    assert read_matte(tmp_path / "bits.png").tolist() == [[0, 0], [255, 255]]
    Image.fromarray(np.dstack([colour, 0 * matte + 255])).save(tmp_path / "full.png")  # all is subject
    assert read_matte(tmp_path / "full.png").tolist() == [[255, 255], [255, 255]]


def test_what_is_no_matte_is_told(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    pred, _ = folders
    Image.fromarray(np.full((60, 60, 3), (250, 20, 90), np.uint8)).save(pred / "p00.png")
    (pred / "p01.png").write_bytes(b"no picture")
    Image.open(pred / "p03.png").resize((200, 160)).crop((0, 0, 20, 160)).save(pred / "p03.png")
    evaluation = evaluate(jobs_of(match(*folders).pairs), ("S",))
    assert evaluation.names == ["p02", *(f"p{number:02}" for number in range(4, 12))]
    problems = "\n".join(evaluation.problems)
    assert re.search(r"p00.png is a photograph: expected a grey matte, or a cut-out with alpha", problems)
    assert re.search(r"p01.png cannot be read", problems)
    assert re.search(r"p03.png is 160×20, its truth .*: expected the same shape", problems)


def test_other_sizes_are_resized_and_told(folders: tuple[Path, Path]) -> None:
    pred, gt = folders
    before = evaluate(jobs_of(match(pred, gt).pairs), ("S",))
    with Image.open(pred / "p04.png") as small:
        larger = small.resize((2 * small.width, 2 * small.height), Image.Resampling.NEAREST)
    larger.save(pred / "p04.png")
    after = evaluate(jobs_of(match(pred, gt).pairs), ("S",))
    assert after.notes == ["1 predictions were resized to their truth, p04 first"]
    assert after.scores.result()["S"] == pytest.approx(before.scores.result()["S"], abs=0.02)


def test_fitting_keeps_depth() -> None:
    deep = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    found = fitted(deep, np.zeros((16, 16)), "deep")
    assert found.shape == (16, 16)
    assert abs(float(found.mean()) - 0.5) < 0.01
    assert fitted(deep, np.zeros((8, 8)), "deep") is deep


def test_truths_of_0_and_1_are_noticed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, gt = folders
    (tmp_path / "ones").mkdir()
    for path in gt.iterdir():
        Image.open(path).point(lambda value: value // 255).save(tmp_path / "ones" / f"{path.stem}.png")
    assert (
        "hold 0 and 1 instead of 0 and 255?"
        in evaluate(jobs_of(match(pred, tmp_path / "ones").pairs), ("MAE",)).notes[-1]
    )


def test_swapped_folders_are_noticed(folders: tuple[Path, Path]) -> None:
    pred, gt = folders
    for path in gt.iterdir():
        Image.open(path).point(lambda value: 255 * (value > 128)).save(path)
    assert evaluate(jobs_of(match(pred, gt).pairs), ("S",)).notes == []
    swapped = evaluate(jobs_of(match(gt, pred).pairs), ("S",))
    assert swapped.notes == [
        "every prediction is black and white, and truths are not: are the folders swapped?"
    ]


def scored(folders: tuple[Path, Path], columns: tuple[str, ...]) -> Evaluation:
    return evaluate(jobs_of(match(*folders).pairs), columns)


def look_in(folders: tuple[Path, Path]) -> object:
    pred, gt = folders
    return lambda name: Look(None, read_matte(gt / f"{name}.png"), read_matte(pred / f"{name}.png"))


def test_a_report_holds_it_all(folders: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = protocols.PROTOCOLS["all"]
    evaluation = scored(folders, chosen.names)
    evaluation.problems.append("<b>p99</b> is missing")
    out = tmp_path / "deep" / "report"
    about = About("mine & yours", chosen, {"truth": "gt"}, [("theirs", {"S": 0.5}, "their table 1")])
    check_folder(out)
    write_report(out, evaluation, about, look_in(folders))  # type: ignore[arg-type]
    assert sorted(path.name for path in out.iterdir()) == [
        "best.png",
        "index.html",
        "scores.csv",
        "scores.json",
        "worst.png",
    ]
    summary, rows = read_report(out)
    assert summary["results"] == pytest.approx(evaluation.scores.result())
    assert list(rows) == evaluation.names
    assert rows["p03"]["S"] == pytest.approx(evaluation.scores.values["S"][3], rel=1e-5)
    assert len(summary["curves"]["precision"]) == 256
    page = (out / "index.html").read_text()
    assert "<td>mine &amp; yours</td>" in page
    assert "<dt>pictures</dt><dd>12</dd>" in page
    assert "&lt;b&gt;p99&lt;/b&gt;" in page
    assert "<b>p99" not in page
    assert page.count("<svg") == 3
    assert "Published: their table 1" in page
    # Nothing is fetched from anywhere: namespaces and licences of the SVGs are names, not requests.
    assert re.findall(r"(?:src|href)=['\"](?!data:image/jpeg;base64,|#)", page) == []
    check_folder(out)  # written again, it takes its own place
    (out / "scores.json").write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="that is not a report's: name a folder of its own"):
        check_folder(out)
    (out / "thesis.docx").touch()
    with pytest.raises(OutputError, match=r"thesis\.docx, which is not part of a report"):
        check_folder(out)


def test_worst_and_best_share_no_picture(folders: tuple[Path, Path]) -> None:
    evaluation = scored(folders, ("S", "MAE"))
    for column, first in (("S", min), ("MAE", max)):
        worst, best = ends(ranked(evaluation, column))
        values = dict(zip(evaluation.names, evaluation.scores.values[column], strict=True))
        assert values[worst[0]] == first(values.values())
        assert (len(worst), len(best)) == (6, 6)
        assert not set(worst) & set(best)


def test_differences_are_red_and_blue() -> None:
    truth = np.array([[0, 255, 255]], np.uint8)
    found = difference(np.array([[255, 0, 255]], np.uint8), truth)
    assert found.tolist() == [[[214, 40, 57], [40, 98, 214], [255, 255, 255]]]


def test_two_reports_are_compared_picture_by_picture(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, gt = folders
    better = tmp_path / "better"
    better.mkdir()
    for path in sorted(gt.iterdir())[:10]:
        Image.blend(Image.open(pred / path.name), Image.open(path), 0.5).save(better / path.name)
    chosen = protocols.of_columns(("S", "MAE"), stretch=False)
    for name, source in (("a", pred), ("b", better)):
        evaluation = scored((source, gt), chosen.names)
        write_report(tmp_path / name, evaluation, About(name, chosen), look_in((source, gt)))  # type: ignore[arg-type]
    found = compare(tmp_path / "a", tmp_path / "b")
    assert (found.count, found.alone, found.titles) == (10, (2, 0), ("a", "b"))
    assert [one.verdict for one in found.differences] == ["B better", "B better"]
    mae = found.differences[1]
    assert mae.interval[0] < mae.second - mae.first < mae.interval[1] < 0
    assert mae.wins == 1
    back = compare(tmp_path / "b", tmp_path / "a")
    assert [one.verdict for one in back.differences] == ["A better", "A better"]
    with pytest.raises(InputError, match="is given twice"):
        compare(tmp_path / "a", tmp_path / "a")
    with pytest.raises(InputError, match=r"holds no report: expected what decoupe eval"):
        compare(tmp_path / "a", pred)


def test_an_interval_covers_what_is_known() -> None:
    rng = np.random.default_rng(1)
    first = rng.uniform(0, 1, 400)
    one = compared("S", first, first + rng.normal(0.1, 0.5, 400), seed=0)
    half = 1.96 * 0.5 / np.sqrt(400)  # of a mean of 400 normal differences
    assert (one.interval[1] - one.interval[0]) / 2 == pytest.approx(half, rel=0.1)
    same = compared("S", first, first, seed=0)
    assert (same.interval, same.wins, same.verdict) == ((0, 0), 0.5, "no difference shown")
    assert compared("S", first, first + 0.25, seed=0).verdict == "B better"
    for column in ("mBA", "MAE"):
        unknown = compared(column, np.full(2, np.nan), np.zeros(2), seed=0)
        assert np.isnan(unknown.first)
        assert unknown.verdict == "no difference shown"


def test_tables_are_ready_to_paste() -> None:
    assert protocols.cells((("S", 3), ("mBA", 3)), {"a": {"S": 1, "mBA": np.nan}}) == [["a", "1.000", "–"]]
    chosen = protocols.protocol("dis")
    scores = {"maxF": 0.8912, "wF": 0.8541, "MAE": 0.03849, "S": 0.8984, "meanE": 0.931, "HCE": 1068.6}
    rows = {"ours_1": scores, "|theirs": {"S": 0.5}}
    assert protocols.markdown(chosen.columns, rows).splitlines() == [
        "|  | max F ↑ | weighted F ↑ | MAE ↓ | S-measure ↑ | mean E ↑ | HCE ↓ |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| ours_1 | 0.891 | 0.854 | 0.038 | 0.898 | 0.931 | 1069 |",
        r"| \|theirs | – | – | – | 0.500 | – | – |",
    ]
    lines = protocols.latex(chosen.columns, rows).splitlines()
    assert lines[0] == r"\begin{tabular}{lcccccc}"
    assert lines[2].startswith(
        r" & $F_\beta^x$$\uparrow$ & $F_\beta^\omega$$\uparrow$ & $\mathcal{M}$$\downarrow$"
    )
    assert lines[4] == r"ours\_1 & 0.891 & 0.854 & 0.038 & 0.898 & 0.931 & 1069 \\"


def test_protocols_and_published_results_name_columns() -> None:
    assert {name for one in protocols.PROTOCOLS.values() for name in one.names} == set(COLUMNS)
    for rows in PUBLISHED.values():
        for row in rows:
            of_segments = {name for columns in scenes.COLUMNS.values() for name in columns}
            assert set(row.scores) <= set(COLUMNS) or set(row.scores) <= of_segments
            assert "table" in row.source
    with pytest.raises(InputError, match=r"unknown protocol 'dos'; did you mean '(sod|cod|dis)'"):
        protocols.protocol("dos")
    with pytest.raises(InputError, match="unknown published result 'birefnett'; did you mean 'birefnet'"):
        published("birefnett")
    with pytest.raises(InputError, match="unknown measure 's'"):
        protocols.of_columns(("s",), stretch=False)


def test_the_csv_is_plain(folders: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = protocols.of_columns(("mBA", "maxF"), stretch=True)
    write_report(tmp_path / "r", scored(folders, chosen.names), About("x", chosen), look_in(folders))  # type: ignore[arg-type]
    with (tmp_path / "r" / "scores.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "mBA", "maxF"]
    assert len(rows) == 13
    assert json.loads((tmp_path / "r" / "scores.json").read_text())["pictures"] == 12
