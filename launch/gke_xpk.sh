#!/usr/bin/env bash
# GKE with xpk: a workload on a cluster of TPUs or GPUs that `xpk cluster create` has made.
#
#   launch/gke_xpk.sh train --name stack4 --project my-project --zone us-east5-b \
#       --cluster my-cluster --accelerator v6e-16 --image us-docker.pkg.dev/my-project/dmphn/tpu \
#       --config configs/stack4.py --config.batch_size=64 --data /data/gopro \
#       --workdir /data/runs/stack4 --storage my-volume
#
# Not run on GKE by this project: tested against stand-ins for xpk, kubectl and docker, and its xpk
# commands against xpk's own parser. Needs them, and gcloud, logged in.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: launch/gke_xpk.sh ACTION [flags]

  image     build the image from launch/docker/ and push it
  train     create the workload if it is not there, follow its log, tell how it ended
  run       the same with --command, whose files all pods share on a volume
  status    of the workload
  log       follow the log of the first pod
  delete    stop the workload and remove it

$COMMON_FLAGS
  --cluster NAME        that xpk knows
  --image NAME          of the image, with its registry
  --slices N            TPU slices (1)
  --nodes N             GPU nodes (1)
  --storage NAMES       volumes that \`xpk storage\` knows, separated by commas; --data and
                        --workdir are paths on them, or gs://BUCKET/FOLDER
  --spot                run on spot machines
A pod that was preempted, or stopped and saved (status 75), is started again with all others.
TEXT
}

own_flags="CLUSTER IMAGE SLICES NODES STORAGE" own_switches="SPOT"
action=${1:-}
[[ $# -eq 0 ]] || shift
case $action in
  image | train | run | status | log | delete) ;;
  --help | -h | "") usage; [[ -n $action ]]; exit ;;
  *) die "no action '$action': image, train, run, status, log or delete" ;;
esac
parse "$@"
SLICES=${SLICES:-1} NODES=${NODES:-1}
[[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "--slices $SLICES: a whole number from 1 up needed"
[[ $NODES =~ ^[1-9][0-9]*$ ]] || die "--nodes $NODES: a whole number from 1 up needed"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT # whatever kubectl makes of it
jobset="jobset.sigs.k8s.io/jobset-name=$NAME"

# tpu or gpu, by the accelerator's name.
kind() { case $ACCELERATOR in v[0-9]* | tpu*) echo tpu ;; *) echo gpu ;; esac; }

need_workload() {
  need PROJECT my-project
  need ZONE us-east5-b
  need CLUSTER my-cluster
  need_tool xpk "pip install xpk, in an environment of its own"
  need_tool kubectl "gcloud components install kubectl"
  need_tool gcloud "https://cloud.google.com/sdk/docs/install"
  where=(--cluster "$CLUSTER" --project "$PROJECT" --zone "$ZONE")
}

# Finds kubectl's context of this cluster, which need not be the current one; where there is none,
# gcloud makes it. The cluster is in the zone or, as xpk makes them, in its region.
find_context() {
  local location region=${ZONE%-*} known=""
  [[ -n ${DRY_RUN:-} ]] || known=$(kubectl config get-contexts --output name 2>"$tmp/said" || true)
  for location in "$ZONE" "$region"; do
    context=gke_${PROJECT}_${location}_$CLUSTER
    [[ $'\n'$known$'\n' != *$'\n'"$context"$'\n'* ]] || return 0
  done
  [[ -z ${DRY_RUN:-} ]] || return 0
  for location in "$region" "$ZONE"; do
    context=gke_${PROJECT}_${location}_$CLUSTER
    ! gcloud container clusters get-credentials "$CLUSTER" --location "$location" \
      --project "$PROJECT" 2>"$tmp/$location" || return 0
  done
  die "no credentials for $CLUSTER in $region or $ZONE: $(grep -m 1 ERROR "$tmp/$region" || true)"
}

kube() { run kubectl --context "$context" "$@"; }

image() {
  need IMAGE us-docker.pkg.dev/my-project/dmphn/tpu
  need ACCELERATOR v6e-16
  need_tool docker "https://docs.docker.com/engine/install"
  run docker build --file "$root/launch/docker/$(kind).Dockerfile" --tag "$IMAGE" "$root"
  run docker push "$IMAGE"
}

# Prints Completed or Failed, Running where it is neither, ABSENT where there is none, UNKNOWN where
# kubectl cannot tell.
state() {
  local said look=(get jobset "$NAME" --output 'jsonpath={.status.terminalState}')
  if [[ -n ${DRY_RUN:-} ]]; then
    kube "${look[@]}" >&3
    echo "${dry_state:-Completed}"
  elif said=$(kube "${look[@]}" 2>"$tmp/look"); then
    echo "${said:-Running}"
  elif said=$(<"$tmp/look") && [[ $said == *"(NotFound)"* ]]; then
    echo ABSENT
  else
    say "kubectl: ${said##*$'\n'}"
    echo UNKNOWN
  fi
}

# Sets `now` to the state, asked for a few times; ends the script where kubectl never tells.
look() {
  local tries
  for tries in 1 2 3 4 5; do
    [[ $tries == 1 ]] || pause
    now=$(state)
    [[ $now == UNKNOWN ]] || return 0
  done
  die "kubectl does not answer for $NAME (gcloud container clusters get-credentials $CLUSTER" \
    "--location ${ZONE%-*} --project $PROJECT); the same command goes on"
}

# xpk puts the command into YAML within double quotes and traps SIGTERM for the process it starts:
# hence no double quotes, and `exec`, so that this process is the run.
command_line() {
  local line supervise=--supervise
  [[ -z ${COMMAND:-} ]] || supervise=""
  line="exec python -m $module $(quoted ${supervise:+$supervise} "${work[@]}")"
  # JAX detects the hosts of a TPU. A lone GPU node must be told that it is: its pod, one of an
  # indexed job, cannot know.
  # shellcheck disable=SC2016 # for the pod's shell: xpk sets these for GPUs
  case $(kind)-$NODES-${COMMAND:+command} in
    tpu-*) ;;
    gpu-1-) line+=' --coordinator 127.0.0.1:12355 --num-processes 1 --process-id 0' ;;
    gpu-1-command) line+=' --process 0/1' ;;
    gpu-*-command) line+=' --process $NODE_RANK/$NNODES' ;;
    *) line+=' --coordinator $JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'\
' --num-processes $NNODES --process-id $NODE_RANK' ;;
  esac
  [[ $line != *'"'* && $line != *\\* ]] || die "no quotes or backslashes in flags, for xpk: $line"
  echo "$line"
}

create() {
  local line
  line=$(command_line)
  local command=(xpk workload create --workload "$NAME" "${where[@]}" --docker-image "$IMAGE"
    --max-restarts "$RESTARTS" --restart-on-exit-codes 75
    --termination-grace-period-seconds 120)
  if [[ $(kind) == tpu ]]; then
    command+=(--tpu-type "$ACCELERATOR" --num-slices "$SLICES")
  else
    command+=(--device-type "$ACCELERATOR" --num-nodes "$NODES")
  fi
  [[ -z ${STORAGE:-} ]] || command+=(--storage "$STORAGE")
  [[ -z ${SPOT:-} ]] || command+=(--spot)
  run "${command[@]}" --command "$line" || die "xpk did not create $NAME: see above"
}

remove() { run xpk workload delete --workload "$NAME" "${where[@]}" --force; }

follow() {
  kube logs --follow --tail 20 --all-containers --max-log-requests 1000 \
    --selector "$jobset,batch.kubernetes.io/job-completion-index=0"
}

train() {
  local now looks=0
  plan
  look
  # What has ended stands in the way of a new one of its name.
  case $now in Failed | Completed) remove ;; esac
  [[ $now == Running ]] || create
  dry_state=Completed
  while :; do
    look
    case $now in
      Completed) say "$NAME has come to its end"; return ;;
      Failed) say "$NAME failed: its last lines are above; the same command goes on"; return 1 ;;
      ABSENT) say "$NAME is gone; the same command starts it again"; return 1 ;;
    esac
    # Waits in the queue, runs, or is being restarted: logs end with their pod.
    follow || { looks=$((looks + 1))
      [[ $((looks % 20)) -ne 1 ]] || say "$NAME has no log yet: it waits for machines"; }
    pause
  done
}

exec 3>&1
case $action in
  image) image; exit ;;
  train | run)
    need ACCELERATOR "v6e-16 or h100-80gb-8"
    need IMAGE us-docker.pkg.dev/my-project/dmphn/tpu
    need_kind "$action"
    need_work
    [[ $action == run ]] || need DATA /data/gopro
    [[ $action == run ]] || need WORKDIR /data/runs/stack4 ;;
esac
need_workload
[[ $action == delete ]] || find_context
case $action in
  train | run) dry_state=ABSENT; train ;;
  status)
    run xpk workload list "${where[@]}" --filter-by-job "$NAME"
    look
    say "$NAME: $now" ;;
  log) follow ;;
  delete) remove ;;
esac
