"""What the training commands do, from parsed arguments to the exit code."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from dfwatch.config import ModelSettings
from dfwatch.detector import Detector
from dfwatch.errors import TrainingError
from dfwatch.models.bundle import load_bundle
from dfwatch.models.importing import NOT_MEASURED
from dfwatch.training import layouts, robustness
from dfwatch.training.allocation import keep_freed_memory
from dfwatch.training.alone import alone_in
from dfwatch.training.batches import open_pools
from dfwatch.training.calibration import choose_thresholds, fit_calibration
from dfwatch.training.cli import INCOMPLETE
from dfwatch.training.crops import CutSpec
from dfwatch.training.deck import Item
from dfwatch.training.export import export_bundle, read_log, split_rule, update_bundle
from dfwatch.training.frames import is_video
from dfwatch.training.hints import StoppedError
from dfwatch.training.judging import (
    draw_videos,
    gather_videos,
    judge_crops,
    judge_videos,
    no_more_fakes_than_reals,
    refuse_trained,
    score_crops,
    weights_in_videos,
)
from dfwatch.training.loop import RunOptions
from dfwatch.training.metrics import auc
from dfwatch.training.opening import open_trainer
from dfwatch.training.packs import Pack
from dfwatch.training.prepare import CONTACT_SHEET, PrepareOptions, contact_sheet, prepare, summary_table
from dfwatch.training.recipe import AboutSpec
from dfwatch.training.report import as_json, write_report
from dfwatch.training.splits import SplitRule, read_exclusions, take
from dfwatch.training.summary import arrays, evaluate, summarise

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from dfwatch.models.bundle import Bundle
    from dfwatch.training.judging import Judged
    from dfwatch.training.recipe import Recipe
    from dfwatch.training.splits import Dealt


def run_prepare(arguments: argparse.Namespace) -> int:
    """Run `dfwatch prepare`."""
    layout = layouts.detect(arguments.source) if arguments.layout == "auto" else arguments.layout
    found = layouts.scan(layout, arguments.source)
    sources = found.sources
    cut = CutSpec(
        size_px=arguments.size,
        margin=arguments.margin,
        whole=arguments.cropped,
        codec=arguments.codec,
        quality=arguments.quality,
    )
    options = PrepareOptions(folder=arguments.pack, cut=cut, frames=arguments.frames, processes=arguments.processes)
    _say(f"{len(sources)} sources, layout {layout}")
    for why, count in found.left_out.items():
        _say(f"left out: {count} {why}")
    with tqdm(total=len(sources), unit="source") as bar:

        def progress(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        if any(is_video(source.path) for source in sources):
            from dfwatch.training.videos import VideoCutter  # noqa: PLC0415 - starts reader processes

            options = dataclasses.replace(options, chunk=8)
            with VideoCutter(cut, arguments.frames) as cutter:
                done = prepare(sources, options, cut_video=cutter.cut, progress=progress)
        else:
            done = prepare(sources, options, progress=progress)
    sheet = os.path.join(arguments.pack, CONTACT_SHEET)
    contact_sheet(Pack(arguments.pack), sheet)
    print(summary_table(done.records, SplitRule()))  # noqa: T201 - the command's result
    _say(f"{done.without_face} sources without a face, {len(done.failed)} unreadable; look at {sheet}")
    for video, cause in sorted(done.failed.items())[:20]:
        _say(f"  {video}: {cause}")
    return 0


def run_train(arguments: argparse.Namespace) -> int:
    """Run `dfwatch train`: 0 when the run is complete, 3 when time ran out before."""
    recipe: Recipe = arguments.recipe
    if arguments.teacher and recipe.teacher:
        recipe = dataclasses.replace(recipe, teacher=dataclasses.replace(recipe.teacher, bundle=arguments.teacher))
    if arguments.initial:
        recipe = dataclasses.replace(recipe, initial=arguments.initial)
    if arguments.pack:
        packs = tuple(arguments.pack)
        data = dataclasses.replace(recipe.data, packs=packs, blend_packs=packs, unlabelled_packs=())
        # What the recipe says of its bundle speaks of its own data, not of these.
        name = os.path.basename(os.path.abspath(arguments.bundle or arguments.run))
        recipe = dataclasses.replace(recipe, id=name, data=data, about=AboutSpec(input_px=recipe.about.input_px))
    excluded = _excluded(arguments)
    if arguments.only_bundle:
        return _export(arguments, recipe, open_pools(arguments.data, recipe, excluded).groups)
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    options = RunOptions(
        folder=arguments.run,
        device=_device(arguments.device),
        workers=arguments.workers,
        threads=arguments.threads,
        stop_at=arguments.began_at + 60 * arguments.max_minutes if arguments.max_minutes else None,
        stop_asked=asked.is_set,
        parts_folder=arguments.parts,
    )
    with alone_in(options.folder):
        return _train(arguments, recipe, options, excluded)


def _train(arguments: argparse.Namespace, recipe: Recipe, options: RunOptions, excluded: frozenset[str]) -> int:
    if options.device == "cpu":
        keep_freed_memory()
    with tqdm(desc="asking the teacher", unit="crop", delay=1) as bar:

        def hinting(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        packs: dict[str, Pack] = {}
        try:
            trainer = open_trainer(arguments.data, recipe, options, excluded, hinting=hinting, opened=packs)
        except StoppedError:
            _say(f"stopped before the teacher had looked at every crop; {arguments.run} keeps what it has said")
            return INCOMPLETE
    _tell_excluded(excluded, (record for pack in packs.values() for record in pack.records))
    _say(f"{recipe.id}: step {trainer.progress.step} of {recipe.total_steps} on {options.device}")
    progress = trainer.run(_report)
    if not progress.best_step:
        _say(f"stopped before the first measurement: no weights yet; checkpoint in {arguments.run}")
        return INCOMPLETE
    _say(f"best AUC {progress.best_auc:.4f} at step {progress.best_step}; weights and log in {arguments.run}")
    if arguments.bundle:
        _export(arguments, recipe, trainer.groups)
    return 0 if progress.finished else INCOMPLETE


def _export(arguments: argparse.Namespace, recipe: Recipe, groups: frozenset[str]) -> int:
    def kept(place: str) -> None:
        _say(f"the calibrated bundle that was there is now {place}")

    export_bundle(arguments.run, recipe, arguments.bundle, groups, kept=kept)
    packs = [word for name in recipe.data.packs for word in ("--pack", name)]
    following = shlex.join(["dfwatch", "calibrate", arguments.bundle, "--data", arguments.data, *packs])
    _say(f"bundle in {arguments.bundle}; next: {following}")
    return 0


def _card_kept(place: str) -> None:
    _say(f"the card that somebody wrote by hand is now {place}; a new one stands in its place")


def run_calibrate(arguments: argparse.Namespace) -> int:
    """Run `dfwatch calibrate`."""
    bundle = load_bundle(arguments.bundle)
    items = no_more_fakes_than_reals(_items(arguments, split_rule(bundle)))
    refuse_trained(bundle, [item.record.group for item in items], allowed=False)
    detector = Detector.load(bundle, ModelSettings(device=arguments.device))
    scored = score_crops(detector, items)
    frame_labels = np.array([int(item.record.is_fake) for item in items], np.int64)
    labels, _, groups = arrays(gather_videos(bundle, items, scored))
    reals, fakes = int((labels == 0).sum()), int((labels == 1).sum())
    counts = f"{reals} real and {fakes} fake, {len(set(groups))} groups"
    data = f"{arguments.split} part of {', '.join(arguments.pack)}: {counts}"
    # Fitted on frames because the service calibrates frames; their mean is what a video is judged by, here as there.
    calibration = fit_calibration(arguments.method, frame_labels, scored.raw, data, weights_in_videos(items))
    fitted, chosen_on = dataclasses.replace(bundle, calibration=calibration), data
    _, p_fake, _ = arrays(gather_videos(fitted, items, scored))
    _say(f"fitted on {data}, AUC {auc(labels, p_fake):.4f}")
    if arguments.real_videos:
        videos = _real_videos(arguments, fitted, detector)
        is_fake = labels == 1
        p_fake = np.concatenate([p_fake[is_fake], [video.p_fake for video in videos]])
        groups = [group for group, fake in zip(groups, is_fake, strict=True) if fake]
        groups += [video.group for video in videos]
        labels = np.concatenate([labels[is_fake], np.zeros(len(videos), np.int64)])
        frames = sum(video.faces for video in videos) / len(videos)
        people = len({video.group for video in videos})
        chosen_on = (
            f"{len(videos)} real videos of {arguments.real_videos} in {people} groups, {frames:.0f} frames of each; "
            f"for REAL, the fakes of the {data}"
        )
    thresholds = choose_thresholds(
        labels,
        p_fake,
        groups,
        chosen_on=chosen_on,
        false_positive_rate=arguments.false_alarms,
        miss_rate=arguments.misses,
        confidence=None if arguments.no_guarantee else 0.9,
    )
    # Figures of an evaluation were those of the calibration and thresholds that are now replaced.
    kept = {name: facts for name, facts in bundle.metrics.items() if name == "training"}
    update_bundle(bundle, kept=_card_kept, calibration=calibration, thresholds=thresholds, metrics=kept)
    values = ", ".join(f"{name} {value:.4f}" for name, value in calibration.parameters.items())
    _say(
        f"{calibration.method} {values}; REAL at or below {thresholds.real:.4f}, FAKE at or above {thresholds.fake:.4f}"
    )
    return 0


def _real_videos(arguments: argparse.Namespace, bundle: Bundle, detector: Detector) -> list[Judged]:
    """Judge the real videos of a pack by the mean of their frames, under a calibration that was just fitted."""
    excluded = _excluded(arguments)
    pack = Pack(os.path.join(arguments.data, arguments.real_videos))
    items = [
        Item(pack, record)
        for record in pack.records
        if not record.is_fake and record.video not in excluded and record.group not in excluded
    ]
    if not items:
        raise TrainingError("choosing thresholds on", arguments.real_videos, "no real video is there")
    refuse_trained(bundle, [item.record.group for item in items], allowed=False)
    judged = gather_videos(bundle, items, score_crops(detector, items))
    single = sum(video.faces == 1 for video in judged)
    if single > len(judged) / 2:
        raise TrainingError(
            "choosing thresholds on",
            arguments.real_videos,
            f"{single} of {len(judged)} videos have one frame only",
            hint="prepare it from videos, or from pictures whose column `video` says which belong together",
        )
    return judged


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Run `dfwatch evaluate`."""
    bundle = load_bundle(arguments.bundle)
    if arguments.margin is not None:
        bundle = dataclasses.replace(bundle, crop=dataclasses.replace(bundle.crop, margin=arguments.margin))
    try:
        # Before the work, and not when it is done.
        os.makedirs(arguments.out, exist_ok=True)
    except OSError as error:
        raise TrainingError("making the report's folder", arguments.out, error.strerror or error) from error
    log = read_log(arguments.run) if arguments.run else []
    if arguments.run and not log:
        raise TrainingError("reading the log of the run", arguments.run, "there is none", hint="leave --run out")
    items: list[Item] = []
    if arguments.videos:
        judged, trained, data = _judge_videos(arguments, bundle)
    else:
        items = _items(arguments, split_rule(bundle))
        data = f"{arguments.split} part of {', '.join(arguments.pack)}"
        if _chosen_on(bundle, arguments.split, arguments.pack):
            data += " (on which calibration or thresholds were chosen: no held-out figures)"
        if not arguments.all_fakes:
            before, items = len(items), no_more_fakes_than_reals(items)
            if len(items) < before:
                data += ", of the fakes as many as reals"
        trained = refuse_trained(bundle, [item.record.group for item in items], allowed=arguments.include_trained)
        detector = Detector.load(bundle, ModelSettings(device=arguments.device))
        judged = judge_crops(detector, items)
    evaluation = evaluate(bundle, data, judged, trained_on=trained, rounds=arguments.rounds)
    if arguments.robustness and items:
        detector = Detector.load(bundle, ModelSettings(device=arguments.device))
        some = draw_videos(items, most_reals=arguments.robustness, most_fakes=arguments.robustness)
        changes = {"unchanged": None, **robustness.CHANGES}
        for name, change in tqdm(changes.items(), desc="robustness"):
            changed = judge_crops(detector, some, change=change, keep_pictures=False)
            evaluation.robustness[name] = summarise(name, changed, full=False, rounds=arguments.rounds)
    write_report(evaluation, arguments.out, log)
    if arguments.store:
        failures = tuple(failure for failure in bundle.known_failures if failure != NOT_MEASURED)
        measured = {**bundle.metrics, arguments.store: as_json(evaluation)}
        update_bundle(bundle, kept=_card_kept, metrics=measured, known_failures=failures)
    _say(f"AUC {evaluation.overall.figures['AUC']}; report in {os.path.join(arguments.out, 'report.html')}")
    return 0


