"""What the preparers of published data sets share: options, workers, restarts, checks, and the summary at the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from pcseg.datasets.splits import SPLITS
from pcseg.datasets.verify import verify_folder
from pcseg.errors import InputError, describe
from pcseg.io.atomic import replacing
from pcseg.progress import progress_bar

SKIPPED = 3
"""Exit code: something was skipped or is not as it should be, and the rest is done."""
FORMAT = 1
Result = TypeVar("Result")
_FEW = 3  # names that a line of the summary lists
_LEFTOVER = re.compile(r"^\..+\.(\d+)\.(part|old)$")


@dataclass(frozen=True)
class ReleaseOptions:
    """Turn a release into scene folders. What is there already, from the same files, is left alone."""

    raw: Path | None = None
    """The release as it was downloaded: its folder, or a zip file, which is read in place."""
    out: Path | None = None
    """Folder of the scenes."""
    workers: int = 1
    """Processes that prepare scenes side by side."""
    scheduler: str | None = None
    """Address of a Dask scheduler, tcp://HOST:PORT: its workers prepare the scenes (pip install pcseg[cluster]). They
    must see --raw and --out under the same paths."""
    check: bool = False
    """Read the download and say what is missing or damaged; prepare nothing."""
    verify: bool = False
    """Read the scenes in --out and say which are not as they were written; prepare nothing."""
    quiet: bool = False
    """No progress bar, and in the summary only what was skipped."""


class Made(Protocol):
    """What a job makes, as the summary sees it."""

    @property
    def num_points(self) -> int: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How what was prepared lies in its folder."""

    is_there: Callable[[Path, str], bool]
    """Whether the folder holds what has this name."""
    verify: Callable[[Path], dict[str, list[str]]]
    """What is wrong with each thing in the folder, by name."""


def _is_scene(out: Path, name: str) -> bool:
    return (out / name / "scene.json").is_file()


