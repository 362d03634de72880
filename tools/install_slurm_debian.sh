#!/usr/bin/env bash
# Installs what local_cluster.py runs on Debian and Ubuntu: Slurm's daemons and commands, munge, ip. Starts no service.
set -euo pipefail

# The packages would start their services, which are configured for nobody; local_cluster.py starts its own.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends slurm-wlm munge iproute2
