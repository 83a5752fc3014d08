#!/usr/bin/env bash
# The shipped unit with the shipped model under a real systemd, in namespaces of its own: sudo tools/under-systemd.sh
#
#   sudo tools/under-systemd.sh [PYTHON] [VIDEO]     default: .venv/bin/python, and a made clip with a face
#
# This machine's files are the lower layer of an overlay, so that nothing that is done stays. systemd is process 1 of its
# own process namespace and of a control group of its own; it starts the unit as `dfwatch install-units` writes it, with
# every restriction. A video is dropped; the sidecar is printed, what the running process may and may not do, and how the
# unit ends. Needs root, cgroup2 in the kernel, systemd 252 or later, and a virtual environment with dfwatch's
# dependencies. Ends with status 1 if there is no verdict.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath --no-symlinks "${1:-$here/.venv/bin/python}")
video=${2:-}
if [[ $EUID -ne 0 ]]; then
  echo "under-systemd: this needs root" >&2
  exit 2
fi

scratch=$(mktemp -d)
trap 'umount -l "$scratch/cgroup" 2>/dev/null || true; rm -rf "$scratch"' EXIT
mkdir "$scratch"/{cgroup,outcome}
if [[ -z $video ]]; then
  video=$scratch/clip.mp4
  (cd "$here" && PYTHONPATH=$here "$python" - "$video") <<'PY'
import sys
from pathlib import Path
from tests.clips import make_clip
make_clip(Path(sys.argv[1]), seconds=2.0, size=(320, 240))
PY
fi

# What the unit is to run must lie where ProtectHome= does not hide it: the interpreter, the packages, this source.
"$python" - "$here" >"$scratch/paths" <<'PY'
import sys, sysconfig
print(sys.base_prefix, sysconfig.get_path("purelib"), f"python{sys.version_info[0]}.{sys.version_info[1]}")
PY
read -r base packages name <"$scratch/paths"

cat >"$scratch/inside.sh" <<'SH'
set -euo pipefail
scratch=$1 here=$2 base=$3 packages=$4 name=$5 video=$6
mount --make-rprivate /
mkdir "$scratch/layers"
mount -t tmpfs -o size=2g tmpfs "$scratch/layers"
mkdir "$scratch"/layers/{upper,work,root}
root=$scratch/layers/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/layers/upper,workdir=$scratch/layers/work" "$root"
mkdir -p "$root"/opt/{interpreter,packages,source,trial}
mount --bind "$base" "$root/opt/interpreter"
mount --bind "$packages" "$root/opt/packages"
mount --bind "$here" "$root/opt/source"
mount --bind "$scratch/outcome" "$root/opt/trial"
cp "$video" "$root/opt/trial/clip.mp4"
mkdir -p "$root/opt/dfwatch/bin"
cat >"$root/opt/dfwatch/bin/dfwatch" <<PY
#!/opt/interpreter/bin/$name
import sys
sys.path[:0] = ["/opt/source", "/opt/packages"]
from dfwatch.cli import main
sys.exit(main())
PY
chmod 755 "$root/opt/dfwatch/bin/dfwatch"
cat >"$root/opt/trial/trial.sh" <<'TRIAL'
cd /opt/trial
exec >report 2>&1
command=/opt/dfwatch/bin/dfwatch
systemctl --version | head -1
$command install-units --command $command >/dev/null
printf '[Service]\nEnvironment=PYTHONPATH=/opt/source:/opt/packages\n' \
  | install -D -m 644 /dev/stdin /etc/systemd/system/dfwatch.service.d/where-it-lies.conf
systemd-sysusers && systemd-tmpfiles --create /etc/tmpfiles.d/dfwatch.conf
systemctl daemon-reload
systemctl start dfwatch && echo "started: $(systemctl show -P StatusText dfwatch)"
cp clip.mp4 /var/lib/dfwatch/inbox/.clip && mv /var/lib/dfwatch/inbox/.clip /var/lib/dfwatch/inbox/clip.mp4
chown dfwatch: /var/lib/dfwatch/inbox/clip.mp4
for _ in $(seq 120); do
  [[ -e /var/lib/dfwatch/results/clip.mp4.json ]] && break
  sleep 0.5
done
cp /var/lib/dfwatch/results/clip.mp4.json sidecar.json
main=$(systemctl show -P MainPID dfwatch)
grep -E '^(Uid|NoNewPrivs|Seccomp|CapEff)' "/proc/$main/status"
echo "network interfaces: $(sed -n 's/:.*//; 3,$p' "/proc/$main/net/dev" | tr -s ' \n' ' ')"
systemctl stop dfwatch
echo "ended: $(systemctl show -P Result dfwatch), status $(systemctl show -P ExecMainStatus dfwatch)"
journalctl --no-pager -o cat -u dfwatch | tail -20
TRIAL
cat >"$root/etc/systemd/system/trial.service" <<'UNIT'
[Unit]
DefaultDependencies=no
After=basic.target
Requires=basic.target
[Service]
Type=oneshot
ExecStart=-/bin/bash /opt/trial/trial.sh
ExecStopPost=/bin/systemctl poweroff --force
UNIT
for kind in proc sysfs; do mount -t $kind $kind "$root/${kind%fs}"; done
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
exec chroot "$root" /usr/bin/env -i container=dfwatch-trial PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=trial.service --log-target=null --show-status=no
SH

mount -t cgroup2 cgroup2 "$scratch/cgroup"
group=$scratch/cgroup/dfwatch-trial-$$
mkdir "$group"
# shellcheck disable=SC2016
timeout --signal=KILL 240 bash -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' - "$group" \
  unshare --mount --pid --fork --kill-child --uts --ipc --cgroup \
  bash "$scratch/inside.sh" "$scratch" "$here" "$base" "$packages" "$name" "$video" || true
find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true

cat "$scratch/outcome/report" || true
"$python" - "$scratch/outcome/sidecar.json" <<'PY'
import json, sys
document = json.load(open(sys.argv[1]))
print({key: document[key] for key in ("status", "verdict", "p_fake", "warnings")})
print({**document["runtime"], "host": "…"})
print(document["timings_ms"])
sys.exit(document["status"] != "done")
PY
