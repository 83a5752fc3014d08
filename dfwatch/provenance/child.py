"""The child that reads one file's content credentials: ``python -m dfwatch.provenance.child``, file on standard input.

The C2PA library parses untrusted bytes, so it does so here: limited, confined like the reader's child, with no network
(it would fetch remote manifests otherwise), and with one line of JSON as its only voice. Exit statuses other than 0
mean that nothing can be said.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from dfwatch.decode import confinement

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT: Final = 300
MAX_ITEMS: Final = 50
# Ways to make pictures and sound that the IPTC calls algorithmic; see cv.iptc.org/newscodes/digitalsourcetype.
_GENERATED: Final = frozenset({"trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia", "algorithmicMedia"})


def main(arguments: list[str]) -> int:
    """Read standard input's credentials and print them; returns the exit status.

    Args:
        arguments: The file's type (an ending such as ``mp4``), memory in bytes, processor time in seconds, and the
            descriptor of trusted root certificates in PEM.
    """
    import c2pa  # noqa: PLC0415 - an extra, checked for by the parent

    kind, memory_bytes, cpu_s, anchors_fd = arguments
    confinement.tie_to_parent()
    confinement.limit_resources(int(memory_bytes))
    confinement.limit_cpu_time(float(cpu_s))
    wanted: dict[str, Any] = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
    if anchors := _all_of(int(anchors_fd)):
        wanted["trust"] = {"trust_anchors": anchors.decode("ascii")}
    context = c2pa.Context(c2pa.Settings.from_dict(wanted))
    confinement.confine()
    reader = c2pa.Reader.try_create(kind, sys.stdin.buffer, context=context)
    answer: dict[str, Any] = {"found": False}
    if reader is not None:
        answer = summary(json.loads(reader.json()), reader.get_validation_state())
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    return 0


def summary(store: dict[str, Any], state: object) -> dict[str, Any]:
    """What is worth telling of a manifest store, as the C2PA library gives it in JSON; every text is cut short."""
    manifest = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = manifest.get("signature_info") or {}
    generators = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    actions = list(_actions(manifest))[:MAX_ITEMS]
    return {
        "found": True,
        "state": _text(state),
        "signed_by": _text(signature.get("issuer")),
        "signed_at": _text(signature.get("time")),
        "made_with": _text(" ".join(str(generators[0][key]) for key in ("name", "version") if generators[0].get(key))),
        "title": _text(manifest.get("title")),
        "actions": actions,
        "says_generated": any(action["source_type"] in _GENERATED for action in actions),
        "problems": [_text(problem.get("code")) for problem in (store.get("validation_status") or [])][:MAX_ITEMS],
    }


def _actions(manifest: dict[str, Any]) -> Iterator[dict[str, str | None]]:
    for assertion in manifest.get("assertions") or []:
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            for action in assertion.get("data", {}).get("actions") or []:
                source = action.get("digitalSourceType")
                source = None if source is None else str(source).rstrip("/").rsplit("/", 1)[-1]
                yield {"action": _text(action.get("action")), "source_type": _text(source)}


def _text(value: object) -> str | None:
    return None if value is None else harmless(str(value)[:MAX_TEXT])


def harmless(text: str) -> str:
    """The text with U+FFFD for control characters and lone surrogates: databases refuse them, terminals obey them."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(it) in {"Cc", "Cs"} else it for it in text)


def _all_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
