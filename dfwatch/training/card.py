"""The model card: the facts of ``bundle.yaml`` once more, as text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dfwatch.training.summary import CAVEAT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dfwatch.models.bundle import Bundle, TrainingRecord

_SHOWN = (
    "AUC",
    "average precision",
    "EER",
    "TPR at 1 % FPR",
    "balanced accuracy",
    "coverage",
    "accuracy of the decided",
    "reals called FAKE",
    "fakes called FAKE",
    "fakes called REAL",
    "Brier score",
    "ECE",
    "ECE if calibrated",
)


def render(bundle: Bundle) -> str:
    """Return the card as Markdown."""
    crop, thresholds, calibration = bundle.crop, bundle.thresholds, bundle.calibration
    rate = thresholds.false_positive_rate
    alarms = "" if rate is None else f"; {rate:.2%} of its real groups have a video called FAKE"
    parts = [
        f"# {bundle.id} {bundle.version}",
        "",
        bundle.description,
        "",
        "A score is an estimate, not proof. Do not use it as the only reason for a decision about a person.",
        "",
        "## What it is",
        "",
        f"- Architecture: {bundle.architecture}, {bundle.input.size_px} px.",
        (
            f"- Crop: YuNet's face box, made square, margin {crop.margin:+.2f} of its longer side on each side, "
            f"centre moved down by {crop.shift_y:.3f} of it."
        ),
        (
            f"- Calibration: {calibration.method} {_values(calibration.parameters)}, fitted on "
            f"{calibration.fitted_on}. It assumes that half of what it sees is fake."
        ),
        (
            f"- Thresholds: REAL at or below {thresholds.real:.4f}, FAKE at or above {thresholds.fake:.4f}, between "
            f"them INCONCLUSIVE. Chosen on {thresholds.chosen_on}{alarms}."
        ),
        f"- Licence: {bundle.licence}",
        "",
        "## Data",
        "",
        *(f"- {line}" for line in bundle.training.data),
        "",
        _groups(bundle.training),
        (
            "Who the people in the data are is not known: no figure is broken down by age, sex or skin colour, and "
            "none of them promises the same accuracy for everybody."
        ),
        "",
        "## Measured",
        "",
        "95 % intervals in brackets, by a bootstrap over groups.",
        "",
    ]
    parts += [CAVEAT, ""]
    trained = bundle.metrics.get("training")
    if isinstance(trained, dict):
        parts += [
            (
                f"The weights are those of step {trained.get('weights_of_step')} of the recipe's "
                f"{trained.get('steps_of_recipe')} (averaged), chosen by their AUC on the select part, "
                f"{trained.get('select_auc')}."
            ),
            "",
        ]
    for name, measured in bundle.metrics.items():
        if isinstance(measured, dict) and "all" in measured:
            parts += _measured(name, measured)
    parts += ["## Known failures", "", *(f"- {line}" for line in bundle.known_failures), ""]
    parts += ["## How to make it again", "", "```", *bundle.training.recipe.splitlines(), "```", ""]
    return "\n".join(parts)


def _groups(training: TrainingRecord) -> str:
    if not (training.groups or training.groups_file):
        return (
            "Which videos it was trained on is not known: `dfwatch evaluate` cannot refuse to report on them, and "
            "figures may flatter it."
        )
    return (
        "Groups (source videos or people, as the data set has them) never cross the split; the hashes of those trained "
        f"on are in `{training.groups_file or 'bundle.yaml'}`, and `dfwatch evaluate` refuses to report on them. It "
        "knows them by their names: videos that were renamed, or lie in another layout, pass."
    )


def _measured(name: str, measured: Mapping[str, Any]) -> list[str]:
    total = measured.get("all", {})
    parts = [
        f"### {name}",
        "",
        (
            f"{measured.get('data', '')}: {total.get('reals')} real, {total.get('fakes')} fake, "
            f"{total.get('groups')} groups, {total.get('without_face')} without a face{_unreadable(total)}."
        ),
        "",
    ]
    if measured.get("warning"):
        parts += [f"**{measured['warning']}**", ""]
    parts += ["| figure | value |", "| --- | --- |"]
    parts += [f"| {key} | {_figure(total[key])} |" for key in _SHOWN if total.get(key)]
    parts.append("")
    for title in ("sources", "manipulations", "robustness"):
        rows = measured.get(title)
        if rows:
            parts += [f"| {title} | reals | fakes | AUC | reals called FAKE | fakes called FAKE |", "|" + " --- |" * 6]
            parts += [
                f"| {row} | {values['reals']} | {values['fakes']} | "
                + " | ".join(_figure(values.get(key)) for key in ("AUC", "reals called FAKE", "fakes called FAKE"))
                + " |"
                for row, values in rows.items()
            ]
            parts.append("")
    return parts


def _unreadable(total: Mapping[str, Any]) -> str:
    return f", {total['unreadable']} that could not be read" if total.get("unreadable") else ""


def _figure(numbers: Any) -> str:  # noqa: ANN401 - from YAML
    if not numbers:
        return "–"
    value, *limits = numbers
    return f"{value:.3f}" + (f" [{limits[0]:.3f}, {limits[1]:.3f}]" if len(limits) == 2 else "")


def _values(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in parameters.items())
