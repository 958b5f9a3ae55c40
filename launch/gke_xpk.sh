#!/usr/bin/env bash
# GKE with XPK: a workload on a TPU cluster that `xpk cluster create` has made.
# Not run on GKE by this project. Needs xpk, gcloud and docker, logged in.
#
#   CLUSTER=my-cluster TYPE=v6e-16 launch/gke_xpk.sh configs/stack4.py --config.batch_size=64 \
#       --workdir=/data/runs/stack4 --config.data.data_dir=/data
#
# /data stands for a volume that the cluster mounts (`xpk storage attach`). Pods find one another
# through TPU_WORKER_HOSTNAMES. A preempted pod gets SIGTERM, saves,
# ends with 75, which is a failure to Kubernetes, and is started again.
set -euo pipefail
config=${1:?usage: CLUSTER= TYPE= launch/gke_xpk.sh CONFIG [flags]}
shift
cluster=${CLUSTER:?a cluster}
type=${TYPE:?a TPU type, such as v6e-16}
printf -v flags '%q ' --config "$config" "$@"
xpk workload create \
  --cluster "$cluster" \
  --workload "${NAME:-dmphn-$(date +%m%d-%H%M)}" \
  --tpu-type "$type" \
  --num-slices "${SLICES:-1}" \
  --base-docker-image "${IMAGE:-python:3.11}" \
  --script-dir . \
  --max-restarts "${RESTARTS:-20}" \
  --command "pip install -q -e . 'jax[tpu]>=0.10,<0.12' && exec python -m dmphn_jax.main $flags"
