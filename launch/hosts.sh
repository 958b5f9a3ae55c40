#!/usr/bin/env bash
# Hosts reached over ssh (GPU machines, say): one process on each, started and watched from here.
#
#   launch/hosts.sh train --hosts "gpu1 gpu2" --folder dmphn_jax --config configs/stack4.py \
#       --config.batch_size=24 --data /data/gopro --workdir runs/stack4
#
# Not run on several machines by this project; on one, over a real sshd and over a stand-in, it is
# (docs/operations.md). The first host is process 0: it writes the run's folder, on its own disk.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: launch/hosts.sh ACTION [flags]

  train     train on all hosts and show their output; Ctrl-C stops all at one step, saved
  run       run --command on all hosts, which share its files; a host that is lost is left out
  install   copy this commit to --folder of every host and install it there
  stop      ask the run to save and end, from another terminal

$COMMON_FLAGS
  --hosts "A B"         as ssh knows them; the first must be reachable from the others
  --folder DIR          of the checkout on every host (dmphn_jax)
  --port N              on the first host, free and open to the others (12355)
  --extra NAME          what \`install\` adds: "jax[cuda13]" for NVIDIA GPUs
--data and --workdir are paths on the hosts; the data must be under the same path on all of them.
TEXT
}

own_flags="HOSTS FOLDER PORT EXTRA" own_switches=""
action=${1:-}
[[ $# -eq 0 ]] || shift
case $action in
  train | run | install | stop) ;;
  --help | -h | "") usage; [[ -n $action ]]; exit ;;
  *) die "no action '$action': train, run, install or stop" ;;
esac
parse "$@"
need HOSTS '"gpu1 gpu2"'
read -ra hosts <<<"${HOSTS:-}"
FOLDER=${FOLDER:-dmphn_jax} PORT=${PORT:-12355} EXTRA=${EXTRA:-}
[[ $PORT =~ ^[0-9]+$ ]] || die "--port $PORT: a number needed"
# A dead host or network ends its connection within a minute.
connection=(ssh -o BatchMode=yes -o ConnectTimeout=10
  -o ServerAliveInterval=15 -o ServerAliveCountMax=4)

# Ends with a line that names the first host that cannot be used, before anything starts.
check_hosts() {
  local host said
  for host in "${hosts[@]}"; do
    if [[ -n ${DRY_RUN:-} ]]; then
      run "${connection[@]}" "$host" "test -x $FOLDER/.venv/bin/python"
    else
      said=$("${connection[@]}" "$host" \
        "test -x $FOLDER/.venv/bin/python || echo missing" 2>&1 </dev/null) ||
        die "$host cannot be reached: ${said##*$'\n'}"
      [[ $said != *missing* ]] ||
        die "$host has no $FOLDER/.venv: launch/hosts.sh install makes it"
    fi
  done
}

install() {
  local host commit there
  commit=$(git -C "$root" rev-parse HEAD)
  there="mkdir -p $FOLDER && tar xzf - -C $FOLDER && echo $commit > $FOLDER/.version &&\
 bash $FOLDER/launch/on_host.sh install $(quoted "$EXTRA")"
  for host in "${hosts[@]}"; do
    if [[ -n ${DRY_RUN:-} ]]; then
      echo "git -C $root archive --format tar.gz $commit | $(quoted "${connection[@]}" "$host" \
        "$there")"
    else
      git -C "$root" archive --format tar.gz "$commit" | "${connection[@]}" "$host" "$there" ||
        die "$host: not installed"
    fi
  done
}

ask_all() {
  local host
  for host in "${hosts[@]}"; do
    run "${connection[@]}" "$host" "bash $FOLDER/launch/on_host.sh stop $1" </dev/null &
  done
  wait
}

# The first signal asks all hosts to save and end, a second one lets go of them.
asked="" asking=""
on_signal() {
  if [[ -n $asked ]]; then
    kill "${processes[@]}" 2>/dev/null || true
    return
  fi
  asked=$1
  say "asking all hosts to save and end; once more: without saving"
  ask_all "$1" >/dev/null 2>&1 &
  asking=$!
}

# Runs one process per host until all have ended. Returns what ended the job.
attempt() {
  local i process status statuses=" "
  processes=()
  for i in "${!hosts[@]}"; do
    local command=(bash "$FOLDER/launch/on_host.sh" foreground "${work[@]}")
    if [[ -n ${COMMAND:-} ]]; then
      command+=(--process "$i/${#hosts[@]}")
    elif [[ ${#hosts[@]} -gt 1 ]]; then
      command+=(--coordinator "${hosts[0]#*@}:$PORT" --num-processes "${#hosts[@]}"
        --process-id "$i")
    fi
    # -tt: if the connection ends, the process there is hung up on, and saves.
    if [[ -n ${DRY_RUN:-} ]]; then
      run "${connection[@]}" -tt "${hosts[$i]}" "$(quoted "${command[@]}")"
      continue
    fi
    "${connection[@]}" -tt "${hosts[$i]}" "$(quoted "${command[@]}")" </dev/null &
    processes+=($!)
  done
  for process in ${processes[@]+"${processes[@]}"}; do
    status=0
    while :; do # a signal to this script ends `wait` too
      status=0
      wait "$process" || status=$?
      kill -0 "$process" 2>/dev/null || break
    done
    if [[ $status -gt 128 ]]; then wait "$process" 2>/dev/null || status=$?; fi
    statuses+="$status "
  done
  [[ -z ${COMMAND:-} ]] || leave_out_lost
  # shellcheck disable=SC2086 # words
  return "$(rank $statuses)"
}

# Of a command's hosts that could not be reached none is needed: the others do its share.
leave_out_lost() {
  local i kept=() of
  read -ra of <<<"$statuses"
  for i in "${!hosts[@]}"; do
    if [[ ${of[$i]:-} != 255 ]]; then kept+=("${hosts[$i]}"); fi
  done
  [[ ${#kept[@]} -gt 0 && ${#kept[@]} -lt ${#hosts[@]} ]] || return 0
  say "going on with ${kept[*]}"
  hosts=("${kept[@]}")
}

train() {
  local status left=$RESTARTS
  check_hosts
  plan
  while :; do
    status=0
    attempt || status=$?
    [[ -z $asking ]] || wait "$asking" || true
    [[ $status -ne 0 && -z $asked ]] && restarts_on "$status" && [[ $left -gt 0 ]] || break
    left=$((left - 1))
    say "status $status: starting again ($left times left)"
    pause
  done
  [[ $status -eq 0 ]] || say "the job ended with status $status"
  return "$status"
}

case $action in train | run) need_kind "$action"; need_work ;; esac
need_tool ssh "install OpenSSH"
processes=()
trap 'on_signal INT' INT
trap 'on_signal TERM' TERM HUP
case $action in
  train | run) train ;;
  install) install ;;
  stop) ask_all INT ;;
esac
