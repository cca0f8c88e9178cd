regenerate=/usr/lib/module-init-tools/regenerate-initrd-posttrans
if [ -x "$regenerate" ]; then /bin/bash "$regenerate"; fi
exit 0
