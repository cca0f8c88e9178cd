name='@NAME@'
certificate="/usr/share/module-keys/$name.der"
hash="/etc/module-keys/$name.hash"

tell() {
  echo "$name: $*" >&2
}

# mokutil does the rest: it leaves the request for the firmware's MOK manager, which asks at the next start.
if [ ! -d /sys/firmware/efi/efivars ]; then
  tell "there is no UEFI firmware with keys here; later, if there is one: mokutil --import $certificate"
  exit 0
fi
case $(mokutil --test-key "$certificate" 2>&1 || true) in
  *'already enrolled'* | *'already in'*) exit 0 ;;
esac
if [ ! -e "$hash" ]; then
  tell "to enrol the certificate, choose a password, reboot and confirm at the console: mokutil --import $certificate"
elif mokutil --import "$certificate" --hash-file "$hash" >&2; then
  tell "reboot; before the system starts, choose \"Enroll MOK\" at the console and type the password of $hash"
else
  tell "mokutil failed; what it needs may be missing here. Once it is there: mokutil --import $certificate"
fi
exit 0
