release='@RELEASE@'
# Another version is in its place.
for file in @MODULES@; do
  if [ -e "$file" ]; then exit 0; fi
done
if [ -x /usr/sbin/weak-modules ]; then
  printf '%s\n' @MODULES@ | /usr/sbin/weak-modules --remove-modules --no-initramfs
fi
# The kernel may be gone already: depmod must not leave its indexes in a folder that nobody owns.
if [ ! -e "/lib/modules/$release/modules.builtin" ]; then exit 0; fi
depmod -a "$release" || exit
@INITRAMFS@
if wanted; then
  files=$(lsinitrd "$initramfs" 2>/dev/null)
  for name in @NAMES@; do
    case "$files" in *"/$name"*)
      dracut --force "$initramfs" "$release" || exit
      break
      ;;
    esac
  done
fi
exit 0
