from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfwatch.config import FaceSettings, VerdictSettings
from dfwatch.document import Refusal, Run, Subject, build, encode, schema, written_score
from dfwatch.models.bundle import Bundle, Calibration, Thresholds
from dfwatch.reading import QualityFlag, Reading
from dfwatch.reasons import Label, Reason, Status
from dfwatch.storage.layout import DroppedName
from dfwatch.verdict import Decision, Limits, decide
from tests.factories import bundle, reading

GOLDEN = Path(__file__).parent / "golden"
RUNTIME = {
    "dfwatch": "0.1.0",
    "torch": "2.9.0",
    "engine": "torch 2.9.0, channels_last",
    "device": "cpu",
    "device_name": "Some Processor",
    "device_reason": "there is no accelerator",
    "precision": "bfloat16",
    "precision_max_difference": 0.004,
    "batch_size": 8,
    "threads": 2,
    "host": "newsroom",
}
UNMEASURED = {"false_positive_rate": None, "chosen_on": "made up"}
SUBJECT = Subject(
    DroppedName("desk/tuesday", "clip.mp4"), 123456, "ab" * 32, "2026-11-21T22:33:44.555Z", ("quiet 3.0 s", "lease")
)


def decision_on(read: Reading, scores: list[float], model: Bundle) -> Decision:
    return decide(
        read,
        np.array(scores, dtype=np.float32),
        calibration=model.calibration,
        limits=Limits(model.thresholds.real, model.thresholds.fake),
        settings=VerdictSettings(),
        faces=FaceSettings(),
    )


def run(model: Bundle, attempt: int = 1) -> Run:
    return Run("20261121T223344.555000Z-0badcafe", attempt, model, RUNTIME, {"hash": 0.25, "inference": 12.04})


def fake() -> dict[str, Any]:
    model, read = bundle(), reading([range(4), [1, 2]], frames=4)
    return build(
        Status.DONE, SUBJECT, run(model), reading=read, decision=decision_on(read, [0.97] * 4 + [0.1] * 2, model)
    )


def real() -> dict[str, Any]:
    model, read = bundle(), reading([range(8), [2]], frames=8)
    return build(Status.DONE, SUBJECT, run(model), reading=read, decision=decision_on(read, [0.02] * 8 + [0.99], model))


def inconclusive() -> dict[str, Any]:
    model = bundle(calibration=bundle().calibration.__class__(method="none", parameters={}, fitted_on=""))
    read = reading([range(4)], frames=4, decoded=4)
    read = Reading(
        read.video,
        read.sampling,
        read.tracks,
        read.crops,
        read.decoder,
        quality=(QualityFlag("small_faces", "faces are 20 px wide"),),
        warnings=("a packet could not be decoded",),
    )
    return build(Status.DONE, SUBJECT, run(model), reading=read, decision=decision_on(read, [0.5] * 4, model))


def no_face() -> dict[str, Any]:
    model, read = bundle(), reading([], frames=4)
    return build(Status.DONE, SUBJECT, run(model), reading=read, decision=decision_on(read, [], model))


def rejected() -> dict[str, Any]:
    refusal = Refusal(Reason.UNSUPPORTED_TYPE, "the ending .exe is not one that is judged", "see watch.extensions")
    subject = Subject(DroppedName("", os_name(b"caf\xe9.exe")), 10, None, SUBJECT.received_at)
    return build(Status.REJECTED, subject, run(bundle(), attempt=1), refusal=refusal)


def failed() -> dict[str, Any]:
    refusal = Refusal(Reason.TRUNCATED, "a quarter of its playing time is there", "send it again")
    return build(Status.FAILED, SUBJECT, run(bundle()), refusal=refusal)


def quarantined() -> dict[str, Any]:
    refusal = Refusal(Reason.READER_CRASHED, "the decoder died of signal 11")
    return build(Status.QUARANTINED, SUBJECT, run(bundle(), attempt=3), refusal=refusal)


def os_name(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


KINDS = [fake, real, inconclusive, no_face, failed, rejected, quarantined]


def test_every_status_and_verdict_has_a_golden_file() -> None:
    documents = [json.loads((GOLDEN / f"{make.__name__}.json").read_text(encoding="utf-8")) for make in KINDS]
    assert {document["status"] for document in documents} == set(Status)
    assert {document["verdict"] for document in documents} == {None, *Label}
    assert {path.stem for path in GOLDEN.glob("*.json")} == {make.__name__ for make in KINDS}


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_documents_are_as_published_and_obey_the_schema(make: Any, request: pytest.FixtureRequest) -> None:
    document = json.loads(encode(make()))
    validator = jsonschema.Draft202012Validator(schema(), format_checker=jsonschema.FormatChecker())
    validator.validate(document)
    golden = GOLDEN / f"{make.__name__}.json"
    if request.config.getoption("--update-golden"):
        golden.write_bytes(encode(document))
    assert encode(document).decode() == golden.read_text(encoding="utf-8")


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"verdict": None}, "done without a verdict"),
        ({"status": "failed"}, "failed with a verdict"),
        ({"verdict": "NO_FACE"}, "no face, but a probability"),
        ({"p_fake": 1.5}, "a probability above one"),
        ({"confidence": None}, "a claim without a confidence"),
        ({"verdict": "INCONCLUSIVE"}, "no claim, but a confidence"),
        ({"thresholds": None}, "a verdict without thresholds"),
        ({"calibrated": None}, "a verdict that does not say what its probability is"),
        ({"limits": []}, "a verdict without its limits"),
        ({"reason": "because"}, "an unknown reason"),
        ({"schema_version": "2.0"}, "another major version"),
    ],
)
def test_the_schema_refuses_contradictions(change: dict[str, Any], why: str) -> None:
    document = {**json.loads(encode(fake())), **change}
    assert not jsonschema.Draft202012Validator(schema()).is_valid(document), why


