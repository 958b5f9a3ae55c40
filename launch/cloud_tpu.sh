#!/usr/bin/env bash
# Cloud TPU by a queued resource: asks for a slice, installs on every worker, trains.
# Not run on Cloud TPU by this project. Needs gcloud, logged in, and a project.
#
#   NAME=dmphn ZONE=us-east5-a TYPE=v6e-16 launch/cloud_tpu.sh configs/stack4.py \
#       --config.batch_size=64 --config.data.data_dir=/mnt/data --workdir=/mnt/data/runs/stack4
#
# Every worker runs the same command; JAX finds the others by the machine's metadata. Only worker 0
# writes the run's folder: name one on a disk that outlives the slice. A spot slice gets SIGTERM
# before it goes: the run saves, and the same command goes on from there.
set -euo pipefail
config=${1:?usage: NAME= ZONE= TYPE= launch/cloud_tpu.sh CONFIG [flags]}
shift
name=${NAME:-dmphn}
zone=${ZONE:?a zone, such as us-east5-a}
type=${TYPE:?an accelerator type, such as v6e-16}
version=${RUNTIME:-v2-alpha-tpuv6e}
repository=${REPOSITORY:-$(git remote get-url origin)}

if ! gcloud compute tpus queued-resources describe "$name" --zone "$zone" >/dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$name" --node-id "$name" --zone "$zone" \
    --accelerator-type "$type" --runtime-version "$version" ${SPOT:+--spot}
fi
echo "waiting for $name"
while state=$(gcloud compute tpus queued-resources describe "$name" --zone "$zone" \
  --format 'value(state.state)'); do
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPENDED) echo "$name: $state" >&2; exit 1 ;;
  esac
  sleep 30
done

on_all() { gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker all --command "$1"; }
printf -v clone '%q' "$repository"
on_all "test -d dmphn_jax || git clone $clone dmphn_jax; cd dmphn_jax && git pull --ff-only &&
  python3 -m venv .venv && .venv/bin/pip install -q -e . 'jax[tpu]>=0.10,<0.12'"
printf -v flags '%q ' --config "$config" "$@"
on_all "cd dmphn_jax && .venv/bin/python -m dmphn_jax.main $flags"
echo "the slice is still there: gcloud compute tpus queued-resources delete $name --zone $zone --force"
