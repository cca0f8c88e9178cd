release='@RELEASE@'
# Another version is in its place.
for file in @MODULES@; do
  if [ -e "$file" ]; then exit 0; fi
done
if [ -x /usr/sbin/weak-modules ]; then
  printf '%s\n' @MODULES@ | /usr/sbin/weak-modules --remove-modules --no-initramfs
fi
# The kernel may be gone already: depmod must not leave its indexes in a folder that nobody owns.
if [ -e "/lib/modules/$release/modules.builtin" ]; then depmod -a "$release" || exit; fi
exit 0
