#!/usr/bin/env bash
# Cloud TPU by queued resources: a host, a slice or several; goes on by itself after preemption.
#
#   launch/cloud_tpu.sh train --name stack4 --project my-project --zone us-east5-b \
#       --accelerator v6e-16 --spot --config configs/stack4.py --config.batch_size=64 \
#       --data gs://my-bucket/gopro --workdir gs://my-bucket/runs/stack4
#
# Not run on Cloud TPU by this project: tested against a stand-in for gcloud. Needs gcloud, logged
# in. The run goes on if this script ends; `train` again takes up where it was.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: launch/cloud_tpu.sh ACTION [flags]

  train     create what is not there, wait for it, install, train, follow the log; start again
            after preemption
  run       the same with --command on all hosts, which share its files in --workdir, HOST:/SHARE
            or a path that all see; there a bucket's data are at data, a share is at run:
            'deblur data --checkpoint stack4 --output run'
  status    of the queued resource, and the last lines of the log
  log       follow the log of the first host
  stop      ask the run to save and end, for good; the machines stay
  delete    give the machines back

$COMMON_FLAGS
  --spot, --reserved    which machines (on demand)
  --slices N            slices of that accelerator, joined over the data-centre network (1)
  --runtime VERSION     of the TPU software (by the accelerator)
  --wait MINUTES        give up waiting for machines after this long; 0: never (0)
  --delete-after        give the machines back when the run has come to its end
A PLACE is gs://BUCKET/FOLDER (data are copied to every host; the run writes to the bucket itself),
HOST:/SHARE (NFS), or a path on the hosts.
TEXT
}

own_flags="SLICES RUNTIME WAIT" own_switches="SPOT RESERVED DELETE_AFTER"
action=${1:-}
[[ $# -eq 0 ]] || shift
case $action in
  train | run | status | log | stop | delete) ;;
  --help | -h | "") usage; [[ -n $action ]]; exit ;;
  *) die "no action '$action': train, run, status, log, stop or delete" ;;
esac
parse "$@"
need PROJECT my-project
need ZONE us-east5-b
SLICES=${SLICES:-1} WAIT=${WAIT:-0}
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "--slices $SLICES: a whole number from 1 up needed"
[[ $WAIT =~ ^[0-9]+$ ]] || die "--wait $WAIT: minutes needed"
where=(--project "$PROJECT" --zone "$ZONE")
resources=(gcloud compute tpus queued-resources)