def _chosen_on(bundle: Bundle, split: str, packs: Sequence[str]) -> bool:
    """Whether a bundle says that calibration or a threshold of it was chosen on this part of one of these packs."""
    told = f"{bundle.calibration.fitted_on}; {bundle.thresholds.chosen_on}"
    parts = re.findall(r"(train|select|test) part of ([^:]+):", told)
    used = {name for part, names in parts if part == split for name in names.split(", ")}
    return any(name in used or f" real videos of {name} in " in told for name in packs)


def _judge_videos(arguments: argparse.Namespace, bundle: Bundle) -> tuple[list[Judged], int, str]:
    from dfwatch.training.videos import open_judge  # noqa: PLC0415 - starts reader processes

    layout = layouts.detect(arguments.videos) if arguments.layout == "auto" else arguments.layout
    found = layouts.scan(layout, arguments.videos)
    excluded = _excluded(arguments)
    _tell_excluded(excluded, found.sources)
    sources = take(found.sources, arguments.split, split_rule(bundle), excluded)
    if not sources:
        raise TrainingError("evaluating on", arguments.videos, f"its {arguments.split} part is empty")
    trained = refuse_trained(bundle, [source.group for source in sources], allowed=arguments.include_trained)
    with open_judge(bundle, arguments.device) as judge, tqdm(total=len(sources), unit="video") as bar:

        def show(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        judged = judge_videos(judge, sources, show)
    name = os.path.basename(os.path.abspath(arguments.videos))
    part = f"{arguments.split} part of " if arguments.split else ""
    return judged, trained, f"{part}{name} ({layout}), through reader and verdict"


def _items(arguments: argparse.Namespace, rule: SplitRule) -> list[Item]:
    excluded = _excluded(arguments)
    found: list[Item] = []
    packs: list[Pack] = []
    for name in arguments.pack:
        packs.append(Pack(os.path.join(arguments.data, name)))
        found.extend(Item(packs[-1], record) for record in take(packs[-1].records, arguments.split, rule, excluded))
    _tell_excluded(excluded, (record for pack in packs for record in pack.records))
    if not found:
        raise TrainingError("opening the packs", arguments.data, f"their {arguments.split} part is empty")
    return found


def _device(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _excluded(arguments: argparse.Namespace) -> frozenset[str]:
    return read_exclusions(arguments.exclude) if arguments.exclude else frozenset()


def _tell_excluded(excluded: frozenset[str], records: Iterable[Dealt]) -> None:
    """Say how many names of an exclusion list are there: one that is called otherwise excludes nothing."""
    if excluded:
        met = excluded & {name for record in records for name in (record.video, record.group)}
        _say(f"--exclude: {len(met)} of {len(excluded)} names are a video or a group here")


def _report(entry: dict[str, Any]) -> None:
    if entry["event"] == "train":
        _say(
            f"step {entry['step']}/{entry['of']}  loss {entry['loss']}  {entry['crops_per_s']} crops/s"
            f"  waiting {entry['waiting_for_data']:.0%}  left {entry['left_s'] / 60:.0f} min"
        )
    else:
        _say(f"step {entry['step']}  AUC {entry['auc']}  best {entry.get('best_auc')}  loss {entry.get('loss')}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress for a person
