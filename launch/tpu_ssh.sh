# shellcheck shell=bash
# How cloud_tpu.sh runs a command on the hosts of a queued resource. Sourced, not run.
# shellcheck disable=SC2154 # what the script that sources this sets

# What each host says last. gcloud itself only warns, with status 0, of nodes that it cannot prepare
# for ssh, such as preempted ones.
token="cloud_tpu.sh: ended"

# Passes lines on, but what hosts say last goes to file $1 as "STATUS on HOST".
sieve() {
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    if [[ $line == *"$token "* ]]; then
      echo "${line##*"$token "}" >>"$1"
      line=${line%%"$token "*}
      [[ -n $line ]] || continue
    fi
    printf '%s\n' "$line"
  done
}

# on WORKER COMMAND: in one host (N of the first slice, or SLICE.N), or in "all" of all slices.
# Returns the status that ranks first; 255 unless each host has said that its command has ended.
on() {
  local node=0 worker=$1 broke=0 nodes="" hosts=""
  case $1 in all) node=all ;; *.*) node=${1%.*} worker=${1#*.} ;; esac
  local command=("${resources[@]}" ssh "$NAME" "${where[@]}" --node "$node" --worker "$worker"
    --command "($2); echo $token \$? on \$(hostname)")
  if [[ -n ${DRY_RUN:-} ]]; then
    run "${command[@]}"
    return
  fi
  : >"$tmp/ends"
  { { "${command[@]}" 2>&4 4>&- 5>&- | sieve "$tmp/ends" >&5; } 4>&1 |
    tee "$tmp/said" >&2; } 5>&1 || broke=1
  if [[ $node == all ]]; then
    # As gcloud says itself whom it has set out for.
    local to='s/.*SSH into \([0-9]*\) nodes with a total of \([0-9]*\) workers.*/\1 \2/p'
    read -r nodes hosts < <(sed -n "$to" "$tmp/said") || true
    [[ ${nodes:-$SLICES} -ge $SLICES ]] || broke=1
    hosts=${hosts:-$SLICES}
  fi
  endings=$(grep -E '^[0-9]+ on ' "$tmp/ends" || true)
  [[ $broke == 0 && $(grep -c . <<<"$endings") -ge ${hosts:-1} ]] || return 255
  # shellcheck disable=SC2046 # words
  return "$(rank $(cut -d ' ' -f 1 <<<"$endings"))"
}

# Says so if hosts did not answer.
answered() {
  local status=0
  "$@" || status=$?
  [[ $status != 255 ]] || say "$NAME cannot be reached"
  return "$status"
}
