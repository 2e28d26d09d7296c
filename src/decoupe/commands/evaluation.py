"""``decoupe eval``: score files or a model, and compare two reports."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from decoupe.commands.console import drawn, hush_downloads, imported, progress_bar, say, told
from decoupe.commands.options import (
    AsJson,
    NetworkSize,
    Precision,
    among,
    known_models,
    parse_size,
)
from decoupe.commands.running import said_warnings
from decoupe.cores import cores
from decoupe.errors import InputError, unknown

if TYPE_CHECKING:
    from decoupe.evaluation.report import About, Look
    from decoupe.evaluation.run import Evaluation, Job
    from decoupe.evaluation.scene_report import AboutScenes

TABLES = ("text", "markdown", "latex", "json")


def known_protocols(beginning: str) -> list[str]:
    """Protocols of ``decoupe eval``, where its extra is installed."""
    with contextlib.suppress(ImportError):
        from decoupe.evaluation.protocols import PROTOCOLS, READINGS

        return among([*PROTOCOLS, *READINGS])(beginning)
    return []


eval_app = typer.Typer(
    help="Measure predictions against truth.",
    invoke_without_command=True,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@eval_app.callback(invoke_without_command=True)
def evaluate(
    context: typer.Context,
    pred: Annotated[
        Path | None, typer.Option("--pred", metavar="DIR", help="Predictions: mattes or cut-outs.")
    ] = None,
    gt: Annotated[
        Path | None, typer.Option("--gt", metavar="DIR", help="Truths of the same names, or a whole set.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            help="A model to score instead of files.",
            autocompletion=known_models,
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="The set to score the model on.")
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Columns and rules of a field; see --list.",
            autocompletion=known_protocols,
        ),
    ] = "all",
    measures: Annotated[
        str | None, typer.Option(metavar="S,MAE,…", help="Columns of your own instead of a protocol's.")
    ] = None,
    stretch: Annotated[
        bool | None,
        typer.Option(
            "--stretch/--no-stretch", help="Stretch each prediction to [0, 1]; by default as the protocol."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Write a report into this folder.")
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="Format of the table: text, markdown, latex or json.",
            autocompletion=among(TABLES),
        ),
    ] = "text",
    beside: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Print this model's published results beside.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes that score; by default one per core.")
    ] = None,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="For the model: auto, cpu or cuda.")] = "auto",
    precision: Precision = "auto",
    size: NetworkSize = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Only list protocols, measures and published results.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the table and errors.")] = False,
) -> None:
    """Score predictions against truth, or a model on a set. `compare` and `join` put reports side by side."""
    if context.invoked_subcommand is not None:
        with told():
            _refuse_options(context)
        return
    with told(), said_warnings(quiet):
        hush_downloads(quiet)
        protocols = _evaluation("protocols")
        if listed:
            _list(protocols)
            return
        if table not in TABLES:
            raise InputError(unknown("format", table, TABLES))
        if out is not None:
            _evaluation("report").check_folder(out)
        if model is None and ((device, precision) != ("auto", "auto") or size is not None):
            raise InputError(
                "--device, --precision and --size are of a model: name one with -m, or leave them out"
            )
        opening = {"device": device, "dtype": precision, "size": parse_size(size)}
        if protocol in protocols.READINGS:
            for option, given in {
                "--measures": measures is not None,
                "--stretch": stretch is not None,
                "--workers": workers is not None,
            }.items():
                if given:
                    raise InputError(f"{option} is for mattes, and {protocol} scores segments: leave it out")
            _segments(pred, gt, model, data, protocol, out, table, beside or (), opening, quiet)
            return
        chosen = _columns(protocol, measures)
        stretches = chosen.stretch if stretch is None else stretch
        known = _evaluation("published").rows_beside(beside or (), chosen.names)
        jobs, count, title, settings, look = _work(pred, gt, model, data, opening, quiet)
        _make_folder(out)
        with progress_bar(count, drawn=drawn(quiet)) as advance:
            evaluation: Evaluation = _evaluation("run").evaluate(
                jobs,
                chosen.names,
                stretch=stretches,
                workers=min(workers or cores(), max(1, count // 8)),  # a process takes a second to start
                advance=advance,
            )
        _say_notes(evaluation, quiet)
        about: About = _evaluation("report").About(title, chosen, settings, known)
        typer.echo(_table(evaluation, about, table))
        if out is not None:
            _evaluation("report").write_report(out, evaluation, about, look)
            if not quiet:
                say(f"wrote {out / 'index.html'}")
        if evaluation.problems:
            raise typer.Exit(1)


def _refuse_options(context: typer.Context) -> None:
    """Raise InputError for options before `compare` or `join`, which have their own."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            command = f"decoupe eval {context.invoked_subcommand}"
            raise InputError(f"{parameter.opts[-1]} is not of {command}: leave it out, or see {command} -h")


