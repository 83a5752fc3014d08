"""One video's report as a page of HTML that needs no other file, no script and no network."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any, Final

from dfwatch.document import percent
from dfwatch.evidence.timeline import MOST_TRACKS, NARROW, timeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEAT_NOTE: Final = "where the model looked, not proof"
# Each map is scaled to its own peak, which a picture cannot show.
_HEAT_CAPTION: Final = (
    f"{HEAT_NOTE.capitalize()}. Bright: most of what speaks for FAKE, however little that is. Dark: nothing does."
)
_COLOURS: Final = {"FAKE": "#b3261e", "REAL": "#1a7f4b", "INCONCLUSIVE": "#8a6100", "NO_FACE": "#3b5b8c"}
_SAYING: Final = {
    "FAKE": "Traces of face manipulation",
    "REAL": "No trace of a known kind of face manipulation",
    "INCONCLUSIVE": "No claim is made",
    "NO_FACE": "No face was found that is fit to be judged: nothing was judged",
}
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c1c1e;--soft:#63636b;--paper:#fff;--card:#f5f5f7;--line:#dcdce0}
@media(prefers-color-scheme:dark){:root{--ink:#ececf0;--soft:#a0a0aa;--paper:#161618;--card:#212125;--line:#37373d}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:56rem;margin:0 auto;padding:2rem 1.25rem 4rem;overflow-wrap:anywhere}
h1{font-size:1.35rem;margin:0}
h2{font-size:1.05rem;margin:2.5rem 0 .75rem}
.soft,figcaption,dt{color:var(--soft)}
.verdict{display:flex;flex-wrap:wrap;gap:1rem 1.5rem;align-items:center;margin:1.25rem 0;padding:1.25rem;
background:var(--card);border-left:6px solid var(--tone);border-radius:8px}
.label{font-size:1.6rem;font-weight:700;color:#fff;background:var(--tone);padding:.15rem .8rem;border-radius:6px}
.verdict p{margin:0}
ul.limits{margin:0;padding:.9rem 1.25rem .9rem 2.25rem;border:1px solid var(--line);border-radius:8px}
.chart{background:var(--card);border-radius:8px;padding:.75rem}
.chart svg{display:block;width:100%;height:auto}
.chart .narrow{display:none}
.shots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(20rem,100%),1fr));gap:1.25rem}
figure{margin:0;background:var(--card);border-radius:8px;overflow:hidden;break-inside:avoid}
figure img{display:block;width:100%;height:auto}
figcaption{padding:.5rem .75rem;font-size:.85rem}
figcaption strong{color:var(--ink)}
dl{display:grid;grid-template-columns:minmax(9rem,auto) 1fr;gap:.3rem 1.25rem;margin:0;font-size:.92rem}
dd{margin:0}
@media(max-width:34rem){dl{grid-template-columns:1fr}dd{margin-bottom:.5rem}
.chart .narrow{display:block}.chart .wide{display:none}}
@media print{main{max-width:none;padding:0}.verdict,figure,.chart{border:1px solid var(--line)}}
"""


