"""``decoupe eval`` as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from decoupe.cli import app
from evaluation.test_mattes import by_pysodmetrics, pictures
from inference.tiny import write_onnx

RUNNER = CliRunner()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with predictions, truths and the set that they are of."""
    monkeypatch.chdir(tmp_path)
    for number, (alpha, truth) in enumerate(pictures(4)):
        for name, picture in (("pred", alpha), ("set/gt", truth), ("set/im", 255 - truth)):
            folder = tmp_path / name
            folder.mkdir(parents=True, exist_ok=True)
            mode = Image.fromarray(picture).convert("RGB" if name == "set/im" else "L")
            mode.save(folder / f"p{number}.png")
    return tmp_path


def run(*arguments: str) -> Result:
    return RUNNER.invoke(app, ["eval", *arguments])


def test_folders_are_scored(here: Path) -> None:
    shown = run("--pred", "pred", "--gt", "set", "--protocol", "dis", "--table", "json", "-q")
    assert (shown.exit_code, shown.stderr) == (0, "")
    found = json.loads(shown.stdout)
    expected = by_pysodmetrics(pictures(4), stretch=True)
    assert found["pictures"] == 4
    assert found["results"] == pytest.approx({name: expected[name] for name in found["results"]}, abs=1e-9)
    assert list(found["results"]) == ["maxF", "wF", "MAE", "S", "meanE", "HCE"]


def test_stretching_is_the_protocols_or_the_users(here: Path) -> None:
    as_is = by_pysodmetrics(pictures(4), stretch=False)
    for options in (("--protocol", "sod", "--no-stretch"), ("--measures", "S, MAE")):
        shown = run("--pred", "pred", "--gt", "set/gt", "--table", "json", *options)
        assert json.loads(shown.stdout)["results"]["S"] == pytest.approx(as_is["S"], abs=1e-9)


def test_the_table_is_for_people_or_for_papers(here: Path) -> None:
    text = run("--pred", "pred", "--gt", "set", "--measures", "S,HCE", "--beside", "birefnet-lite")
    lines = text.stdout.splitlines()
    assert re.fullmatch(r" +S ↑ +HCE ↓", lines[0])
    assert re.fullmatch(r"pred +0\.\d{4} +\d+", lines[1])
    assert re.fullmatch(r"BiRefNet-lite, DIS-VD +0\.8820 +1175", lines[2])
    assert lines[3].startswith("published: README of github.com/ZhengPeng7/BiRefNet")
    markdown = run("--pred", "pred", "--gt", "set", "--protocol", "matting", "--table", "markdown")
    assert markdown.stdout.startswith("|  | SAD ↓ | MSE ↓ | Grad ↓ | Conn ↓ |")
    latex = run("--pred", "pred", "--gt", "set", "--protocol", "cod", "--table", "latex")
    assert latex.stdout.startswith(r"\begin{tabular}{lcccccc}")