@eval_app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A report's folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another's, on the same pictures.")],
    as_json: AsJson = False,
) -> None:
    """Put two reports side by side: differences with their 95 % interval, picture by picture."""
    with told():
        comparison = _evaluation("compare").compare(first, second)
        if as_json:
            typer.echo(json.dumps(comparison.about()))
            return
        titles = ["", "A", "B", "B − A", "95 % interval", "B better in", ""]
        rows = [
            [
                _evaluation("protocols").title_of(one.column),
                f"{one.first:.4f}",
                f"{one.second:.4f}",
                f"{one.second - one.first:+.4f}",
                f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}",
                f"{one.wins:.0%}",
                one.verdict,
            ]
            for one in comparison.differences
        ]
        for row in rows:  # no picture has such a number
            row[1:6] = ["–"] * 5 if row[1] == "nan" else row[1:6]
        say(f"A: {comparison.titles[0]}; B: {comparison.titles[1]}; {comparison.count} pictures of both")
        for letter, alone in zip("AB", comparison.alone, strict=True):
            if alone:
                say(f"{alone} pictures of {letter} alone do not count")
        for note in comparison.notes:
            say(note)
        typer.echo(_evaluation("protocols").text_rows(titles, rows))


@eval_app.command()
def join(
    reports: Annotated[
        list[str], typer.Argument(metavar="[NAME=]DIR...", help="Folders of reports, and how rows are named.")
    ],
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Columns of a field; else those of the first report.",
            autocompletion=known_protocols,
        ),
    ] = None,
    measures: Annotated[
        str | None, typer.Option(metavar="S,MAE,…", help="Columns of your own instead of a protocol's.")
    ] = None,
    table: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="Of the table: text, markdown, latex or json.",
            autocompletion=among(TABLES),
        ),
    ] = "text",
) -> None:
    """Put many reports into one table, the best of each column marked; json is a line for each."""
    with told():
        if table not in TABLES:
            raise InputError(unknown("format", table, TABLES))
        # A folder may have the sign in its own name, as lr=1e-4.
        named = [
            ("", "", one) if "=" not in one or Path(one).exists() else one.partition("=") for one in reports
        ]
        chosen = _columns(protocol or "all", measures) if protocol or measures else None
        joined = _evaluation("joined").join([(name, Path(folder)) for name, _, folder in named], chosen)
        for note in joined.notes:
            say(note)
        if table == "json":
            for row in joined.about():
                typer.echo(json.dumps(row))
            return
        typer.echo(joined.table(table))


def _columns(protocol: str, measures: str | None) -> Any:
    """The protocol of a name, or one of the measures that a user named."""
    protocols = _evaluation("protocols")
    chosen = protocols.protocol(protocol)
    if measures is None:
        return chosen
    names = [name.strip() for name in measures.split(",") if name.strip()]
    if not names:
        known = ", ".join(_evaluation("measures").COLUMNS)
        raise InputError(f"--measures names none: give one or more of {known}")
    return protocols.of_columns(names, stretch=chosen.stretch)


Worked = tuple["Iterator[Job]", int, str, dict[str, str], "Callable[[str], Look]"]


def _work(
    pred: Path | None,
    gt: Path | None,
    model: str | None,
    data: Path | None,
    opening: dict[str, Any],
    quiet: bool,
) -> Worked:
    """What is to be scored: jobs, how many, a title, settings, and how a picture is shown."""
    if pred is not None and gt is not None and model is None and data is None:
        return _files(pred, gt, quiet)
    if model is not None and data is not None and pred is None and gt is None:
        return _model(model, data, opening)
    raise InputError("give --pred and --gt, two folders; or -m and --data, a model and a set")


