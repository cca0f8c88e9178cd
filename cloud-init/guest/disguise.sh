#!/bin/bash
# Gives the guest another date and host name, for a build whose result must not show them. Run as root, `bash -s`.
# Variables: AHEAD (seconds that the clock is put forward), HOST (the new name). Exit codes: 0 done · else it could not
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# All that is due until then would start at once.
systemctl stop --quiet '*.timer'
date --set="@$(($(date +%s) + AHEAD))" >/dev/null
hostname "$HOST"
