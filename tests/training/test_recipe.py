from __future__ import annotations

from pathlib import Path

import pytest

from dfwatch.errors import TrainingError
from dfwatch.models import architectures
from dfwatch.training.optim import learning_rate
from dfwatch.training.recipe import load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALL = """
id: small
architecture: {name: efficientnet_lite0}
stages:
  - {size_px: 32, steps: 60}
  - {size_px: 48, steps: 40}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_names_a_known_architecture(path: Path) -> None:
    recipe = load_recipe(str(path))
    name = recipe.architecture.name
    assert name in architectures.BUILDERS or name.startswith(architectures.TIMM_PREFIX)
    assert recipe.total_steps > 0
    assert all(stage.batch.labelled % 2 == 0 and stage.batch.blended % 2 == 0 for stage in recipe.stages)


def test_the_models_of_the_service_have_recipes() -> None:
    named = {load_recipe(str(path)).architecture.name for path in RECIPES}
    assert named >= {
        "resnext50_32x4d",
        "nasnetalarge",
        "efficientnet_lite0",
        "efficientnet_lite2",
    }


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALL))
    assert recipe.total_steps == 100
    assert [recipe.stage_at(step).size_px for step in (0, 59, 60, 99, 100)] == [32, 32, 48, 48, 48]
    assert recipe.stages[0].batch.size == 32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("id: small", "idd: small"), "idd is not a known key; did you mean id?"),
        (("size_px: 32", "size_px: big"), r"stages\[0\].size_px must be int, not 'big'"),
        (("steps: 60", "step: 60"), r"stages\[0\].step is not a known key; did you mean steps?"),
        (("id: small", "id: small\nprecision: float8"), "precision must be one of float32, bfloat16"),
        (("id: small", "id: small\noptim: {lr: true}"), "optim.lr must be float"),
        (("architecture: {name: efficientnet_lite0}", "architecture: {}"), "architecture.name is missing"),
        (("id: small", "id: small\noptim: {lr: 6e-4}"), "YAML takes 6e-4 for text; write a dot and a sign"),
        (("id: small", "id: small\noptim: {lr: .nan}"), "optim.lr must be a finite number"),
        (("id: small", "id: small\nmeasure_every: 0"), "measure_every must be 1 or more"),
        (("id: small", "id: small\nmeasure_crops: 0"), "measure_crops must be 1 or more"),
        (("id: small", "id: small\nseed: -1"), "seed must be 0 or more"),
        (("id: small", "id: small\nlabel_smoothing: 5"), "label_smoothing must be 0 to 1"),
        (("id: small", "id: small\nnorm: {std: [0, 1, 1]}"), "norm.std must be above 0"),
        (("id: small", "id: small\ndata: {split: {select: 0.5, test: 0.5}}"), "data.split.* below 1 together"),
        (("steps: 60", "steps: -60"), r"stages\[0\].size_px and .steps must be 1 or more"),
        (("steps: 60", "steps: 60, batch: {labelled: 0, blended: 0}"), r"stages\[0\].batch must hold something"),
        (("steps: 60", "steps: 60, batch: {labelled: 25}"), r"stages\[0\].batch.labelled and .blended must be even"),
        (("id: small", "id: small\nteacher: {bundle: x, temperature: 0}"), "teacher.temperature must be above 0"),
        (("id: small", "id: sm\udce9ll"), "not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_recipe(write(tmp_path, SMALL.replace(*change)))


def test_the_rate_rises_then_falls_to_its_final_share(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, SMALL))
    rates = [learning_rate(recipe, step) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == pytest.approx(9, abs=1)
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(recipe.optim.final_share * recipe.optim.lr, rel=0.2)


def test_the_digest_follows_every_setting(tmp_path: Path) -> None:
    one = load_recipe(write(tmp_path, SMALL)).digest()
    assert load_recipe(write(tmp_path, SMALL)).digest() == one
    assert load_recipe(write(tmp_path, SMALL + "seed: 2\n")).digest() != one
    assert load_recipe(write(tmp_path, SMALL + "augment: {jpeg_share: 0.5}\n")).digest() != one


@pytest.mark.parametrize(
    ("bundle", "recipe"),
    [
        ("efficientnet_lite0_dfdc", "efficientnet_lite0.yaml"),
        ("efficientnet_lite2_dfdc", "efficientnet_lite2_cpu.yaml"),
        ("resnext50_32x4d_dfdc", "resnext50_32x4d_cpu_large.yaml"),
    ],
)
def test_the_digest_of_the_shipped_weights_recipe_stays(bundle: str, recipe: str) -> None:
    # It is written in the shipped bundle: whoever changes what it hashes breaks the trace from weights to recipe.
    from dfwatch.models.bundle import load_bundle

    root = RECIPES[0].parents[1]
    trained = load_bundle(root / "model" / bundle).metrics["training"]
    assert trained["recipe_digest"] == load_recipe(str(root / "recipes" / recipe)).digest()


def test_the_digest_does_not_follow_the_teachers_path(tmp_path: Path) -> None:
    digests = {
        load_recipe(write(tmp_path, SMALL + f"teacher: {{bundle: {bundle}, weight: {weight}}}\n")).digest()
        for bundle, weight in (("here", 0.5), ("there", 0.5), ("here", 0.7))
    }
    assert len(digests) == 2


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_says_what_it_is_for_and_whether_it_was_run(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines[:6] if line.startswith("# ")]
    assert any(line.startswith("# For: ") for line in head)
    assert any(line.startswith("# Run: ") for line in head)


def test_settings_that_came_later_leave_older_digests_alone(tmp_path: Path) -> None:
    one = load_recipe(write(tmp_path, SMALL)).digest()
    assert load_recipe(write(tmp_path, SMALL + "augment: {h264_share: 0.0}\n")).digest() == one
    assert load_recipe(write(tmp_path, SMALL + "augment: {h264_share: 0.1}\n")).digest() != one
    assert load_recipe(write(tmp_path, SMALL + "about: {version: '3'}\n")).digest() == one
    teacher = "teacher: {bundle: here, weight: 0.5"
    taught = load_recipe(write(tmp_path, SMALL + teacher + "}\n")).digest()
    assert load_recipe(write(tmp_path, SMALL + teacher + ", once: false}\n")).digest() == taught
    assert load_recipe(write(tmp_path, SMALL + teacher + ", once: true}\n")).digest() != taught
    assert load_recipe(write(tmp_path, SMALL + teacher + ", others: []}\n")).digest() == taught
    more = {load_recipe(write(tmp_path, SMALL + teacher + f", others: [{name}]}}\n")).digest() for name in "ab"}
    assert len(more) == 1
    assert taught not in more


@pytest.mark.parametrize(
    ("more", "lacks"),
    [
        ("teacher: {bundle: here, features: 1.0}\n", "teacher.once: true"),
        ("teacher: {bundle: here, once: true}\nbatches: device\n", "batches: workers"),
    ],
)
def test_a_teacher_that_cannot_be_asked_that_way_is_refused(tmp_path: Path, more: str, lacks: str) -> None:
    with pytest.raises(TrainingError, match=lacks):
        load_recipe(write(tmp_path, SMALL + more))
