#!/bin/sh
set -e

. /usr/share/debconf/confmodule

# Without a firmware that keeps keys there is nothing to ask.
if [ -d /sys/firmware/efi/efivars ]; then
  db_input high '@NAME@/password' || true
  db_go || true
fi