check_train() {
  need ACCELERATOR v6e-16
  need_kind "$action"
  local data=${DATA:-} workdir=${WORKDIR:-}
  [[ $data != *:/* ]] || data=data
  [[ $workdir != *:/* || $workdir == gs://* ]] || workdir=run
  need_work "$data" "$workdir"
  [[ $action == run ]] || need DATA gs://my-bucket/gopro
  if [[ $action == run ]]; then
    need WORKDIR filer:/sharp
    [[ $WORKDIR != gs://* ]] ||
      die "--workdir $WORKDIR: hosts share files by a file system, such as HOST:/SHARE (NFS)"
  fi
  need WORKDIR gs://my-bucket/runs/stack4
  [[ -z ${SPOT:-} || -z ${RESERVED:-} ]] || die "--spot and --reserved exclude one another"
  case $ACCELERATOR in
    v6e-*) RUNTIME=${RUNTIME:-v2-alpha-tpuv6e} ;;
    v5litepod-*) RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} ;;
    v5p-*) RUNTIME=${RUNTIME:-v2-alpha-tpuv5} ;;
    v4-* | v3-* | v2-*) RUNTIME=${RUNTIME:-tpu-ubuntu2204-base} ;;
    *) need RUNTIME "v2-alpha-tpuv6e for --accelerator $ACCELERATOR" ;;
  esac
  commit=$(git -C "$root" rev-parse HEAD 2>/dev/null) ||
    die "$root is no git checkout: what is committed there is what the hosts get"
  [[ -z $(git -C "$root" status --porcelain --untracked-files=no) ]] ||
    say "changes that are not committed stay here: the hosts get ${commit:0:12}"
}

# Prints the queued resource's state: ACTIVE, ..., ABSENT, or UNKNOWN where gcloud cannot tell.
state() {
  local said
  if [[ -n ${DRY_RUN:-} ]]; then
    run "${resources[@]}" describe "$NAME" "${where[@]}" --format 'value(state.state)' >&3
    echo "${dry_state:-ACTIVE}"
  elif said=$("${resources[@]}" describe "$NAME" "${where[@]}" \
    --format 'value(state.state)' 2>&1); then
    echo "${said##*$'\n'}"
  elif [[ $said == *NOT_FOUND* || $said == *"not found"* ]]; then
    echo ABSENT
  else
    say "${said##*$'\n'}"
    echo UNKNOWN
  fi
}

create() {
  local command=("${resources[@]}" create "$NAME" "${where[@]}"
    --accelerator-type "$ACCELERATOR" --runtime-version "$RUNTIME")
  if [[ $SLICES -gt 1 ]]; then
    command+=(--node-count "$SLICES" --node-prefix "$NAME")
  else
    command+=(--node-id "$NAME")
  fi
  [[ -z ${SPOT:-} ]] || command+=(--spot)
  [[ -z ${RESERVED:-} ]] || command+=(--reserved)
  if [[ -n ${DRY_RUN:-} ]]; then
    run "${command[@]}"
    return
  fi
  local said
  said=$("${command[@]}" 2>&1) || die "not created: $(reason "$said")"
  say "created $NAME"
}

# The line of gcloud's answer that says why, and what to do about the usual ones.
reason() {
  local line
  line=$(grep -m 1 ERROR <<<"$1" || tail -n 1 <<<"$1")
  case $1 in
    *[Qq]uota* | *RESOURCE_EXHAUSTED*)
      line+=" (ask for quota under IAM & Admin > Quotas, or try another zone or --spot)" ;;
    *PERMISSION_DENIED*)
      line+=" (the account needs the role TPU Admin; gcloud auth list tells which one it is)" ;;
  esac
  echo "$line"
}

remove() { run "${resources[@]}" delete "$NAME" "${where[@]}" --force --quiet; }

# Waits until the machines are there, creating them where they are not, or no longer.
acquire() {
  local now shown="" waited=0 unknown=0
  while :; do
    now=$(state)
    [[ $now == "$shown" || -n ${DRY_RUN:-} ]] || say "$NAME: $now"
    shown=$now
    [[ $now == UNKNOWN ]] || unknown=0
    case $now in
      ACTIVE) return ;;
      ABSENT) create; dry_state=ACTIVE ;;
      SUSPENDED) remove ;; # preempted: a suspended one never comes back
      FAILED)
        die "$NAME failed: $("${resources[@]}" describe "$NAME" "${where[@]}" \
          --format 'value(state.failedData.error.message)' 2>&1 | tail -n 1)" \
          "(launch/cloud_tpu.sh delete gives it up)" ;;
      UNKNOWN)
        unknown=$((unknown + 1))
        [[ $unknown -lt 5 ]] || die "gcloud does not answer for $NAME; the same command goes on" ;;
    esac
    pause
    waited=$((waited + (POLL > 0 ? POLL : 60)))
    [[ $WAIT -eq 0 || $waited -lt $((WAIT * 60)) ]] ||
      die "$NAME is still $now after $WAIT minutes; it stays queued: the same command waits on," \
        "launch/cloud_tpu.sh delete gives it up"
  done
}

# on WORKER COMMAND: in one host, or in "all" of all slices.
on() {
  local node=0
  [[ $1 != all ]] || node=all
  run "${resources[@]}" ssh "$NAME" "${where[@]}" --node "$node" --worker "$1" --command "$2"
}

# Puts this commit with its own Python on every host, once.
prepare() {
  local archive data=${DATA:-} workdir=${WORKDIR:-} extra='jax[tpu]>=0.10,<0.12' ready
  ready=$(quoted "$commit $data $workdir")
  if [[ -z ${DRY_RUN:-} ]] && on all "grep -qxF $ready $NAME/.ready" >/dev/null 2>&1; then
    return
  fi
  on all "! test -e $NAME/launch/on_host.sh || bash $NAME/launch/on_host.sh idle" || return
  if [[ -n ${DRY_RUN:-} ]]; then
    archive=/tmp/$NAME.tar.gz
  else
    archive=$(mktemp -d)/$NAME.tar.gz
  fi
  run git -C "$root" archive --format tar.gz --output "$archive" "$commit" || return
  run "${resources[@]}" scp "$archive" "$NAME:" "${where[@]}" --node all --worker all || return
  [[ -n ${DRY_RUN:-} ]] || rm -r "$(dirname "$archive")"
  on all "mkdir -p $NAME && tar xzf $NAME.tar.gz -C $NAME && echo $commit > $NAME/.version &&\
 bash $NAME/launch/on_host.sh install $(quoted "$extra") &&\
 bash $NAME/launch/on_host.sh reach $(quoted "$data" "$workdir") && echo $ready > $NAME/.ready"
}

start() {
  local supervise=--supervise
  [[ -z ${COMMAND:-} ]] || supervise=""
  on all "bash $NAME/launch/on_host.sh start $(quoted ${supervise:+$supervise} "${work[@]}")"
}

follow() { on 0 "bash $NAME/launch/on_host.sh follow"; }

# Prepares, starts and follows once. Returns the run's status; 255 if the machines did not answer.
attempt() {
  prepare && start || return 255
  local status=0 lost=0
  while :; do
    status=0
    follow || status=$?
    # ssh's own status, and gcloud's: the connection broke. The run may well be going on.
    if [[ $status != 255 && $status != 1 ]]; then
      # Of a command the first host may have ended while others are still at work.
      [[ -z ${COMMAND:-} || $status != 0 && $status != 70 ]] ||
        on all "bash $NAME/launch/on_host.sh wait" || status=75
      return "$status"
    fi
    lost=$((lost + 1))
    [[ $lost -lt 5 && $(state) == ACTIVE ]] || return 255
    say "the connection to $NAME broke; once more"
    pause
  done
}

train() {
  local status left=$RESTARTS
  plan
  while :; do
    acquire
    status=0
    attempt || status=$?
    [[ $status == 70 ]] && status=1 # see on_host.sh
    case $status in
      0)
        [[ -n ${DRY_RUN:-} ]] || say "the run has come to its end"
        if [[ -n ${DELETE_AFTER:-} ]]; then remove; elif [[ -z ${DRY_RUN:-} ]]; then
          say "the machines are still there and cost: launch/cloud_tpu.sh delete --name $NAME"
        fi
        return ;;
      *) restarts_on "$status" || { say "the run ended with $status; the machines are still there"
        return "$status"; } ;;
    esac
    [[ $left -gt 0 ]] ||
      { say "ended with $status after $RESTARTS restarts; the same command goes on"
        return "$status"; }
    left=$((left - 1))
    say "status $status: starting again ($left times left)"
    pause
  done
}

exec 3>&1
case $action in train | run) check_train ;; esac
need_tool gcloud "https://cloud.google.com/sdk/docs/install"
case $action in
  train | run) dry_state=ABSENT; train ;;
  status)
    say "$NAME: $(state)"
    on 0 "bash $NAME/launch/on_host.sh last" ;;
  log) follow ;;
  stop) on all "bash $NAME/launch/on_host.sh stop" ;;
  delete) remove ;;
esac
