release='@RELEASE@'
wm2=/usr/lib/module-init-tools/weak-modules2
# Another version is in its place.
for file in @MODULES@; do
  if [ -e "$file" ]; then exit 0; fi
done
if [ -x "$wm2" ]; then printf '%s\n' @MODULES@ | /bin/bash "$wm2" --remove-kmp '@NVR@'; fi
# The kernel may be gone already: depmod must not leave its indexes in a folder that nobody owns.
if [ -e "/lib/modules/$release/modules.builtin" ]; then depmod -a "$release" || exit; fi
exit 0
