"""The scores of all faces over playing time, as an SVG picture that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDE: Final = 760
NARROW: Final = 320
_HEIGHT: Final = 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 30
MOST_TRACKS: Final = 12
# Told apart by people who do not see all colours (Okabe and Ito, 2008); the deciding face is the first.
_COLOURS: Final = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#888888")
_STYLE: Final = (
    "text{font:11px system-ui,sans-serif;fill:#666}.grid{stroke:#8884;stroke-width:1}"
    ".limit{stroke-width:1;stroke-dasharray:4 3;fill:none}"
)


def timeline(document: Mapping[str, Any], width: int = WIDE) -> str:
    """The picture of one sidecar document that has a verdict.

    Args:
        document: The document.
        width: Of the drawing, to which its texts are in proportion: ``WIDE`` for a desk, ``NARROW`` for a phone.
    """
    times = document["sampling"]["times_s"]
    end_s = max(document["video"]["duration_s"] or 0.0, times[-1] if times else 0.0, 0.001)
    limits = document["thresholds"]

    def x(time_s: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * time_s / end_s

    def y(p_fake: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - p_fake)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" role="img">',
        f"<title>p(fake) of each face over time</title><style>{_STYLE}</style>",
    ]
    for segment in document["segments"]:
        left, right = x(segment["start_s"]), x(segment["end_s"])
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP}" width="{max(2.0, right - left):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}" fill="#d55e00" opacity="0.12"/>'
        )
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value, name, colour in ((limits["fake"], "FAKE", "#d55e00"), (limits["real"], "REAL", "#009e73")):
        parts.append(f'<path class="limit" stroke="{colour}" d="M{_LEFT} {y(value):.1f}H{width - _RIGHT}"/>')
        parts.append(f'<text x="{width - _RIGHT}" y="{y(value) - 3:.1f}" text-anchor="end">{name}</text>')
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(
            f'<text x="{x(share * end_s):.1f}" y="{_HEIGHT - 10}" text-anchor="{anchor}">{_clock(share * end_s)}</text>'
        )
    decided = document["decided_by_track"]
    tracks = sorted(document["tracks"], key=lambda track: (track["id"] != decided, -track["p_fake"]))[:MOST_TRACKS]
    # The deciding face is drawn last, on top.
    for number, track in reversed(list(enumerate(tracks))):
        colour = _COLOURS[min(number, len(_COLOURS) - 1)]
        points = [(x(frame["time_s"]), y(frame["p_fake"])) for frame in track["frames"]]
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>')
        parts += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in points]
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(minutes)}:{int(rest):02d}"
