initrd=/boot/initrd.img-$release

say() { echo "$DPKG_MAINTSCRIPT_PACKAGE: $*"; }

# Whether there is an initramfs of this kernel that is ours to make again. In containers and roots of image builders there is none
# yet: whoever makes it finds the module in its place.
wanted() {
  if [ -n "${DPKG_ROOT:-}" ] || [ "${INITRD:-}" = No ]; then
    say "the initramfs of $release is left to whoever makes this system"
    return 1
  fi
  [ -e "$initrd" ]
}

remake() {
  if command -v update-initramfs >/dev/null; then
    # Without that name it would only put the work off.
    DPKG_MAINTSCRIPT_PACKAGE='' update-initramfs -u -k "$release"
  elif command -v dracut >/dev/null; then
    say "dracut makes $initrd"
    dracut --quiet --force "$initrd" "$release"
  else
    say "$initrd is as it was: make it again with what made it"
  fi
}
