release='@RELEASE@'
wm2=/usr/lib/module-init-tools/weak-modules2
if [ -x "$wm2" ]; then INITRD_IN_POSTTRANS=1 /bin/bash "$wm2" --add-kmp '@NVR@'; fi
# weak-modules2 passes over a package that it holds to be for another kernel.
if [ -e "/lib/modules/$release/modules.builtin" ]; then depmod -a "$release" || exit; fi
exit 0