def test_a_report_is_written_and_compared(here: Path) -> None:
    first = run("--pred", "pred", "--gt", "set", "--measures", "S,MAE", "-o", "one")
    assert first.stderr.endswith("decoupe: wrote one/index.html\n")
    for path in (here / "pred").iterdir():
        Image.open(path).point(lambda value: value // 2).save(path)
    run("--pred", "pred", "--gt", "set", "--measures", "S,MAE", "-o", "two")
    shown = run("compare", "one", "two")
    assert shown.exit_code == 0
    assert shown.stderr == "decoupe: A: pred; B: pred; 4 pictures of both\n"
    assert re.search(
        r"^MAE ↓ +0\.\d{4} +0\.\d{4} +\+0\.\d{4} +\+0.* … \+0.* +0% +A better$", shown.stdout, re.M
    )
    assert run("compare", "one", "three").exit_code == 2


def test_maxima_that_reports_tell_otherwise_are_noted(here: Path) -> None:
    for folder in ("one", "two"):
        run("--pred", "pred", "--gt", "set", "--measures", "S,maxF", "-o", folder)
    note = "max F: here the mean of each picture's maximum, in reports the mean curve's, which is less"
    assert note in run("compare", "one", "two").stderr


def test_many_reports_make_one_table_with_the_best_marked(here: Path) -> None:
    for folder, measures in (("one", "S,MAE,HCE"), ("two", "S,MAE")):
        run("--pred", "pred", "--gt", "set", "--measures", measures, "-o", folder, "-q")
        for path in (here / "pred").iterdir():
            Image.open(path).point(lambda value: value // 2).save(path)
    text = run("join", "one", "two").stdout.splitlines()
    assert re.fullmatch(r" +S ↑ +MAE ↓ +HCE ↓", text[0])
    assert re.fullmatch(r"pred  0\.\d{4}\*  0\.\d{4}\* +\d+\*", text[1])
    assert re.fullmatch(r"pred  0\.\d{4}   0\.\d{4} +–", text[2])
    latex = run("join", "one", "ours_2=two", "--measures", "MAE", "--table", "latex").stdout
    assert re.search(r"pred & \\textbf\{0\.\d{4}\} \\\\\nours\\_2 & \\underline\{0\.\d{4}\} \\\\\n", latex)
    markdown = run("join", "one", "two", "--protocol", "sod", "--table", "markdown").stdout
    assert "| pred | **0." in markdown
    (here / "two").rename(here / "lr=1")
    for named in ("lr=1", "pred=lr=1"):
        assert re.fullmatch(r"pred  0\.\d{4}   0\.\d{4} +–", run("join", "one", named).stdout.splitlines()[2])
    (here / "pred/p0.png").unlink()
    run("--pred", "pred", "--gt", "set", "--measures", "S", "-o", "fewer", "-q")
    assert "pred was scored on 3 pictures that are not the 4 of pred" in run("join", "one", "fewer").stderr
    run("--pred", "pred", "--gt", "set", "--measures", "S", "--stretch", "-o", "stretched", "-q")
    shown = run("join", "one", "stretched")
    assert shown.exit_code == 2
    assert "not comparable (one is of mattes as they are, stretched is of stretched mattes)" in shown.stderr


def test_a_model_is_scored_as_the_files_that_it_writes(here: Path) -> None:
    write_onnx(here / "tiny.onnx")
    of_model = run(
        "-m", "tiny.onnx", "--data", "set", "--measures", "S,MAE", "--table", "json", "-o", "report"
    )
    assert of_model.exit_code == 0, of_model.stderr
    cut = RUNNER.invoke(app, ["cut", "set/im", "-o", "mattes", "--matte", "-m", "tiny.onnx", "-q"])
    assert cut.exit_code == 0
    of_files = run("--pred", "mattes", "--gt", "set", "--measures", "S,MAE", "--table", "json")
    found, expected = (json.loads(one.stdout) for one in (of_model, of_files))
    assert found["title"] == "tiny.onnx on set"
    assert found["results"] == expected["results"]
    with Image.open(here / "report" / "worst.png") as sheet:
        assert sheet.width == 4 + 4 * 228  # photograph, truth, prediction, difference
    other = run("-m", "tiny.onnx", "--data", "set", "--measures", "S,MAE", "--table", "json", "--size", "32")
    assert json.loads(other.stdout)["results"] != expected["results"]
    large = run("-m", "tiny.onnx", "--data", "set", "--measures", "S", "--size", "512")
    assert large.stderr.startswith("decoupe: tiny is known to work at 32 to 256 pixels a side: 480×544")


def test_what_failed_is_named_and_the_rest_scored(here: Path) -> None:
    (here / "pred" / "p0.png").unlink()
    (here / "pred" / "p1.png").write_bytes(b"")
    Image.new("L", (9, 9)).save(here / "pred" / "extra.png")
    shown = run("--pred", "pred", "--gt", "set", "--measures", "S", "--table", "json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["pictures"] == 2
    assert "decoupe: p0 has no prediction in pred: make it" in shown.stderr
    assert "p1.png cannot be read" in shown.stderr
    assert "1 predictions have no truth and do not count, extra first" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pred", "pred"), "give --pred and --gt, two folders; or -m and --data, a model and a set"),
        (("--pred", "pred", "--gt", "set", "-m", "x"), "give --pred and --gt, two folders"),
        (("--pred", "pred", "--gt", "pred"), "pred is given as prediction and as truth: give two folders"),
        (
            ("--pred", "pred", "--gt", "set", "--protocol", "dsi"),
            "unknown protocol 'dsi'; did you mean 'dis'?",
        ),
        (("--pred", "pred", "--gt", "set", "--measures", "F"), "unknown measure 'F'"),
        (("--pred", "pred", "--gt", "set", "--measures", ""), "--measures names none: give one or more of S"),
        (("join", "set", "--measures", ","), "--measures names none: give one or more of S, maxF"),
        (
            ("--pred", "pred", "--gt", "set", "--protocol", "semantic", "--measures", "S"),
            "--measures is for mattes, and semantic scores segments: leave it out",
        ),
        (
            ("--pred", "pred", "--gt", "set", "--protocol", "panoptic", "--workers", "2"),
            "--workers is for mattes",
        ),
        (("--pred", "pred", "--gt", "set", "--table", "html"), "unknown format 'html'"),
        (("--pred", "pred", "--gt", "set", "--beside", "u2net"), "unknown published result 'u2net'"),
        (("--pred", "pred", "--gt", "set", "-o", "pred"), "pred holds p0.png, which is not part of a report"),
        (("-m", "pockett", "--data", "set"), "did you mean 'pocket'"),
        (("--pred", "pred", "--gt", "set", "--size", "64"), "--precision and --size are of a model"),
        (("--pred", "pred", "--gt", "set", "--device", "cude"), "--device, --precision and --size are of a"),
        (
            ("--pred", "pred", "compare", "one", "two"),
            "--pred is not of decoupe eval compare: leave it out, or see decoupe eval compare -h",
        ),
        (("-q", "join", "one"), "--quiet is not of decoupe eval join"),
        (("-m", "pocket", "--data", "pred"), "pred holds no matte set"),
    ],
)
def test_wrong_usage_is_one_line(here: Path, arguments: tuple[str, ...], message: str) -> None:
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert shown.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_made_is_told_before_the_scoring(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("decoupe.evaluation.run.evaluate", lambda *_, **__: pytest.fail("it was scored"))
    (here / "file").touch()
    shown = run("--pred", "pred", "--gt", "set", "-o", "file/report")
    assert shown.exit_code == 2
    assert shown.stderr == "decoupe: cannot make the folder file/report (Not a directory): name another\n"


def test_names_that_are_no_text_are_reported(here: Path) -> None:
    """The report was written after all scoring, and failed where a name is not UTF-8."""
    odd = os.fsdecode(b"caf\xe9.png")
    for folder in ("pred", "set/gt", "set/im"):
        (here / folder / "p0.png").rename(here / folder / odd)
    (here / "set").rename(here / odd)
    for out in ("one", "two"):
        shown = run("--pred", "pred", "--gt", odd, "--measures", "S,MAE", "-o", out)
        assert shown.exit_code == 0, shown.output
    assert (here / "one/scores.csv").read_bytes().splitlines()[1].startswith(b"caf\xe9,")
    assert "caf?.png" in (here / "one/index.html").read_text(encoding="utf-8")
    assert "4 pictures of both" in run("compare", "one", "two").stderr


def test_reports_are_read_whatever_the_locale(here: Path) -> None:
    for folder in ("pred", "set/gt", "set/im"):
        (here / folder / "p0.png").rename(here / folder / "é.png")
    for out in ("one", "two"):
        run("--pred", "pred", "--gt", "set", "--measures", "S", "-o", out, "-q")
    code = (
        "import sys; from pathlib import Path; from decoupe.evaluation.compare import compare;"
        "from decoupe.evaluation.joined import join; one, two = Path('one'), Path('two');"
        "print(compare(one, two).count, join([('', one), ('', two)]).notes)"
    )
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    shown = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, check=False)
    assert (shown.stdout, shown.stderr) == (b"4 []\n", b"")


def test_nothing_that_can_be_scored(here: Path) -> None:
    for path in (here / "pred").iterdir():
        path.write_bytes(b"x")
    shown = run("--pred", "pred", "--gt", "set")
    assert shown.exit_code == 2
    assert shown.stderr.endswith("decoupe: no picture could be scored\n")


def test_what_there_is_is_listed() -> None:
    shown = run("--list")
    assert "dis       dichotomous segmentation, as on DIS5K; predictions stretched to [0, 1]" in shown.stdout
    assert "mBA       mBA, higher is better: mean boundary accuracy (Cheng et al." in shown.stdout
    assert "IoU       IoU, higher is better: intersection over union at one half" in shown.stdout
    assert "MSE       MSE, lower is better: mean squared error (Rhemann et al." in shown.stdout


def test_everything_is_scored_by_default(here: Path) -> None:
    columns = run("--pred", "pred", "--gt", "set").stdout.splitlines()[0].split()
    assert len([name for name in columns if name not in "↑↓"]) == 17
    assert np.isfinite(
        json.loads(run("--pred", "pred", "--gt", "set", "--table", "json").stdout)["results"]["S"]
    )
