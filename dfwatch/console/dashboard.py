"""The report of ``dfwatch status`` as one screen of a terminal. Pure: report, history and size in, lines out."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from dfwatch.console.terminal import dim, paint
from dfwatch.console.text import age_s, bytes_text, duration
from dfwatch.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BARS: Final = " ▁▂▃▄▅▆▇█"
_SGR: Final = re.compile(r"\x1b\[[0-9;]*m")
_COLOURS: Final = {"FAKE": "red", "REAL": "green", "INCONCLUSIVE": "yellow", "NO_FACE": "cyan"}
_STAGES: Final = ("hash", "probe", "decode", "faces", "inference", "verdict")
_STAGE_CELLS: Final = 24
_STALE_AFTER_S: Final = 30.0
_LABEL_CELLS: Final = 9


class Screen:
    """Draws one report after the other.

    Args:
        coloured: Whether to use terminal colours.
    """

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def lines(self, report: Mapping[str, Any], rates: Sequence[float], width: int, height: int) -> list[str]:
        """At most ``height`` lines of at most ``width`` columns.

        Args:
            report: As ``gather`` of ``dfwatch status`` gives it.
            rates: Files per minute that came to their end, oldest first; one figure for each redraw.
            width: Columns of the terminal.
            height: Rows of the terminal.
        """
        daemon = report["daemon"]
        top = [self._head(report), dim(printable(report["root"]), coloured=self._coloured), ""]
        if daemon is not None:
            top += [*self._problems(daemon), *self._machine(daemon)]
        top += [self._files(report), self._rate(rates, width)]
        if daemon is not None:
            top += [*self._stages(daemon), *self._sinks(daemon)]
        room = height - len(top) - 1
        lists = self._work(report, max(1, room // 2))
        lists += self._recent(report, room - len(lists))
        return [_fit(line, width) for line in [*top, *lists][: height - 1]] + [
            dim(_fit("Ctrl-C ends", width), coloured=self._coloured)
        ]

    def _head(self, report: Mapping[str, Any]) -> str:
        daemon = report["daemon"]
        if not report["running"]:
            return self._mark("red") + " dfwatch is not running"
        if daemon is None:
            return self._mark("yellow") + f" dfwatch is starting (pid {report['pid']})"
        silent_s = age_s(daemon["updated_at"])
        if silent_s > _STALE_AFTER_S:
            state = self._mark("red") + f" dfwatch has said nothing for {duration(silent_s)}: it may hang"
        elif daemon["paused"] or daemon["late"] or daemon.get("trouble"):
            state = self._mark("yellow") + " dfwatch needs help"
        else:
            state = self._mark("green") + " dfwatch runs"
        return f"{state}  {daemon['version']}, pid {report['pid']}, up {duration(age_s(daemon['started_at']))}"

    def _machine(self, daemon: Mapping[str, Any]) -> list[str]:
        queues = daemon.get("queues", {})
        ready, waiting = daemon["inbox_ready"], daemon["inbox_waiting"]
        oldest_ready = f", oldest for {duration(daemon.get('oldest_ready_s', 0.0))}" if ready else ""
        oldest = f", oldest for {duration(daemon['oldest_wait_s'])}" if waiting else ""
        memory = daemon.get("device_memory_bytes") or {}
        used = f", {bytes_text(memory['allocated'])} of {bytes_text(memory['total'])} used" if "total" in memory else ""
        free = daemon.get("disk_free_bytes")
        disk = "" if free is None else f" · disk {bytes_text(free)} free"
        lost = daemon.get("reader_restarts", 0)
        readers = paint(f"{lost} readers lost", "yellow", coloured=self._coloured) if lost else "no reader lost"
        watch, age_s = daemon["watch"], daemon.get("scan_age_s")
        seen = "" if age_s is None else f"looked {duration(age_s)} ago, "
        return [
            self._row("model", f"{daemon['model']} on {daemon['device']}, {daemon['precision']}{used}"),
            self._row("inbox", f"{ready} ready{oldest_ready} · {waiting} not complete{oldest}"),
            self._row(
                "in work",
                f"{daemon['running']} · {daemon['delayed']} wait for another try · "
                f"{queues.get('to_score', 0)} to score · {queues.get('to_publish', 0)} to publish",
            ),
            self._row(
                "watching",
                f"{seen}scan took {watch['last_scan_ms']:.0f} ms · events {watch['events']}{disk} · {readers}",
            ),
        ]

    def _files(self, report: Mapping[str, Any]) -> str:
        verdicts, counts = report["verdicts"], report["counts"]
        parts = [
            f"{paint(label, colour, coloured=self._coloured)} {verdicts.get(label, 0)}"
            for label, colour in _COLOURS.items()
        ]
        parts += [f"{status} {counts[status]}" for status in ("failed", "rejected", "quarantined")]
        return self._row("files", "   ".join(parts))

    def _rate(self, rates: Sequence[float], width: int) -> str:
        shown = rates[-max(1, min(60, width - _LABEL_CELLS - 20)) :]
        most = max(shown, default=0.0)
        # Nothing at all is blank; the least of anything is seen.
        line = "".join(_BARS[0 if not rate else max(1, round(rate / most * (len(_BARS) - 1)))] for rate in shown)
        now = f"{shown[-1]:.0f} a minute" if shown else ""
        return self._row("rate", f"{line}  {now}")

    def _stages(self, daemon: Mapping[str, Any]) -> list[str]:
        stages = daemon.get("stages") or {}
        known = [stage for stage in _STAGES if stage in stages]
        if not known:
            return []
        longest = max(stages[stage]["median_ms"] for stage in known) or 1.0
        lines = []
        for index, stage in enumerate(known):
            median, slowest = stages[stage]["median_ms"], stages[stage]["slowest_ms"]
            cells = round(_STAGE_CELLS * median / longest)
            bar = "█" * cells + dim("░" * (_STAGE_CELLS - cells), coloured=self._coloured)
            text = f"{stage:<10}{bar} {_ms(median):>8}  {dim(f'slowest {_ms(slowest)}', coloured=self._coloured)}"
            lines.append(self._row("stages" if index == 0 else "", text))
        return lines

    def _sinks(self, daemon: Mapping[str, Any]) -> list[str]:
        lines = []
        for index, lag in enumerate(daemon.get("sinks") or ()):
            behind = f"{lag['pending']} pending" if lag["pending"] else "up to date"
            # No age: what waits for a sink that is switched off is not late.
            if lag["oldest_s"]:
                behind += f", oldest for {duration(lag['oldest_s'])}"
            dead = paint(f" · {lag['dead']} given up", "red", coloured=self._coloured) if lag["dead"] else ""
            lines.append(self._row("sinks" if index == 0 else "", f"{printable(lag['sink'])}: {behind}{dead}"))
        return lines

    def _problems(self, daemon: Mapping[str, Any]) -> list[str]:
        told = [f"intake is paused: {daemon['paused']}"] if daemon["paused"] else []
        told += [f"work waits: {daemon['trouble']}"] if daemon.get("trouble") else []
        told += [f"no progress: {late}" for late in daemon["late"]]
        told += [f"no file events: {daemon['deaf']}"] if daemon["deaf"] else []
        told += [f"cannot be taken in: {blocked}" for blocked in daemon["blocked"]]
        told += list(daemon["watch"]["problems"])
        return [self._row("problem", paint(printable(text), "red", coloured=self._coloured)) for text in told[:5]]

    def _work(self, report: Mapping[str, Any], room: int) -> list[str]:
        work = report["in_work"]
        if not work or room < 3:
            return []
        shown = work[: room - 2]
        lines = ["", self._title(f"in work ({len(work)})")]
        return lines + [
            f"  {job['state']:<10} {duration(job['age_s']):>7}  {printable(job['name'])}"
            + (f"  attempt {job['attempts']}" if job["attempts"] > 1 else "")
            for job in shown
        ]

    def _recent(self, report: Mapping[str, Any], room: int) -> list[str]:
        recent = report["recent"]
        if not recent or room < 3:
            return []
        lines = ["", self._title("last")]
        for job in recent[: room - 2]:
            what = job["verdict"] or job["status"]
            cell = paint(f"{what:<13}", _COLOURS.get(what, "yellow"), coloured=self._coloured)
            score = "     " if job["p_fake"] is None else f"{job['p_fake']:.3f}"
            reason = "" if job["reason"] is None else f"  {job['reason']}"
            lines.append(f"  {job['updated_at'][11:19]}  {cell}{score}  {printable(job['name'])}{reason}")
        return lines

    def _row(self, label: str, text: str) -> str:
        return dim(f"{label:<{_LABEL_CELLS}}", coloured=self._coloured) + text

    def _title(self, text: str) -> str:
        return dim(text, coloured=self._coloured)

    def _mark(self, colour: str) -> str:
        return paint("●", colour, coloured=self._coloured)


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def _fit(line: str, width: int) -> str:
    """``line`` cut to so many columns; colours take none, and wide characters two."""
    used, out, position = 0, [], 0
    while position < len(line):
        code = _SGR.match(line, position)
        if code is not None:
            out.append(code[0])
            position = code.end()
            continue
        character = line[position]
        wide = unicodedata.east_asian_width(character) in {"W", "F"}
        cells = 0 if unicodedata.combining(character) else 1 + wide
        if used + cells > width:
            out.append("\x1b[0m" if _SGR.search(line) else "")
            break
        used += cells
        out.append(character)
        position += 1
    return "".join(out)
