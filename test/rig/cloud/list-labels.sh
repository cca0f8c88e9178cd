#!/bin/sh
# Runs outside the new root ($1), as its root, when it is complete: lists the labels that fill-disk.sh will write.
set -eu
case $RIG_FORM in stream | fedora) ;; *) exit 0 ;; esac
install -m 755 "$RIG_WORK/label.py" "$1/usr/local/sbin/label"
chroot "$1" /usr/local/sbin/label list /usr/local/share/labels
