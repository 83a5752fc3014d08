#!/usr/bin/env bash
# Installs the programs that some tests run: make test-programs. Debian and Ubuntu; root, or sudo without a password.
#
# Without them those tests are skipped, each with its reason. With DFWATCH_REQUIRE_PROGRAMS=1 they fail instead: what
# .ci/run asks for, so that a test which silently stopped running is found.
set -euo pipefail

packages=(
  chromium chromium-driver       # the web pages, in a real browser
  e2fsprogs mount                # file systems that fill up, are unmounted and mounted again
  mosquitto                      # the MQTT sink's broker
  openssh-client openssh-server  # scp and sftp into the inbox
  postgresql                     # the PostgreSQL sink's server
  prometheus                     # promtool, which reads what /metrics says
  redis-server                   # the Redis sink's server
  rsync                          # rsync into the inbox
  systemd                        # systemd-analyze and systemd-sysusers on the shipped units
  util-linux                     # setpriv, unshare
)

if ! command -v apt-get >/dev/null; then
  echo "test-programs: this needs apt-get (Debian, Ubuntu). Elsewhere, install what provides: ${packages[*]}" >&2
  exit 1
fi

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $state == installed ]] || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  exit 0
fi

as_root=()
if [[ $EUID -ne 0 ]]; then
  if ! sudo -n true 2>/dev/null; then
    echo "test-programs: installing needs root: sudo $0" >&2
    exit 1
  fi
  as_root=(sudo -n)
fi

# The tests start servers of their own, on ports of their own; the packages' servers are not to run.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi

echo "test-programs: installing ${missing[*]}"
options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Acquire::http::Timeout=30)
"${as_root[@]}" apt-get "${options[@]}" update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get "${options[@]}" install --yes --no-install-recommends "${missing[@]}" >/dev/null
