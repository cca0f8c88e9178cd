#!/bin/sh
# Runs in the new root before the packages are installed: puts the configuration that their scripts read in place.
set -eu
cp -R --no-preserve=mode,ownership /tmp/bootstrap/files/. /
