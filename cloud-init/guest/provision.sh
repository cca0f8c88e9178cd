#!/bin/bash
# What cloud-init would do at each boot of a VM, done once while a layer is made natively: the user for logins, the
# addresses of QEMU's networks, the agent. Run as root in the new root folder, without a kernel of its own.
# Variables: GUEST_USER, NETWORK_MANAGEMENT and NETWORK_EGRESS (texts of .network files)
set -eu
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
id "$GUEST_USER" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --comment dkms2bin "$GUEST_USER"
printf '%s ALL=(ALL) NOPASSWD:ALL\n' "$GUEST_USER" >/etc/sudoers.d/dkms2bin
chmod 440 /etc/sudoers.d/dkms2bin
mkdir -p /etc/systemd/network
printf '%s\n' "$NETWORK_MANAGEMENT" >/etc/systemd/network/10-dkms2bin-management.network
printf '%s\n' "$NETWORK_EGRESS" >/etc/systemd/network/10-dkms2bin-egress.network
systemctl enable --quiet systemd-networkd.service
# Of what an official image starts: seconds of emulation each, and nothing that a module is built or loads by.
systemctl mask --quiet systemd-networkd-wait-online.service systemd-binfmt.service apparmor.service \
  systemd-timesyncd.service
# It has no host key yet: open-ssh.sh brings one and starts it.
systemctl disable --quiet ssh.service ssh.socket 2>/dev/null || true
systemctl enable --quiet dkms2bin-agent.service
