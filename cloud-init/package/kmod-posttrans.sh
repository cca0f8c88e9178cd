release='@RELEASE@'
@INITRAMFS@
# Another package of the transaction may have made it again by now.
if wanted && [ -z "$(find "$initramfs" -newer "/lib/modules/$release/modules.dep")" ]; then
  dracut --force "$initramfs" "$release" || exit
fi
exit 0
