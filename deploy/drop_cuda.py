"""Removes from an environment what PyPI's torch brings for CUDA and a CPU never loads. Run by the Dockerfile.

    python drop_cuda.py

It computes on the CPU what dfwatch computes and looks which files the process has mapped by then. All other files of
NVIDIA's packages are removed, and the packages that torch imports only where they are installed; then the same is
computed once more in a fresh process. What torch is linked against has to stay, used or not. The packages' metadata
stays too, so that pip does not bring them back.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

_LINKED = "nvidia"
_IMPORTED = ("triton", "cuda")
_EXERCISE = "--exercise"


def exercise() -> None:
    """Convolutions, products and an LSTM forwards and backwards, in the precisions and layouts that a CPU is given."""
    import torch
    import torchvision

    assert torchvision.__version__
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.LazyLinear(4)
    ).eval()
    pixels = torch.rand(2, 3, 32, 32)
    network(pixels).sum().backward()
    with torch.inference_mode():
        network(pixels.to(memory_format=torch.channels_last))
        network.bfloat16()(pixels.bfloat16())
        torch.nn.LSTM(8, 8)(torch.rand(3, 2, 8))
    assert not torch.cuda.is_available()


def mapped() -> set[str]:
    """Paths of the files that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as lines:
        return {os.path.realpath(line.split(maxsplit=5)[5].strip()) for line in lines if "/" in line}


def size_bytes(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> None:
    """Remove, and prove that nothing is missed."""
    if _EXERCISE in sys.argv:
        exercise()
        return
    site = Path(sysconfig.get_path("purelib"))
    before = size_bytes(site)
    exercise()
    needed = mapped()
    for path in list((site / _LINKED).rglob("*")):
        if not path.is_dir() and os.path.realpath(path) not in needed:
            path.unlink()
    for name in _IMPORTED:
        shutil.rmtree(site / name, ignore_errors=True)
    subprocess.run([sys.executable, __file__, _EXERCISE], check=True)
    print(f"site-packages: {before / 1e6:.0f} MB before, {size_bytes(site) / 1e6:.0f} MB now")


if __name__ == "__main__":
    main()