SCENES = Layout(is_there=_is_scene, verify=verify_folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneJob:
    """A scene to prepare. The functions are called in another process where there are several workers."""

    name: str
    size: int
    """Bytes of its files: the largest go first."""
    prepare: Callable[[Path], tuple[Made, bool]]
    """Given the folder to write. What is there then, and whether it was there already."""
    check: Callable[[], Sequence[str]]
    """What is noteworthy in its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What there is to do."""

    data_set: str
    version: str
    """Releases that give different scenes have different versions; a folder holds one."""
    jobs: Sequence[SceneJob]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """What cannot be prepared, and why."""
    findings: Sequence[str] = ()
    """How the files differ from the whole release."""
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of scenes; those that are not prepared are left out of the lists that are written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a scene."""

    name: str
    state: Literal["prepared", "left as it was", "checked", "skipped"]
    notes: tuple[str, ...] = ()
    num_points: int = 0


def run_release(
    options: ReleaseOptions,
    find: Callable[[Path], Release],
    *,
    layout: Layout = SCENES,
    after: Callable[[Path], Sequence[str]] = lambda out: (),
) -> None:
    """Do what the options say; ends the process with ``SKIPPED`` where something is not done.

    Args:
        find: lists the scenes of a download.
        after: called with the folder once the scenes are there; what it did, "skipped ..." for what it could not do.

    Raises:
        InputError: options that do not fit, a download without scenes, an output folder of something else.
    """
    if options.workers < 1:
        raise InputError(f"--workers must be at least 1, got {options.workers}")
    if options.verify:
        sys.exit(_verify(options, layout))
    if options.raw is None:
        raise InputError("name the download with --raw")
    if not options.check and options.out is None:
        raise InputError("name the folder of the scenes with --out, or --check the download")
    release = find(options.raw)
    if options.check:
        tasks = [partial(_check_one, job) for job in _by_size(release.jobs)]
    else:
        assert options.out is not None
        _claim(options.out, release)
        tasks = [partial(_prepare_one, job, options.out / job.name) for job in _by_size(release.jobs)]
    title = f"{'check' if options.check else 'prepare'} {release.data_set}"
    outcomes = sorted(
        _progress(run_tasks(tasks, options.workers, options.scheduler), len(tasks), title, options),
        key=lambda o: o.name,
    )
    told: Sequence[str] = ()
    if options.out is not None and not options.check:
        _write_splits(options.out, release.splits, layout)
        told = after(options.out)
    _print_summary(release, outcomes, told, options)
    skipped = release.skipped or any(outcome.state == "skipped" for outcome in outcomes)
    if skipped or any(line.startswith("skipped") for line in told) or (options.check and release.findings):
        sys.exit(SKIPPED)


def run_tasks(tasks: Sequence[Callable[[], Result]], workers: int, scheduler: str | None = None) -> Iterator[Result]:
    """Results in the order in which they are ready; one worker is this process.

    Args:
        scheduler: address of a Dask scheduler, whose workers do the work instead.

    Raises:
        InputError: a worker process was killed, or a scheduler that cannot be reached.
    """
    if scheduler is not None:
        yield from _on_cluster(tasks, scheduler)
        return
    if workers == 1:
        for task in tasks:
            yield task()
        return
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    pool: Any = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)  # pyright: ignore
    try:
        yield from pool(delayed(task)() for task in tasks)
    except TerminatedWorkerError as error:
        raise InputError(
            "a worker was killed, most likely for want of memory; run again with fewer --workers"
        ) from error


def _on_cluster(tasks: Sequence[Callable[[], Result]], scheduler: str) -> Iterator[Result]:
    from joblib import Parallel, delayed, parallel_config

    try:
        from distributed import Client
    except ImportError:
        raise InputError("--scheduler needs Dask; pip install pcseg[cluster]") from None
    try:
        client = Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler {scheduler}: cannot be reached ({describe(error)}); is it running?") from error
    with client, parallel_config(backend="dask", client=client):
        pool: Any = Parallel(return_as="generator_unordered", batch_size=1)  # pyright: ignore
        yield from pool(delayed(task)() for task in tasks)


def _prepare_one(job: SceneJob, folder: Path) -> Outcome:
    try:
        made, kept = job.prepare(folder)
    except (InputError, OSError) as error:
        return Outcome(name=job.name, state="skipped", notes=(describe(error),))
    return Outcome(
        name=job.name,
        state="left as it was" if kept else "prepared",
        notes=made.notes,
        num_points=made.num_points,
    )


def _check_one(job: SceneJob) -> Outcome:
    try:
        return Outcome(name=job.name, state="checked", notes=tuple(job.check()))
    except (InputError, OSError) as error:
        return Outcome(name=job.name, state="skipped", notes=(describe(error),))


def refuse_codes(unknown: Iterable[float], where: str, *, table: str = "table", remedy: str = "") -> None:
    """Nothing, where there is no unknown class code.

    Raises:
        InputError: names the codes.
    """
    codes = ", ".join(f"{code:g}" for code in sorted(unknown))
    if codes:
        raise InputError(f"{where}: class codes outside the {table}: {codes}" + (f"; {remedy}" if remedy else ""))


def _by_size(jobs: Iterable[SceneJob]) -> list[SceneJob]:
    return sorted(jobs, key=lambda job: (-job.size, job.name))


def _claim(out: Path, release: Release) -> None:
    """Mark the folder as that of this release, and clear away what killed runs left behind.

    Raises:
        InputError: it is the folder of another release, or of another version of the format.
    """
    mark = out / "data_set.json"
    wanted = {"format": FORMAT, "data_set": release.data_set, "version": release.version}
    if mark.exists():
        try:
            found: Any = json.loads(mark.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{mark}: line 1: no JSON ({error}); remove it, or prepare into another folder") from error
        if found != wanted:
            have = found if isinstance(found, dict) else {}
            told = f"{have.get('data_set')}, version {have.get('version')}, format {have.get('format')}"
            raise InputError(
                f"{mark}: the folder is that of {told}; {release.data_set}, version {release.version}, format {FORMAT} "
                f"needs another folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        match = _LEFTOVER.match(path.name)
        if match and path.is_dir() and not _alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)
    with replacing(mark) as temporary:
        temporary.write_text(json.dumps(wanted) + "\n", encoding="utf-8")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_splits(out: Path, splits: Mapping[str, Sequence[str]], layout: Layout) -> None:
    for name, scenes in splits.items():
        there = [scene for scene in scenes if layout.is_there(out, scene)]
        (out / SPLITS).mkdir(exist_ok=True)
        with replacing(out / SPLITS / f"{name}.txt") as temporary:
            temporary.write_text("".join(f"{scene}\n" for scene in there), encoding="utf-8")


def _verify(options: ReleaseOptions, layout: Layout) -> int:
    if options.out is None:
        raise InputError("name the folder of the scenes with --out")
    problems = layout.verify(options.out)
    total, wrong = len(problems), {name: found for name, found in problems.items() if found}
    for name, found in wrong.items():
        for problem in found:
            print(f"{name}: {problem}")
    print(f"{total} prepared, {total - len(wrong)} as they were written")
    return SKIPPED if wrong else 0


def _progress(outcomes: Iterable[Outcome], total: int, title: str, options: ReleaseOptions) -> Iterator[Outcome]:
    with progress_bar(quiet=options.quiet) as progress:
        task = progress.add_task(title, total=total)
        for outcome in outcomes:
            progress.update(task, advance=1, description=f"{title}: {outcome.name}")
            yield outcome


def _print_summary(release: Release, outcomes: Sequence[Outcome], told: Sequence[str], options: ReleaseOptions) -> None:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    if not options.quiet:
        repeated: dict[str, list[str]] = {}
        for outcome in outcomes:
            for note in outcome.notes if outcome.state != "skipped" else ():
                repeated.setdefault(note, []).append(outcome.name)
        for note, names in repeated.items():
            print(f"{_listed(names)}: {note}")
        for line in (*release.findings, *(line for line in told if not line.startswith("skipped"))):
            print(line)
    for name, reason in release.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    for outcome in outcomes:
        if outcome.state == "skipped":
            print(f"skipped {outcome.name}: {outcome.notes[0]}", file=sys.stderr)
    for line in told:
        if line.startswith("skipped"):
            print(line, file=sys.stderr)
    counts["skipped"] = counts.pop("skipped", 0) + len(release.skipped)  # last in the line
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    points = sum(outcome.num_points for outcome in outcomes)
    print(
        f"{release.data_set} ({release.version}): {states or 'nothing to do'}"
        + (f"; {points:,} points" if points else "")
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _FEW else f"{names[0]} and {len(names) - 1} others"