def _files(pred: Path, gt: Path, quiet: bool) -> Worked:
    """Files against files."""
    from decoupe.datasets.sets import read_picture

    files, run = _evaluation("files"), _evaluation("run")
    matching = files.match(pred, gt)
    by_name = {pair.name: pair for pair in matching.pairs}

    for folder, end in zip((pred, gt), matching.endings, strict=True):
        if end and not quiet:
            say(f"the names of {folder} end in {end!r}, which does not count")

    def jobs() -> Iterator[Job]:
        yield from run.jobs_of(matching.pairs)
        for name in matching.missing:
            yield run.Job(name, InputError(f"{name} has no prediction in {pred}: make it"), gt)

    if matching.spare and not quiet:
        say(f"{len(matching.spare)} predictions have no truth and do not count, {matching.spare[0]} first")

    def look(name: str) -> Look:
        pair = by_name[name]
        photograph = matching.photographs.get(name)
        return _shown(photograph and read_picture(photograph), pair.truth, files.read_matte(pair.prediction))

    settings = {"predictions": str(pred), "truth": str(gt)}
    return jobs(), len(matching.pairs) + len(matching.missing), str(pred), settings, look


def _model(name: str, data: Path, opening: dict[str, Any]) -> Worked:
    """A model on a set. Its mattes are rounded to 8 bits, as the files that it would write."""
    import numpy as np

    import decoupe
    from decoupe.datasets.sets import find_pairs, read_picture
    from decoupe.datasets.shards import predictable
    from decoupe.inference.predictor import Predictor

    run = _evaluation("run")
    found = find_pairs(data)
    pairs = {pair.name: pair for pair in found}
    if len(pairs) < len(found):
        raise InputError(
            f"{len(found) - len(pairs)} pairs of {data} share their name with another: rename them"
        )
    predictor = decoupe.load(name, **opening)
    if not isinstance(predictor, Predictor):
        raise InputError(f"{name} gives segments: score a model that gives mattes")

    def predicted(name: str) -> Any:
        alpha = predictor(predictable(pairs[name].image)).alpha
        return (alpha * 255).round().astype(np.uint8)

    def job(name: str) -> Job:
        try:
            made = predicted(name)
        except InputError as error:
            made = error
        entered: Job = run.Job(name, made, pairs[name].mask)
        return entered

    def look(name: str) -> Look:
        pair = pairs[name]
        return _shown(read_picture(pair.image), pair.mask, predicted(name))

    settings = {"model": predictor.describe(), "data": str(data)}
    return map(job, pairs), len(pairs), f"{name} on {data.name}", settings, look


def _shown(photograph: Any, truth: Any, prediction: Any) -> Look:
    """A picture for a sheet, all in 8 bits and of the truth's size."""
    files, measures, report = _evaluation("files"), _evaluation("measures"), _evaluation("report")
    told = files.read_matte(truth)
    same = files.fitted(prediction, told, str(truth))
    bytes_of = [(measures.unit(one, "matte") * 255).round().astype("uint8") for one in (told, same)]
    look: Look = report.Look(photograph, *bytes_of)
    return look


def _segments(
    pred: Path | None,
    gt: Path | None,
    model: str | None,
    data: Path | None,
    reading: Any,
    out: Path | None,
    table: str,
    beside: Sequence[str],
    opening: dict[str, Any],
    quiet: bool,
) -> None:
    """Score segments: a model or files against a segment set."""
    import decoupe
    from decoupe.datasets.scenes import SegmentSet
    from decoupe.datasets.segment_sets import MatteSegments, find_segment_set, is_segment_set, judged_part
    from decoupe.datasets.sets import find_pairs, is_matte_set, names_of

    scenes_of, report = _evaluation("scenes"), _evaluation("scene_report")
    known = _evaluation("published").rows_beside(beside, scenes_of.COLUMNS[reading])
    folder = gt if gt is not None else data
    if folder is None or (pred is None) == (model is None) or (gt is None) != (model is not None):
        raise InputError("give --pred and --gt, predictions and a set; or -m and --data, a model and a set")
    notes: list[str] = []
    if reading != "instances" and not is_segment_set(folder) and is_matte_set(folder):
        # As it was trained on: the subject is a class named after the set.
        (subject,), pairs = names_of([folder]), find_pairs(folder)
        scenes: SegmentSet = MatteSegments({subject: pairs})
    else:
        # Any truth but that of instances tells the class of every pixel.
        kinds: list[Any] = ["panoptic", "semantic"] if reading == "semantic" else [reading]
        part = judged_part(folder)
        scenes = find_segment_set(folder, part, kinds)
        if part != "val" and scenes.name != folder.resolve().name:
            notes.append(f"{folder} has no validation part: scored on {scenes.name}, its only one")
    if model is not None:
        segmenter = decoupe.load(model, **opening)
        if not isinstance(segmenter, decoupe.Segmenter):
            raise InputError(f"{model} gives mattes: score a model that gives segments")
        if isinstance(scenes, MatteSegments):
            scenes = MatteSegments({scenes_of.subject_of(segmenter.vocabulary, subject): pairs})
        else:  # on matte sets what is unsure is left to no segment, as while training
            segmenter.thresholds = scenes_of.THRESHOLDS[reading]
        predict, unknown_classes = scenes_of.model_predictions(segmenter, scenes, reading)
        notes += unknown_classes
        title = f"{model} on {folder.name}"
        settings = {"model": segmenter.describe(), "data": str(folder)}
    else:
        predict = scenes_of.file_predictions(pred, scenes, reading)
        title, settings = str(pred), {"predictions": str(pred), "truth": str(folder)}
    _make_folder(out)
    with progress_bar(len(scenes), drawn=drawn(quiet)) as advance:
        scores = scenes_of.evaluate_scenes(scenes, predict, reading, advance=advance)
    scores.notes += notes
    _say_notes(scores, quiet)
    about: AboutScenes = report.AboutScenes(title, reading, settings, known)
    typer.echo(_scene_table(about, scores.metric.result(), scenes_of.COLUMNS[reading], table))
    if out is not None:
        look = None if reading == "instances" else scenes_of.looks(scenes, predict, reading)
        report.write_scene_report(out, scores, about, look)
        if not quiet:
            say(f"wrote {out / 'index.html'}")
    if scores.problems:
        raise typer.Exit(1)