def page(document: Mapping[str, Any], pictures: Mapping[str, bytes], frames: Sequence[Mapping[str, Any]]) -> str:
    """The whole page.

    Args:
        document: A sidecar document with a verdict.
        pictures: JPEG files by name.
        frames: What is shown, as in the document's ``evidence.frames``.
    """
    verdict, name = document["verdict"], escape(document["subject"]["name"])
    confidence = document["confidence"]
    sure = "" if confidence is None else f"<p><strong>{percent(confidence)}</strong> {_sure(document)}</p>"
    score = "" if document["p_fake"] is None else f'<p class="soft">p(fake) {document["p_fake"]}</p>'
    shots = "".join(_figures(frame, pictures) for frame in frames)
    shown = (
        f'<h2>Frames with the highest scores{_whose(document)}</h2><div class="shots">{shots}</div>' if frames else ""
    )
    chart = (
        f'<h2>Scores over time</h2><div class="chart"><div class="wide">{timeline(document)}</div>'
        f'<div class="narrow">{timeline(document, NARROW)}</div></div>'
        f'<p class="soft">{_legend(document)}</p>'
        if document["tracks"]
        else ""
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="robots" content="noindex">
<title>{verdict}: {name}</title>
<style>{_STYLE}</style>
</head>
<body>
<main style="--tone:{_COLOURS[verdict]}">
<h1>{name}</h1>
<p class="soft">{escape(_receipt(document["subject"]))}</p>
<section class="verdict"><span class="label">{verdict}</span>
<div><p>{_SAYING[verdict]}</p>{sure}{score}</div></section>
<ul class="limits">{_items(document["limits"])}</ul>
{_notes(document)}
{chart}
{shown}
{_provenance(document)}
<h2>How it was judged</h2>
<dl>{_facts(document)}</dl>
</main>
</body>
</html>
"""


def _receipt(subject: Mapping[str, Any]) -> str:
    moment = f"{subject['received_at'][:19].replace('T', ' ')} UTC"
    return f"received {moment}, in the folder {subject['folder']}" if subject["folder"] else f"received {moment}"


def _whose(document: Mapping[str, Any]) -> str:
    return " of the face that decided" if document["verdict"] == "FAKE" and _decided_alone(document) else ""


def _decided_alone(document: Mapping[str, Any]) -> bool:
    return document["decided_by_track"] is not None


def _legend(document: Mapping[str, Any]) -> str:
    faces = len(document["tracks"])
    decided = "the first colour is the one that decided" if _decided_alone(document) else "all of them decided together"
    left_out = f" {faces - MOST_TRACKS} faces with lower scores are not drawn." if faces > MOST_TRACKS else ""
    return f"Each line is a face; {decided}. Shaded: at or above the FAKE threshold.{left_out}"


def _sure(document: Mapping[str, Any]) -> str:
    kind = "calibrated" if document["calibrated"] else "the model's own opinion of itself, not calibrated"
    return f"probability of this label ({kind})"


def _notes(document: Mapping[str, Any]) -> str:
    notes = [flag["detail"] for flag in document["quality"]] + list(document["warnings"])
    return f'<h2>Mind</h2><ul class="limits">{_items(notes)}</ul>' if notes else ""


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _figures(frame: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    caption = f"<strong>p(fake) {frame['p_fake']}</strong> at {frame['time_s']:.2f} s, face {frame['track']}"
    parts = [_figure(pictures[frame["file"]], "The frame with the face's box", caption)]
    if frame["heat_map"] is not None:
        parts.append(_figure(pictures[frame["heat_map"]], "What the model was given, and its heat map", _HEAT_CAPTION))
    return "".join(parts)


def _figure(data: bytes, alt: str, caption: str) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return f'<figure><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def _provenance(document: Mapping[str, Any]) -> str:
    told = document["provenance"]
    if told is None:
        return ""
    facts = {
        "Signed by": told["signed_by"],
        "Signed at": told["signed_at"],
        "Made with": told["made_with"],
        "The signer says": "; ".join(" ".join(filter(None, action.values())) for action in told["actions"]),
    }
    return f"<h2>Content credentials</h2><p>{escape(told['note'])}</p><dl>{_pairs(facts)}</dl>"


def _facts(document: Mapping[str, Any]) -> str:
    video, sampling, limits = document["video"], document["sampling"], document["thresholds"]
    model, runtime, subject = document["model"], document["runtime"], document["subject"]
    # FFmpeg names all that one demuxer reads: mov,mp4,m4a,3gp,3g2,mj2.
    container = "/".join(video["container"].split(",")[:2])
    duration = "" if video["duration_s"] is None else f", {video['duration_s']:.1f} s"
    facts = {
        "Input": f"{video['width']}×{video['height']} {video['codec']} in {container}{duration}",
        "Frames looked at": f"{sampling['decoded']} of {sampling['expected_frames']}",
        "Faces followed": str(len(document["tracks"])),
        "Thresholds": f"REAL up to {limits['real']}, FAKE from {limits['fake']} ({limits['source']})",
        "Model": f"{model['id']} {model['version']}, weights {model['weights_sha256'][:16]}…",
        "Known failures": " ".join(model["known_failures"]),
        "Computed on": f"{runtime['device']}, {runtime['precision']}, dfwatch {runtime['dfwatch']}",
        "SHA-256 of the file": subject["sha256"] or "",
        "Job": document["job_id"],
    }
    return _pairs(facts)


def _pairs(facts: Mapping[str, str | None]) -> str:
    return "".join(f"<dt>{label}</dt><dd>{escape(text)}</dd>" for label, text in facts.items() if text)
