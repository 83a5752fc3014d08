"""Built-in facts for bare checkpoints of known families, recognised by the names in the file; no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfwatch.errors import BundleError
from dfwatch.models.facts import (
    Bundle,
    Calibration,
    InputSpec,
    OutputSpec,
    Thresholds,
    file_sha256,
)
from dfwatch.models.names import common_prefix, tensor_names
from dfwatch.reading import CropSpec

if TYPE_CHECKING:
    from pathlib import Path

DF_MODEL_PROFILE = "df_model"
DF_MODEL_ARCHITECTURE = "resnext50_lstm"

# Together these names occur in no other family: the feature layers under `model`, an LSTM, the last layer `linear1`.
_DF_MODEL_NAMES = ("model.0.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "linear1.weight", "linear1.bias")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Nobody measured how often such a model calls a real face FAKE, so the span where it says neither is wide.
UNVERIFIED_THRESHOLDS = Thresholds(
    real=0.25, fake=0.75, false_positive_rate=None, chosen_on="not verified: never measured on held-out videos"
)


def df_model_bundle(path: Path, *, lstm_bias: bool, sha256: str) -> Bundle:
    """What is known of the ``df_model.pt`` family (ResNeXt50-32x4d + LSTM, 112 px, label 0 = FAKE).

    Its public code reads frames with OpenCV and never turns BGR into RGB, so the ImageNet mean and deviation of red
    were applied to blue; the weights were trained that way. It gives ``nn.LSTM`` (sequence first) a batch of one video,
    so each frame is a sequence of length 1. Its face boxes (dlib) are square and tight.
    """
    return Bundle(
        id="df_model",
        version=sha256[:12],
        description="ResNeXt50-32x4d + LSTM of the df_model.pt family, run from its built-in profile",
        architecture=DF_MODEL_ARCHITECTURE,
        architecture_options={"lstm_bias": lstm_bias},
        input=InputSpec(size_px=112, channel_order="bgr", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        crop=CropSpec(size_px=112, margin=0.0, square=True),
        output=OutputSpec(kind="softmax", label_order=("FAKE", "REAL")),
        calibration=Calibration(fitted_on="nothing: the family comes without held-out data"),
        thresholds=UNVERIFIED_THRESHOLDS,
        licence="unknown: the file carries no licence; ask whoever gave it to you",
        known_failures=(
            "The share of real videos called FAKE was never measured by dfwatch.",
            "Its authors state 87.17 % accuracy on their own split; on other data far less is to be expected.",
        ),
        weights_file=path.name,
        weights_sha256=sha256,
        folder=path.parent,
        profile=DF_MODEL_PROFILE,
    )


def bundle_for_checkpoint(path: Path) -> Bundle:
    """The built-in bundle of a bare checkpoint file.

    Raises:
        BundleError: The file is of no known family; the hint says how to write a bundle for it.
        CheckpointError: The file is truncated or no checkpoint at all.
    """
    names = tensor_names(path)
    prefix = common_prefix(names, _DF_MODEL_NAMES)
    if prefix is not None:
        lstm_bias = f"{prefix}lstm.bias_ih_l0" in names
        return df_model_bundle(path, lstm_bias=lstm_bias, sha256=file_sha256(path))
    raise BundleError(
        "loading the model",
        path,
        "a bare checkpoint does not say what its numbers mean (labels, channel order, normalisation, crop), and it is "
        "not of the df_model.pt family, for which dfwatch knows",
        hint="write a bundle for it: dfwatch model import CHECKPOINT --help; docs/models.md explains every key",
    )