def _make_folder(out: Path | None) -> None:
    """Make a report's folder before the work, which takes long; OutputError where it cannot be."""
    if out is not None:
        _evaluation("report").write_files(out, {})


def _say_notes(scored: Any, quiet: bool) -> None:
    """Say what went wrong, and what there is to note; InputError where no picture has a score."""
    for line in (*scored.problems, *(() if quiet else scored.notes)):
        say(line)
    if not scored.names:
        raise InputError("no picture could be scored")


def _scene_table(about: AboutScenes, results: dict[str, float], columns: tuple[str, ...], form: str) -> str:
    """A table of segments, in percent as the papers' tables."""
    if form == "json":
        return json.dumps({"title": about.title, "results": results})
    cells, protocols = about.cells(results), _evaluation("protocols")
    if form == "text":
        sources = [f"published: {source}" for source in about.sources]
        return "\n".join([protocols.text_rows(["", *columns], cells), *sources])
    joined: str = {"markdown": protocols.markdown_rows, "latex": protocols.latex_rows}[form](
        ["", *(name.replace("_", " ") for name in columns)], cells
    )
    return joined


def _table(evaluation: Evaluation, about: About, form: str) -> str:
    """The table that a user asked for."""
    protocols = _evaluation("protocols")
    results = evaluation.scores.result()
    if form == "json":
        numbers = {name: None if value != value else value for name, value in results.items()}
        return json.dumps({"title": about.title, "pictures": len(evaluation.names), "results": numbers})
    rows = {about.title: results, **{label: scores for label, scores, _ in about.beside}}
    columns = about.protocol.columns
    sources = [f"published: {source}" for source in dict.fromkeys(source for _, _, source in about.beside)]
    if form == "text":
        titles = ["", *(protocols.title_of(name, long=False) for name, _ in columns)]
        return "\n".join([protocols.text_rows(titles, protocols.cells(columns, rows)), *sources])
    joined: str = {"markdown": protocols.markdown, "latex": protocols.latex}[form](columns, rows)
    return joined


def _list(protocols: Any) -> None:
    """Print what there is to choose from."""
    for name, one in protocols.PROTOCOLS.items():
        stretched = "; predictions stretched to [0, 1]" if one.stretch else ""
        typer.echo(f"{name:<9} {one.about}{stretched}\n{'':<9} {', '.join(one.names)}")
    for reading, about in protocols.READINGS.items():
        columns = _evaluation("scenes").COLUMNS[reading]
        typer.echo(f"{reading:<9} {about}\n{'':<9} {', '.join(columns)}")
    typer.echo("measures")
    for name, column in _evaluation("measures").COLUMNS.items():
        typer.echo(f"{name:<9} {column.title}, {column.better} is better: {column.about}")
    typer.echo(f"published results (--beside)\n{', '.join(_evaluation('published').PUBLISHED)}")


def _evaluation(part: str) -> Any:
    """A module of `decoupe.evaluation`."""
    return imported(f"decoupe.evaluation.{part}", "decoupe eval", "eval")
