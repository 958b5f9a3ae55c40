#!/usr/bin/env bash
# Plain GPU hosts, reached over ssh: one process per host, started from here.
# Not run on several machines by this project; two processes on one machine are tested.
#
#   launch/hosts.sh "gpu1 gpu2 gpu3" ~/dmphn_jax configs/stack4.py --config.batch_size=24
#
# The first host is process 0: it writes the run's folder, on its own disk. The data must be
# readable under the same path on every host. Exit status 75: the run was asked to stop and has
# saved; the same command goes on from there.
set -euo pipefail
read -ra hosts <<<"${1:?usage: launch/hosts.sh \"HOST ...\" FOLDER CONFIG [flags]}"
folder=${2:?the checkout on every host}
config=${3:?a config}
shift 3
port=${PORT:-12355}

stop() { kill -TERM "${processes[@]}" 2>/dev/null || true; }
trap stop INT TERM
processes=()
for i in "${!hosts[@]}"; do
  # -tt: when the connection ends, by an interrupt here too, the remote process gets SIGHUP and
  # saves before it ends.
  printf -v flags '%q ' --config "$config" --coordinator "${hosts[0]}:$port" \
    --num-processes "${#hosts[@]}" --process-id "$i" "$@"
  ssh -tt "${hosts[$i]}" "cd $folder && exec .venv/bin/python -m dmphn_jax.main $flags" &
  processes+=($!)
done
status=0
for process in "${processes[@]}"; do wait "$process" || status=$?; done
exit "$status"
