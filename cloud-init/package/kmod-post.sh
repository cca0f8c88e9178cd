release='@RELEASE@'
# Without the kernel's own files depmod would only complain.
if [ -e "/lib/modules/$release/modules.builtin" ]; then depmod -a "$release" || exit; fi
if [ -x /usr/sbin/weak-modules ]; then
  printf '%s\n' @MODULES@ | /usr/sbin/weak-modules --add-modules --no-initramfs
fi
exit 0