@pytest.mark.parametrize("key", ["p_fake_raw", "thresholds", "aggregation", "calibrated", "segments", "confidence"])
def test_the_schema_refuses_parts_of_a_verdict_where_there_is_none(key: str) -> None:
    document = {**json.loads(encode(failed())), key: json.loads(encode(fake()))[key]}
    assert document[key] not in (None, [])
    assert not jsonschema.Draft202012Validator(schema()).is_valid(document)


def test_every_reason_and_label_is_in_the_schema() -> None:
    properties = schema()["properties"]
    assert set(properties["reason"]["enum"]) == {None, *Reason}
    assert set(properties["verdict"]["enum"]) == {None, *Label}
    assert set(properties["status"]["enum"]) == set(Status)


def test_a_document_is_one_line_when_asked() -> None:
    text = encode(rejected(), indent=None).decode()
    assert text.endswith("\n")
    assert text.count("\n") == 1


def test_names_that_are_not_utf8_survive() -> None:
    import base64

    subject = json.loads(encode(rejected()))["subject"]
    assert subject["name"] == "caf�.exe"
    assert base64.b64decode(subject["name_bytes_b64"]) == b"caf\xe9.exe"


def test_total_is_the_sum_of_the_stages() -> None:
    timings = fake()["timings_ms"]
    total = timings.pop("total")
    assert total == pytest.approx(sum(timings.values()), abs=0.3)
    assert set(timings) == {"probe", "decode", "faces", "hash", "inference"}


def test_thresholds_say_where_they_come_from() -> None:
    model, read = bundle(), reading([range(4)], frames=4)
    own = fake()["thresholds"]
    assert (own["source"], own["false_positive_rate"]) == ("bundle", 0.01)
    moved = decide(
        read,
        np.full(4, 0.9, dtype=np.float32),
        calibration=model.calibration,
        limits=Limits(0.3, 0.9),
        settings=VerdictSettings(),
        faces=FaceSettings(),
    )
    configured = build(Status.DONE, SUBJECT, run(model), reading=read, decision=moved)["thresholds"]
    assert (configured["source"], configured["false_positive_rate"]) == ("configuration", None)


@given(
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    near=st.lists(
        st.tuples(st.sampled_from([0, 1]), st.floats(-2e-4, 2e-4) | st.floats(-1e-12, 1e-12) | st.floats(-1, 1)),
        min_size=1,
        max_size=8,
    ),
    frames=st.integers(1, 8),
)
def test_who_decides_anew_from_the_document_comes_to_the_same_verdict(
    thresholds: list[float], near: list[tuple[int, float]], frames: int
) -> None:
    limits = Limits(*thresholds)
    places = [min(max(thresholds[which] + offset, 0.0), 1.0) for which, offset in near]
    scores = (places * frames)[:frames]
    read = reading([range(frames)], frames=frames)
    model = bundle(calibration=Calibration(), thresholds=Thresholds(real=limits.real, fake=limits.fake, **UNMEASURED))
    # float64, as calibrated scores are.
    decision = decide(
        read,
        np.array(scores),
        calibration=model.calibration,
        limits=limits,
        settings=VerdictSettings(),
        faces=FaceSettings(),
    )
    document = json.loads(encode(build(Status.DONE, SUBJECT, run(model), reading=read, decision=decision)))
    stated = Limits(document["thresholds"]["real"], document["thresholds"]["fake"])
    [track] = document["tracks"]
    assert document["p_fake"] == track["p_fake"] == document["p_fake_raw"]
    assert stated.sides(document["p_fake"]) == limits.sides(decision.p_fake)
    assert document["p_fake"] == pytest.approx(decision.p_fake, abs=5.1e-5)
    for frame, score in zip(track["frames"], scores, strict=True):
        assert stated.sides(frame["p_fake"]) == limits.sides(score)
    assert all(segment["p_fake"] >= stated.fake for segment in document["segments"])
    if document["confidence"] is not None:
        expected = document["p_fake"] if document["verdict"] == "FAKE" else 1 - document["p_fake"]
        assert document["confidence"] == pytest.approx(expected, abs=1e-12)


def test_a_score_has_no_more_digits_than_it_needs() -> None:
    limits = Limits(real=0.2076, fake=0.9498)
    for p_fake, written in (
        (0.5123456, 0.5123),
        (0.97, 0.97),
        (0.949773, 0.94977),
        (0.9497999, 0.9497999),
        (0.9498, 0.9498),
        (0.20764, 0.20764),
        (0.207601, 0.207601),
        (0.20759, 0.2076),
        (1e-9, 0.0),
    ):
        assert written_score(p_fake, limits) == written
