# What dkms has, it builds again for each kernel, and which of the two modules is loaded would be a matter of luck.
for source in '/var/lib/dkms/@MODULE@'/*/source; do
  if [ ! -e "$source" ] && [ ! -L "$source" ]; then continue; fi
  version=${source%/source}
  version=${version##*/}
  folder=$(readlink "$source" || echo "/usr/src/@MODULE@-$version")
  # A package that goes in this transaction takes it along.
  if rpm -qf "$folder/dkms.conf" >/dev/null 2>&1; then continue; fi
  echo "@PACKAGE@ is not installed: dkms has @MODULE@/$version from $folder, and would build it beside this one." >&2
  echo "Take it from dkms first: dkms remove @MODULE@/$version --all" >&2
  exit 1
done
exit 0
