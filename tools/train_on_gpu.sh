#!/bin/sh
# The teacher, then the ResNeXt50, on one GPU, in pieces: give the same command until it exits with 0 (3: not done yet).
#
#   sh tools/train_on_gpu.sh ROOM OUT MINUTES
#
# ROOM is what tools/travel.py packed; the runs stay in ROOM/runs. OUT gets what is to be carried away, at each new best:
# weights in files under 16 MiB, and logs; 56 MB in seven files in the end. Everything ends within MINUTES.
set -eu
room=$1 out=$2 minutes=$3
python=${PYTHON:-python3} device=${DEVICE:-cuda}
teacher_recipe=${TEACHER_RECIPE:-recipes/efficientnet_lite2.yaml}
student_recipe=${STUDENT_RECIPE:-recipes/resnext50_32x4d.yaml}
began=$(date +%s)

left() {
    # Never 0, which would mean without end.
    awk "BEGIN { left = $minutes - ($(date +%s) - $began) / 60; print (left > 0.01 ? left : 0.01) }"
}

# piece NAME RECIPE WORDS...: train until it is done or the time is up.
piece() {
    name=$1 recipe=$2
    shift 2
    run=$room/runs/$name
    mkdir -p "$run" "$out/$name"
    if [ -e "$run/carried" ]; then
        cp "$run/carried"/* "$out/$name/"
        return 0
    fi
    "$python" -m dfwatch train "$recipe" --data "$room/packs" --exclude "$room/packs/exclude.txt" --run "$run" \
        --parts "$out/$name" --bundle "$run/bundle" --device "$device" --workers 0 --max-minutes "$(left)" "$@"
    rm -rf "$run/carried.part"  # of a call that was killed here
    cp -r "$out/$name" "$run/carried.part"
    mv "$run/carried.part" "$run/carried"
}

piece teacher "$teacher_recipe" --initial "$room/first"
piece student "$student_recipe" --teacher "$room/runs/teacher/bundle"
echo "done: $out/teacher and $out/student"
