"""The models that are measured: the one that ships, and the older project's architecture with made weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfwatch import resources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SHIPPED = "shipped"
OLDER = "resnext50_lstm"


def models(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Paths by name. ``resnext50_lstm`` is made in ``folder``, with random weights: time does not depend on them."""
    found: dict[str, Path] = {}
    for name in names:
        if name == SHIPPED:
            found[name] = resources.default_bundle()
        elif name == OLDER:
            found[name] = _random_df_model(folder / "df_model_random.pt")
        else:
            raise ValueError(f"no such model: {name}; there are {SHIPPED} and {OLDER}")
    return found


def _random_df_model(path: Path) -> Path:
    if not path.exists():
        import torch  # noqa: PLC0415 - heavy

        from dfwatch.models.architectures import build  # noqa: PLC0415

        torch.manual_seed(5)
        unfinished = path.with_suffix(".unfinished")
        torch.save(build("resnext50_lstm").state_dict(), unfinished)
        unfinished.rename(path)
    return path
