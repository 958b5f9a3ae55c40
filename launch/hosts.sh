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
NODES=${#hosts[@]} # what the plan counts
[[ $PORT =~ ^[0-9]+$ ]] || die "--port $PORT$(from PORT): a number needed"
# It stands as it is in what the hosts' shells read.
[[ $FOLDER =~ ^~?[A-Za-z0-9_./][A-Za-z0-9_./+@=-]*$ && $FOLDER == *[A-Za-z0-9_]* ]] ||
  die "--folder $FOLDER$(from FOLDER): a folder in letters, digits and ./_-, such as dmphn_jax"
[[ ${#hosts[@]} -gt 0 && " ${hosts[*]}" != *" -"* ]] ||
  die "--hosts $HOSTS$(from HOSTS): names of hosts needed"
twice=$(printf '%s\n' "${hosts[@]}" | sort | uniq -d)
[[ -z $twice ]] || die "--hosts: ${twice%%$'\n'*} is there twice; a host has one process"
# A dead host or network ends its connection within a minute.
connection=(ssh -o BatchMode=yes -o ConnectTimeout=10
  -o ServerAliveInterval=15 -o ServerAliveCountMax=4)

# Ends with a line that names the first host that cannot be used, before anything starts.
check_hosts() {
  local host said status config=${CONFIG:-} look
  look="test -x $FOLDER/.venv/bin/python || echo missing;"
  config=${config%%:*}
  [[ -z $config || $config == /* ]] || config=$FOLDER/$config
  [[ -z $config ]] || look+=" test -f $(quoted "$config") || echo no config;"
  look+=" bash $FOLDER/launch/on_host.sh idle"
  for host in "${hosts[@]}"; do
    if [[ -n ${DRY_RUN:-} ]]; then
      run "${connection[@]}" "$host" "$look"
      continue
    fi
    status=0
    said=$("${connection[@]}" "$host" "$look" 2>&1 </dev/null) || status=$?
    [[ $status != 255 ]] || die "$host cannot be reached: ${said##*$'\n'}"
    [[ $said != *missing* ]] ||
      die "$host has no $FOLDER/.venv: launch/hosts.sh install makes it"
    [[ $said != *"no config"* ]] ||
      die "$host has no $config: commit it, and launch/hosts.sh install brings it"
    [[ $status != 69 ]] || die "$host: a run is at work there; launch/hosts.sh stop ends it"
    [[ $status == 0 ]] || die "$host cannot be used: ${said##*$'\n'}"
  done
}

install() {
  local host commit there
  commit=$(git -C "$root" rev-parse HEAD)
  there="! test -e $FOLDER/launch/on_host.sh || bash $FOLDER/launch/on_host.sh idle &&\
 mkdir -p $FOLDER && tar xzf - -C $FOLDER && echo $commit > $FOLDER/.version &&\
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

# Waits for a process to its end, whatever signals come meanwhile; returns its status.
outlast() {
  local status
  while :; do
    status=0
    wait "$1" || status=$?
    kill -0 "$1" 2>/dev/null || break
  done
  if [[ $status -gt 128 ]]; then # of the signal, or its own
    status=0
    wait "$1" 2>/dev/null || status=$?
  fi
  return "$status"
}

# Waits for what a broken connection has left at work: it is not started a second time.
wait_for_all() {
  local host process
  processes=()
  for host in "${hosts[@]}"; do
    "${connection[@]}" "$host" "bash $FOLDER/launch/on_host.sh wait" >/dev/null 2>&1 </dev/null &
    processes+=("$(begun $!)")
  done
  for process in "${processes[@]}"; do outlast "$process" || true; done
}

# ask I SIGNAL TRIES: host I's run to save and end, again while it is only about to begin there. One
# that was asked is not asked twice: to a second interrupt it ends without saving.
ask() {
  local host=${hosts[$1]} said tries=$3
  while :; do
    said=$(run "${connection[@]}" "$host" "bash $FOLDER/launch/on_host.sh stop $2" 2>&1 </dev/null) ||
      { say "$host was not asked: ${said##*$'\n'}"; return 1; }
    [[ $said == *"no run is at work"* && $((tries -= 1)) -gt 0 ]] || break
    kill -0 "${processes[$1]:-$$}" 2>/dev/null || break
    [[ $POLL == 0 ]] || sleep 1
  done
  printf '%s\n' "$said"
}

ask_all() {
  local i asks=() status=0
  for i in "${!hosts[@]}"; do
    ask "$i" "$@" &
    asks+=($!)
  done
  for i in "${asks[@]}"; do wait "$i" || status=$?; done
  return "$status"
}

# The first signal asks all hosts to save and end, a second one lets go of them.
started="" asked="" asking="" processes=()
on_signal() {
  if [[ -z $started ]]; then
    say "nothing was started"
    exit "$2"
  elif [[ -n $asked ]]; then
    kill ${processes[@]+"${processes[@]}"} "$asking" 2>/dev/null || true
    return 0 # alone it would return what the signal made of `wait`
  fi
  asked=$1 ended=$2
  say "asking all hosts to save and end; once more: not waiting for that"
  ask_all "$1" 10 >/dev/null &
  asking=$!
}

# A pause that a signal ends within a second.
rest() {
  local seconds
  for ((seconds = 0; seconds < POLL; seconds++)); do
    [[ -z $asked ]] || return 0
    sleep 1
  done
}

# Prints the process that was begun last, which is not `$!` if a signal came since.
begun() {
  if [[ $1 != "$asking" ]]; then echo "$1"; else jobs -p | grep -vx "$asking" | tail -n 1; fi
}

# Runs one process per host until all have ended. Returns what ended the job.
attempt() {
  local i process status statuses=" "
  processes=()
  for i in "${!hosts[@]}"; do
    if [[ -n $asked ]]; then
      statuses+="$ended "
      break
    fi
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
    processes+=("$(begun $!)")
  done
  for process in ${processes[@]+"${processes[@]}"}; do
    status=0
    outlast "$process" || status=$?
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
  started=1
  while :; do
    status=0
    attempt || status=$?
    [[ $status -ne 0 && -z $asked ]] && restarts_on "$status" && [[ $left -gt 0 ]] || break
    left=$((left - 1))
    say "status $status: starting again ($left times left), once nothing is at work any more"
    rest
    [[ -n $asked ]] || wait_for_all
    [[ -z $asked ]] || break
  done
  [[ -z $asking ]] || outlast "$asking" || true
  [[ $status -eq 0 ]] || say "the job ended with status $status"
  return "$status"
}

case $action in train | run) need_kind "$action"; need_work ;; esac
need_tool ssh "install OpenSSH"
trap 'on_signal INT 130' INT
trap 'on_signal TERM 143' TERM HUP
case $action in
  train | run) train ;;
  install) install ;;
  stop) ask_all INT 1 ;;
esac
