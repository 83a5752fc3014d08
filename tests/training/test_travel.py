from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dfwatch.training.packs import Pack
from dfwatch.training.weights_files import read_best
from tools import travel


def test_a_room_travels_in_small_files_and_is_whole_again(data_root: str, tmp_path: Path) -> None:
    exclude, recipe, room = tmp_path / "list.txt", tmp_path / "recipe.yaml", tmp_path / "room"
    exclude.write_text("a.mp4\n")
    recipe.write_text("id: x\narchitecture: {name: efficientnet_lite0}\nstages: [{size_px: 32, steps: 1}]\n")
    files = travel.pack(tmp_path / "travel", [Path(data_root) / "made"], exclude, recipe, 1_000_000)
    assert len(files) > 2
    assert all(path.stat().st_size <= 1_000_000 for path in files)
    room.mkdir()
    stream = b"".join(path.read_bytes() for path in sorted((tmp_path / "travel").glob("room-*")))
    subprocess.run(["tar", "xz", "-C", str(room)], input=stream, check=True, timeout=60)
    there, here = Pack(str(room / "packs" / "made")), Pack(f"{data_root}/made")
    assert there.records == here.records
    assert [there.encoded(item) for item in there.records] == [here.encoded(item) for item in here.records]
    assert (room / "packs" / "exclude.txt").read_text() == "a.mp4\n"
    assert read_best(str(room / "first")) is not None


def test_an_old_room_is_not_mixed_in(data_root: str, tmp_path: Path) -> None:
    (tmp_path / "room-000").write_bytes(b"old")
    with pytest.raises(SystemExit, match="holds a room already"):
        travel.main([str(tmp_path), str(Path(data_root) / "made")])


def test_the_gpu_script_is_sound(tmp_path: Path) -> None:
    """Teacher before student, each in pieces, with a `dfwatch` that only says what it was asked to do."""
    script = Path(__file__).parents[2] / "tools" / "train_on_gpu.sh"
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$@" >> "$LOG"\n'
        'while [ $# -gt 0 ]; do case $1 in --parts) mkdir -p "$2"; echo w > "$2/best";; esac; shift; done\n'
        '[ "$(wc -l < "$LOG")" -ne 1 ] || exit 3\n'
    )
    python.chmod(0o755)
    log = tmp_path / "log"
    room, outs = tmp_path / "room", [tmp_path / f"out{number}" for number in range(2)]
    # A kill came while an earlier call put aside what is to be carried.
    (room / "runs" / "teacher" / "carried.part").mkdir(parents=True)
    tools = {"PYTHON": str(python), "LOG": str(log), "PATH": "/usr/bin:/bin"}
    statuses = [
        subprocess.run(["sh", str(script), str(room), str(out), "9"], env=tools, timeout=60, check=False).returncode
        for out in outs
    ]
    assert statuses == [3, 0]
    asked = log.read_text().splitlines()
    assert ["efficientnet_lite2" in line for line in asked] == [True, True, False]
    assert f"--teacher {room}/runs/teacher/bundle" in asked[2]
    assert all(0 < float(line.split("--max-minutes ")[1].split()[0]) <= 9 for line in asked)
    shutil.rmtree(outs[1])
    # Done before: nothing runs any more, and everything is carried away again.
    subprocess.run(["sh", str(script), str(room), str(outs[1]), "9"], env=tools, timeout=60, check=True)
    assert len(log.read_text().splitlines()) == 3
    assert (outs[1] / "teacher" / "best").exists()
    assert (outs[1] / "student" / "best").exists()
