#!/usr/bin/env bash
# Cloud TPU by queued resources: a host, a slice or several; goes on by itself after preemption.
#
#   launch/cloud_tpu.sh train --name stack4 --project my-project --zone us-east5-b \
#       --accelerator v6e-16 --spot --config configs/stack4.py --config.batch_size=64 \
#       --data gs://my-bucket/gopro --workdir gs://my-bucket/runs/stack4
#
# Not run on Cloud TPU by this project: tested against a stand-in for gcloud. Needs gcloud, logged
# in. The run goes on if this script ends; `train` again takes up where it was. Only while this
# script lives are machines asked for anew after preemption, and given back with --delete-after.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/tpu_ssh.sh
source "$(dirname "${BASH_SOURCE[0]}")/tpu_ssh.sh"

usage() {
  cat <<TEXT
usage: launch/cloud_tpu.sh ACTION [flags]

  train     create what is not there, wait for it, install, train, follow the log; start again
            after preemption
  run       the same with --command on all hosts, which share its files in --workdir, HOST:/SHARE
            or a path that all see; there a bucket's data are at data, a share is at run:
            'deblur data --checkpoint stack4 --output run'
  status    of the queued resource, and the last lines of the log
  log       follow the log of the first host, or of --worker
  stop      ask the run to save and end, for good; the machines stay
  delete    give the machines back

$COMMON_FLAGS
  --spot, --reserved    which machines (on demand)
  --slices N            slices of that accelerator, joined over the data-centre network (1)
  --runtime VERSION     of the TPU software (by the accelerator)
  --wait MINUTES        give up waiting for machines after this long; 0: never (0)
  --delete-after        give the machines back however the run has ended, but by a person or with
                        its --workdir on their own disk; this script must live until then
  --worker N            for \`log\`: which host, SLICE.N of several slices (0)
A PLACE is gs://BUCKET/FOLDER (data are copied to every host; the run writes to the bucket itself),
HOST:/SHARE (NFS), or a path on the hosts.
TEXT
}

own_flags="SLICES RUNTIME WAIT WORKER" own_switches="SPOT RESERVED DELETE_AFTER"
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
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT # whatever gcloud makes of it: this is no broken connection

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
  [[ -z ${DELETE_AFTER:-} ]] || ! on_own_disk ||
    say "--delete-after: --workdir $WORKDIR may lie on the hosts' own disk, and they will be kept"
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

on_own_disk() { [[ $WORKDIR != gs://* && $WORKDIR != *:/* ]]; }

# Prints the queued resource's state: ACTIVE, ..., ABSENT, or UNKNOWN where gcloud cannot tell.
state() {
  local said
  if [[ -n ${DRY_RUN:-} ]]; then
    run "${resources[@]}" describe "$NAME" "${where[@]}" --format 'value(state.state)' >&3
    echo "${dry_state:-ACTIVE}"
  elif said=$("${resources[@]}" describe "$NAME" "${where[@]}" \
    --format 'value(state.state)' 2>"$tmp/look"); then
    echo "${said##*$'\n'}"
  elif said=$(<"$tmp/look") && [[ $said == *NOT_FOUND* || $said == *"not found"* ]]; then
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

# Deletes the machines for good, in a few tries.
give_back() {
  local tries
  for tries in 1 2 3 4 5; do
    remove && return
    [[ $(state) != ABSENT ]] || return 0
    [[ $tries == 5 ]] || pause
  done
  say "$NAME is not deleted and may cost: launch/cloud_tpu.sh delete --name $NAME --project $PROJECT --zone $ZONE"
  return 1
}

# Waits until the machines are there, creating them where they are not, or no longer.
acquire() {
  local now shown="" waited=0 unknown=0 kept=0
  while :; do
    now=$(state)
    [[ $now == "$shown" || -n ${DRY_RUN:-} ]] || say "$NAME: $now"
    shown=$now
    [[ $now == UNKNOWN ]] || unknown=0
    case $now in
      ACTIVE) return ;;
      ABSENT) create; dry_state=ACTIVE ;;
      SUSPENDED) # preempted: a suspended one never comes back
        remove || kept=$((kept + 1))
        [[ $kept -lt 5 ]] || die "$NAME is suspended and not deleted; the same command goes on" ;;
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
    [[ $WAIT -eq 0 || $waited -lt $((WAIT * 60)) ]] || give_up
  done
}

# Once it is there nobody may be looking any more.
give_up() {
  local still="$NAME is still $now after $WAIT minutes"
  [[ -z ${DELETE_AFTER:-} ]] || ! give_back || die "$still: given up"
  die "$still; it stays queued: the same command waits on," \
    "launch/cloud_tpu.sh delete gives it up"
}

# Puts this commit with its own Python on every host, once; sets `older` where another one's run of
# the same data and folder is at work.
prepare() {
  local archive at=$tmp data=${DATA:-} workdir=${WORKDIR:-} ready status=0
  local extra='jax[tpu]>=0.10,<0.12'
  ready=$(quoted "$commit $data $workdir")
  if [[ -z ${DRY_RUN:-} ]]; then
    on all "grep -qxF $ready $NAME/.ready" >/dev/null 2>&1 || status=$?
    [[ $status != 0 && $status != 255 ]] || return "$status"
  fi
  status=0
  on all "! test -e $NAME/launch/on_host.sh || bash $NAME/launch/on_host.sh idle" 2>"$tmp/idle" ||
    status=$?
  [[ $status == 0 || $status == 69 ]] || cat "$tmp/idle" >&2
  if [[ $status == 69 ]]; then
    status=0
    on 0 "cut -d ' ' -f 2- $NAME/.ready | grep -qxF $(quoted "$data $workdir")" || status=$?
    [[ $status == 0 || $status == 255 ]] ||
      die "a run of other data or of another --workdir is at work on $NAME: launch/cloud_tpu.sh" \
        "stop ends it, another --name leaves it alone"
    [[ $status != 0 ]] || older=1
  fi
  [[ $status == 0 && -z $older ]] || return "$status"
  archive=$NAME-$commit.tar.gz
  [[ -z ${DRY_RUN:-} ]] || at=/tmp
  run git -C "$root" archive --format tar.gz --output "$at/$archive" "$commit" || return
  run "${resources[@]}" scp "$at/$archive" "$NAME:" "${where[@]}" --node all --worker all ||
    return 255
  on all "test -s $archive || exit 66; mkdir -p $NAME && tar xzf $archive -C $NAME &&\
 echo $commit > $NAME/.version &&\
 bash $NAME/launch/on_host.sh install $(quoted "$extra") &&\
 bash $NAME/launch/on_host.sh reach $(quoted "$data" "$workdir") && echo $ready > $NAME/.ready"
}

start() {
  local supervise=--supervise
  [[ -z ${COMMAND:-} ]] || supervise=""
  on all "bash $NAME/launch/on_host.sh start $(quoted ${supervise:+$supervise} "${work[@]}")"
}

follow() { on "$1" "bash $NAME/launch/on_host.sh follow"; }

# Until the run has ended on all hosts, with what those say that did not end well. Of a command the
# first host may have ended long before others; in training they end together.
collect() {
  local limit=" 300"
  [[ -z ${COMMAND:-} ]] || limit=""
  on all "bash $NAME/launch/on_host.sh wait$limit"
}

# Says why the hosts could not be prepared, in `failure`.
not_prepared() {
  local host
  host=$(sed -n "s/^$1 on //p" <<<"$endings" | head -n 1)
  failure="$NAME could not be prepared: status $1${host:+ on $host}, see above"
  [[ $1 != 66 ]] || failure="$host did not get the commit: to several hosts gcloud copies with its\
 key in the agent only (ssh-add ~/.ssh/google_compute_engine)"
}

# Prepares, starts and follows once. Returns what ended the run; 255 if the hosts did not answer.
attempt() {
  local status=0 all=255 lost=0
  failure="" endings="" older=""
  prepare || status=$?
  if [[ -n $older ]]; then
    say "a run of another commit is at work on $NAME: following it"
  elif [[ $status == 0 ]]; then
    start || status=$?
  fi
  if [[ $status != 0 ]]; then
    [[ $status != 255 && $(state) == ACTIVE ]] || return 255
    not_prepared "$status"
    return "$status"
  fi
  status=255
  while :; do
    [[ $status != 255 ]] || { status=0; follow 0 || status=$?; }
    [[ $status == 255 ]] || { all=0; collect || all=$?; }
    [[ $all == 255 ]] || break
    # The run may well be going on.
    lost=$((lost + 1))
    [[ $lost -lt 5 && $(state) == ACTIVE ]] || break
    say "the connection to $NAME broke; once more"
    pause
  done
  return "$(rank "$status" "$all")"
}

# finish STATUS LINE: says how it ended, and gives the machines back or says that they cost.
finish() {
  local kept="the machines are still there and cost: launch/cloud_tpu.sh delete --name $NAME --project $PROJECT --zone $ZONE"
  if [[ -n ${DRY_RUN:-} ]]; then
    [[ -z ${DELETE_AFTER:-} ]] || on_own_disk || remove
  elif [[ -z ${DELETE_AFTER:-} || $1 == 130 ]]; then
    say "$2; $kept"
  elif on_own_disk; then
    say "$2; --workdir $WORKDIR may lie on their own disk, so $kept"
  else
    say "$2"
    give_back
  fi
}

train() {
  local status line left=$RESTARTS
  plan
  while :; do
    acquire
    status=0
    attempt || status=$?
    restarts_on "$status" && [[ $left -gt 0 ]] || break
    left=$((left - 1))
    say "status $status: starting again ($left times left)"
    pause
  done
  line=${failure:-the run ended with $status}
  [[ $status != 0 ]] || line="the run has come to its end"
  ! restarts_on "$status" ||
    line="ended with $status after $RESTARTS restarts; the same command goes on"
  finish "$status" "$line" || [[ $status != 0 ]] || status=1
  return "$status"
}

exec 3>&1
case $action in
  train | run) check_train ;;
  log) [[ ${WORKER:=0} =~ ^([0-9]+\.)?[0-9]+$ ]] || die "--worker $WORKER: N or SLICE.N needed" ;;
esac
need_tool gcloud "https://cloud.google.com/sdk/docs/install"
case $action in
  train | run) dry_state=ABSENT; train ;;
  status)
    now=$(state)
    say "$NAME: $now"
    [[ $now != ACTIVE ]] || answered on 0 "bash $NAME/launch/on_host.sh last" ;;
  log) answered follow "$WORKER" ;;
  stop) answered on all "bash $NAME/launch/on_host.sh stop" ;;
  delete) remove ;;
esac
