# Sourced: what every root folder that tests enter needs of a system.
mount_system() { # ROOT
  local node
  mount -t proc proc "$1/proc"
  mount -t tmpfs -o mode=755 tmpfs "$1/dev"
  for node in null zero full random urandom tty; do
    : >"$1/dev/$node"
    mount --bind "/dev/$node" "$1/dev/$node"
  done
  ln -s /proc/self/fd "$1/dev/fd"
}
