initramfs=/boot/initramfs-$release.img
# In containers and roots of image builders there is none yet: whoever makes it finds the module in its place.
wanted() {
  if [ "${INITRD:-}" = No ]; then
    echo "@PACKAGE@: the initramfs of $release is left to whoever makes this system"
    return 1
  fi
  [ -e "$initramfs" ] && command -v dracut >/dev/null
}
