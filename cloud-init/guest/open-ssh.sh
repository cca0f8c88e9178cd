#!/bin/bash
# Lets the host log in over ssh: this VM's own host key and the run's user key. Run as root.
# Variables: USER_KEY (public), HOST_KEY (private, of this VM alone), GUEST_USER. Exit codes: 0 sshd runs · 1 it does not
set -u
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
rm -f /etc/ssh/ssh_host_*
printf '%s\n' "$HOST_KEY" >/etc/ssh/ssh_host_ed25519_key
ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key >/etc/ssh/ssh_host_ed25519_key.pub || exit 1
home=$(getent passwd "$GUEST_USER" | cut -d: -f6)
mkdir -p "$home/.ssh"
printf '%s\n' "$USER_KEY" >"$home/.ssh/authorized_keys"
chown -R "$GUEST_USER:" "$home/.ssh"
# Where SELinux is: sshd may read neither with the label of what another program writes there.
if command -v restorecon >/dev/null; then restorecon -RF /etc/ssh "$home/.ssh"; fi
systemctl reset-failed ssh.service sshd.service 2>/dev/null
# Enabled as well: the disk may be booted again for a login.
systemctl enable --quiet --now ssh.service 2>/dev/null || systemctl enable --quiet --now sshd.service
