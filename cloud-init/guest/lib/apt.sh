# What common.sh asks of a package manager, for apt. Options for apt-get in apt_opts. Variables: PROXY and AUTHORITIES, may be empty.
# The program calls trust_authorities once it has its folder $work.
manager=apt
apt_opts=(-y --no-install-recommends -o Acquire::Retries=3 -o Acquire::http::Timeout=60 -o DPkg::Lock::Timeout=300
  -o Acquire::Languages=none -o Acquire::IndexTargets::deb-src::Sources::DefaultEnabled=false -o Dpkg::Use-Pty=0)
if [ -n "${PROXY:-}" ]; then apt_opts+=(-o "Acquire::http::Proxy=$PROXY" -o "Acquire::https::Proxy=$PROXY"); fi

trust_authorities() {
  local trusted
  trusted=$(trusted_file)
  if [ -n "$trusted" ]; then apt_opts+=(-o "Acquire::https::CAInfo=$trusted"); fi
}

judge() {
  if [ "$1" -eq 0 ] && ! grep -q '^W: Failed to fetch' "$log"; then outcome=ok
  elif grep -qiE 'No space left on device|not have enough free space' "$log"; then outcome=space
  elif grep -qiE '^E: (Unable to locate package|Version .* was not found|Couldn.t find any package)|has no installation candidate|^E: Unable to correct problems|unmet dependencies' "$log"; then outcome=missing
  elif grep -qiE '404 +Not Found' "$log"; then outcome=stale
  elif grep -qiE 'Hash Sum mismatch|File has unexpected size|Failed to fetch|Temporary failure|Could not (resolve|connect)|Connection (failed|timed out|reset|refused)|Mirror sync|50[0-9] +[A-Z]|Unable to connect|Some index files failed' "$log"; then outcome=network
  else outcome=other; fi
}
# Why an item was not fetched stands on the line after its Err:, indented; each reason once.
complaints() {
  { awk '
      /^Err:/ { if (item != "") print item; item = $0; next }
      item != "" && /^ / { sub(/^ +/, ""); if (!seen[$0]++) print item ": " $0; item = ""; next }
      item != "" { print item; item = "" }
      /^[EW]: / && !seen[$0]++
      END { if (item != "") print item }' "$log" | head -n 3
    [ "$outcome" != missing ] || grep -E '^ .*(Depends|Conflicts|but )' "$log" | head -n 3
  } | tr '\n' ' '
}
# apt itself tries passing faults again. What new lists may mend is tried once more with them.
worth_again() {
  case $outcome in missing | stale) ;; *) return 1 ;; esac
  [ -z "$updated" ] || return 1
  apt_update
}
updated=
apt_update() {
  [ -z "$updated" ] || return 0
  once apt-get "${apt_opts[@]}" update || { [ "$outcome" = missing ] || give_up; return 1; }
  updated=1
}
