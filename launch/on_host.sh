#!/usr/bin/env bash
# One host's part of a job, called by cloud_tpu.sh and hosts.sh over ssh. It runs in the checkout.
#
#   launch/on_host.sh install EXTRA          its own Python and packages, once per version
#   launch/on_host.sh reach DATA WORKDIR     copies data here, mounts folders of NFS: now and at every
#                                            start
#   launch/on_host.sh idle                   fails if a run is at work here
#   launch/on_host.sh start [flags]          trains in the background; nothing if it does already;
#                                            "deblur" or "evaluate" with its flags runs that
#   launch/on_host.sh follow                 shows the log until the run ends; ends with its status
#   launch/on_host.sh wait [SECONDS]         until the run ends, or so long; tells how, with its status
#   launch/on_host.sh last                   shows the end of the log
#   launch/on_host.sh foreground [flags]     trains, or runs, in this terminal; fails if a run is
#                                            at work here
#   launch/on_host.sh stop [SIGNAL]          asks the run here to save and end (INT: for good)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# What this script remembers; hosts may share a home.
state=${STATE:-$HOME/.dmphn/$(hostname)}/$(basename "$PWD")
mkdir -p "$state"

version() { cat .version 2>/dev/null || git rev-parse HEAD 2>/dev/null || echo unknown; }

# Prints a process: its number, and when it began. After a restart another one may have the number.
process() {
  local fields boot=/proc/sys/kernel/random/boot_id
  fields=$(cat "/proc/$1/stat" 2>/dev/null) || true
  read -ra fields <<<"${fields##*) }" # its name, in brackets, may hold anything
  echo "$1 ${fields[19]:-} $(cat "$boot" 2>/dev/null)"
}

pid() { cut -d ' ' -f 1 "$state/pid"; }

alive() {
  [[ -s $state/pid ]] && kill -0 "$(pid)" 2>/dev/null &&
    [[ $(process "$(pid)") == "$(cat "$state/pid")" ]]
}

# Prints where uv is. pip brings it into the account, or, where a Python is managed by the system and
# refuses (Debian's, Ubuntu's), into an environment of its own.
find_uv() {
  local own=$HOME/.dmphn/uv account=$HOME/.local/bin/uv said
  command -v uv && return
  if [[ ! -x $account && ! -x $own/bin/uv ]]; then
    python3 -m pip install --quiet --user uv >/dev/null 2>&1 ||
      said=$(python3 -m venv "$own" 2>&1 && "$own/bin/python" -m pip install --quiet uv 2>&1) ||
      { echo "on_host.sh: pip brings no uv to $(hostname) (${said%%$'\n'*}): install uv there" >&2
        exit 69; }
  fi
  if [[ -x $account ]]; then echo "$account"; else echo "$own/bin/uv"; fi
}

install() {
  local extra=$1 python=${PYTHON:-3.11} lock uv
  [[ -x .venv/bin/python && $(cat "$state/installed" 2>/dev/null) == "$(version) $extra" ]] && return
  # uv brings a Python of its own: that of a TPU runtime (Ubuntu 22.04) is 3.10.
  uv=$(find_uv)
  lock=requirements/py${python/./}.txt
  [[ -d .venv ]] || "$uv" venv --quiet --python "$python" .venv
  "$uv" pip install --quiet --python .venv/bin/python -c "$lock" -e '.[gcs]' ${extra:+"$extra"}
  echo "$(version) $extra" >"$state/installed"
}

