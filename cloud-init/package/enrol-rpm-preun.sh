name='@NAME@'
certificate="/usr/share/module-keys/$name.der"
hash="/etc/module-keys/$name.hash"

tell() {
  echo "$name: $*" >&2
}

# 1 is an upgrade.
if [ "$1" != 0 ] || [ ! -d /sys/firmware/efi/efivars ]; then
  exit 0
fi
case $(mokutil --test-key "$certificate" 2>&1 || true) in
  *'already in'*)
    # All that waits for the next start is taken back at once: only when this is all.
    if [ "$(mokutil --list-new 2>/dev/null | grep -c '^\[key ')" = 1 ]; then
      mokutil --revoke-import >&2 && exit 0
    fi
    tell 'the certificate still waits to be enrolled: refuse it at the next start, or: mokutil --revoke-import'
    ;;
  *'already enrolled'*)
    if [ -e "$hash" ] && mokutil --delete "$certificate" --hash-file "$hash" >&2; then
      tell "reboot; before the system starts, choose \"Delete MOK\" at the console and type the password of $hash"
    else
      cp "$certificate" "/root/$name.der"
      tell "the certificate is still enrolled; to remove it: mokutil --delete /root/$name.der"
    fi
    ;;
esac
exit 0
