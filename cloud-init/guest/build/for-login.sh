# Of build.sh: for whoever logs in to look.
leave_for_login() { # NAME/VERSION: the module whose build is to be run again
  local rebuild_id=$1 rebuild_command
  rebuild_command="dkms build -m '${rebuild_id%/*}' -v '${rebuild_id#*/}' -k '$RELEASE' -j '$JOBS'"
  cat >"$state/rebuild" <<REBUILD
#!/bin/sh
# Written by dkms2bin: the build command of $rebuild_id once more, as it ran.
export LC_ALL=C SOURCE_DATE_EPOCH='$EPOCH' KBUILD_BUILD_TIMESTAMP='$KBUILD_BUILD_TIMESTAMP'
export KBUILD_BUILD_USER=dkms2bin KBUILD_BUILD_HOST=dkms2bin KBUILD_BUILD_VERSION=1
cd / && rm -rf '$tree/$rebuild_id/$RELEASE'
$rebuild_command --force "\$@"
code=\$?
for log in '$tree/$rebuild_id/build/make.log' '$tree/$rebuild_id/$RELEASE'/*/log/make.log; do
  if [ -f "\$log" ]; then echo; echo "\$log:"; tail -n 20 "\$log"; fi
done
echo "dkms build ended with \$code (source: /usr/src/${rebuild_id%/*}-${rebuild_id#*/})"
exit \$code
REBUILD
  chmod 755 "$state/rebuild"
  ln -sf "$state/rebuild" /usr/local/bin/dkms2bin-rebuild
  cat >/etc/profile.d/dkms2bin.sh <<PROFILE
# Written by dkms2bin: an interactive login of root lands where the build was.
case \$- in *i*)
  if [ "\$(id -u)" = 0 ] && [ -z "\${DKMS2BIN_SHOWN:-}" ]; then
    export DKMS2BIN_SHOWN=1
    for folder in '$tree/$rebuild_id/build' '/usr/src/${rebuild_id%/*}-${rebuild_id#*/}'; do
      if [ -d "\$folder" ]; then cd "\$folder"; break; fi
    done
    for log in '$tree/$rebuild_id/build/make.log' '$tree/$rebuild_id/$RELEASE'/*/log/make.log; do
      if [ -f "\$log" ]; then echo "last lines of \$log:"; tail -n 20 "\$log"; break; fi
    done
    echo "$rebuild_id for $RELEASE: edit /usr/src/${rebuild_id%/*}-${rebuild_id#*/}, then run dkms2bin-rebuild"
  fi ;;
esac
PROFILE
  sync
}