# A bucket's data are copied to this host's disk, whose tiles are then mapped into memory; a run
# writes to a bucket itself. HOST:/SHARE is mounted by NFS; a path is a path.
reach() {
  let_go data "$1"
  let_go run "$2"
  if [[ $1 == gs://* ]]; then
    mkdir -p data
    gcloud storage rsync --recursive --delete-unmatched-destination-objects "$1" data
  fi
  mount_all
}

# Unmounts folder $1 where a run of another place than $2 has mounted it.
let_go() {
  if [[ $(cat "$state/$1.place" 2>/dev/null || echo "$2") != "$2" ]] && mountpoint -q "$1"; then
    sudo umount "$1"
  fi
  echo "$2" >"$state/$1.place"
}

# Mounts what `reach` was told of: at every start, for a mount does not outlive a restart of the host,
# and a run would begin anew in the empty folder.
mount_all() {
  local folder place
  for folder in data run; do
    place=$(cat "$state/$folder.place" 2>/dev/null || true)
    case $place in
      gs://*) ;;
      *:/*) mount_nfs "$place" "$folder" ;;
    esac
  done
}

mount_nfs() {
  mkdir -p "$2"
  mountpoint -q "$2" || sudo mount -t nfs "$1" "$2" || true
  mountpoint -q "$2" ||
    { echo "on_host.sh: $1 cannot be mounted at $PWD/$2 on $(hostname)" >&2; exit 69; }
}

# Python that heeds an interrupt: what a shell starts in the background is born deaf to it, for which
# Python installs no handler. The process stays the same one.
python=(.venv/bin/python -ISc 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' .venv/bin/python)

# Training's flags begin with hyphens, a command with its name.
module() { case ${1:-} in deblur | evaluate) echo dmphn_jax ;; *) echo dmphn_jax.main ;; esac; }

start() {
  if alive; then
    echo "on_host.sh: already at work on $(hostname)"
    return
  fi
  mount_all
  rm -f "$state/status" "$state/pid"
  export -f process
  # A session of its own: the run outlives the connection it was started over.
  # shellcheck disable=SC2016 # for the inner shell
  STATE_FOLDER=$state setsid bash -c '
    "$@" &
    process $! >"$STATE_FOLDER/pid"
    status=0
    wait $! || status=$?
    echo "$status" >"$STATE_FOLDER/status.new"
    mv "$STATE_FOLDER/status.new" "$STATE_FOLDER/status"
  ' work "${python[@]}" -m "$(module "$@")" "$@" >>"$state/log" 2>&1 </dev/null &
  until alive || [[ -e $state/status ]]; do sleep 0.1; done
}

follow() {
  [[ -e $state/log ]] || { echo "on_host.sh: no run was started on $(hostname)" >&2; exit 69; }
  if alive; then
    tail -n "${LINES_BACK:-20}" -f --pid "$(pid)" "$state/log" || true
  else
    tail -n "${LINES_BACK:-20}" "$state/log"
  fi
  exit "$(ended)"
}

# Prints the status of the run that has ended; 137 if there is none: the host was restarted under it.
ended() {
  local tries=0
  until [[ -e $state/status || $((tries += 1)) -gt 20 ]]; do sleep 0.1; done
  cat "$state/status" 2>/dev/null || echo 137
}

wait_for_end() {
  local status=75
  if alive; then timeout "${1:-0}" tail -f /dev/null --pid "$(pid)" || true; fi
  if alive; then
    echo "$(hostname): still at work after $1 s"
  else
    status=$(ended)
    [[ $status == 0 ]] ||
      echo "$(hostname) ended with $status: $(tail -n 1 "$state/log" 2>/dev/null)"
  fi
  exit "$status"
}

last() { tail -n 5 "$state/log"; }

foreground() {
  idle # another one's pid is what `stop` needs
  mount_all
  rm -f "$state/status"
  process $$ >"$state/pid" # stays that of the command that takes this shell's place
  exec "${python[@]}" -m "$(module "$@")" "$@"
}

idle() {
  ! alive || { echo "on_host.sh: a run is at work on $(hostname); stop it first" >&2; exit 69; }
}

stop() {
  if alive; then
    kill -s "${1:-INT}" "$(pid)"
    echo "on_host.sh: asked the run on $(hostname) to save and end"
  else
    echo "on_host.sh: no run is at work on $(hostname)"
  fi
}

action=${1:-}
case $action in
  wait) shift; wait_for_end "$@" ;;
  install | reach | idle | start | follow | last | foreground | stop) shift; "$action" "$@" ;;
  *) echo "on_host.sh: no action '$action'" >&2; exit 2 ;;
esac
