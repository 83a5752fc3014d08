"""A sidecar document as a few readable lines, with a timeline for each track."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfwatch.console.terminal import dim, paint
from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_BARS = "▁▂▃▄▅▆▇█"
_NOT_SEEN = "·"
_COLOURS = {"FAKE": "red", "REAL": "green", "INCONCLUSIVE": "yellow", "NO_FACE": "cyan"}
_MOST_TRACKS = 8


def describe(document: Mapping[str, Any], *, coloured: bool = False) -> str:
    """The document for a person at a terminal.

    Args:
        document: A sidecar document.
        coloured: Whether to use terminal colours.
    """
    name = printable(document["subject"]["name"])
    verdict = document["verdict"]
    if verdict is None:
        reason = f"{document['status']}, {document['reason']}"
        lines = [f"{name}  {paint('not judged', 'yellow', coloured=coloured)} ({reason})"]
        lines.append(f"  {printable(document['reason_detail'])}")
        if document["reason_hint"]:
            lines.append(f"  → {printable(document['reason_hint'])}")
        return "\n".join(lines)
    lines = [
        f"{name}  {paint(verdict, _COLOURS[verdict], coloured=coloured)}{_probability(document)}",
        f"  {_input(document)}",
    ]
    lines += _timelines(document, coloured=coloured)
    lines += [f"  ! {printable(flag['detail'])}" for flag in document["quality"]]
    lines += [f"  ! {printable(text)}" for text in document["warnings"]]
    lines += [dim(f"  {text}", coloured=coloured) for text in (_judged_by(document), *document["limits"])]
    return "\n".join(lines)


def _probability(document: Mapping[str, Any]) -> str:
    p_fake = document["p_fake"]
    if p_fake is None:
        return ""
    kind = "" if document["calibrated"] else ", not calibrated"
    # Every digit of it and of the thresholds: rounded, the two could contradict the verdict.
    return f"  p(fake) {p_fake}{kind}"


def _input(document: Mapping[str, Any]) -> str:
    video, sampling = document["video"], document["sampling"]
    size = f"{video['width']}×{video['height']} {video['codec']}"
    cost = f"{document['timings_ms']['total'] / 1000:.1f} s"
    if video["still"]:
        return f"still picture · {size} · {cost}"
    duration = "length unknown" if video["duration_s"] is None else _clock(video["duration_s"])
    frames = f"{sampling['decoded']} of {sampling['expected_frames']} frames"
    return f"{duration} · {size} · {frames} · {cost}"


def _timelines(document: Mapping[str, Any], *, coloured: bool) -> list[str]:
    times, fake = document["sampling"]["times_s"], document["thresholds"]["fake"]
    lines = []
    tracks = sorted(document["tracks"], key=lambda track: -track["p_fake"])
    for track in tracks[:_MOST_TRACKS]:
        scores = {frame["index"]: frame["p_fake"] for frame in track["frames"]}
        line = "".join(_bar(scores.get(index), fake, coloured=coloured) for index in range(len(times)))
        if document["decided_by_track"] is None:
            role = "  decides with all others" if len(tracks) > 1 else ""
        elif track["id"] == document["decided_by_track"]:
            role = "  decides"
        else:
            role = "" if track["stable"] else "  too short to decide"
        lines.append(f"  face {track['id']}  {line}  {track['p_fake']:.2f}{role}")
    if len(tracks) > _MOST_TRACKS:
        lines.append(f"  and {len(tracks) - _MOST_TRACKS} more faces")
    if tracks and len(times) > 1:
        first, last = _clock(times[0]), _clock(times[-1])
        gap = " " * max(1, len(times) - len(first) - len(last))
        indent = " " * (2 + len(f"face {tracks[0]['id']}  "))
        lines.append(dim(f"{indent}{first}{gap}{last}", coloured=coloured))
    return lines


def _bar(p_fake: float | None, fake: float, *, coloured: bool) -> str:
    if p_fake is None:
        return _NOT_SEEN
    bar = _BARS[min(len(_BARS) - 1, int(p_fake * len(_BARS)))]
    return paint(bar, _COLOURS["FAKE"], coloured=coloured and p_fake >= fake)


def _judged_by(document: Mapping[str, Any]) -> str:
    limits, model, runtime = document["thresholds"], document["model"], document["runtime"]
    return (
        f"REAL up to {limits['real']}, FAKE from {limits['fake']} · "
        f"{model['id']} {model['version']} on {runtime['device']}, {runtime['precision']}"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(minutes)}:{int(rest):02d}"
