# shellcheck shell=bash
# What the launch scripts share: names, checks, dry runs, the plan. Sourced, not run.
#
# Every name is a flag, else a variable of the environment: DMPHN_NAME, else NAME.
# Runs under the bash 3.2 of macOS.
# shellcheck disable=SC2034 # what the scripts that source this use

COMMON_FLAGS="flags, or variables (DMPHN_ZONE=... for --zone; ZONE=... too, and it is said):
  --name NAME           of the job: names what is created (dmphn)
  --project PROJECT     of Google Cloud
  --zone ZONE           such as us-east5-b
  --accelerator TYPE    such as v6e-16, v5litepod-16, h100-80gb-8
  --config FILE[:ARG]   the experiment, such as configs/stack4.py
  --command LINE        in its place, for \`run\`: 'deblur IN --checkpoint C --output OUT' or
                        'evaluate C --data D --report OUT', shared by all hosts; OUT is seen by all
  --data PLACE          the prepared data
  --workdir PLACE       the run's folder
  --restarts N          how often a run that was stopped or lost a process is started again (20)
  --no-plan             look for no mistakes in settings and buckets, and print no \`dmphn plan\`
  --dry-run             print the commands, run none
and fields of the config: --config.FIELD=VALUE"

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

say() { echo "${0##*/}: $*" >&2; }

# Sets the variables from "$@"; --config.FIELD=VALUE goes to `overrides`. A script names its own
# flags in `own_flags` and its switches (no value) in `own_switches`, by the variables they set.
parse() {
  overrides=() given=" "
  local known=" NAME PROJECT ZONE ACCELERATOR CONFIG COMMAND DATA WORKDIR RESTARTS"
  known+=" ${own_flags:-} "
  local switches=" DRY_RUN NO_PLAN ${own_switches:-} "
  local flag value variable
  while [[ $# -gt 0 ]]; do
    flag=$1
    shift
    case $flag in
      --help | -h) usage; exit 0 ;;
      --config.*) overrides+=("$flag"); continue ;;
      --*) ;;
      *) die "unexpected argument $flag; --help tells more" ;;
    esac
    variable=$(tr 'a-z-' 'A-Z_' <<<"${flag#--}")
    variable=${variable%%=*}
    [[ $variable =~ ^[A-Z_]+$ && "$known$switches" == *" $variable "* ]] ||
      die "unknown flag ${flag%%=*}; --help tells more"
    if [[ $flag == *=* ]]; then
      value=${flag#*=}
    elif [[ $switches == *" $variable "* ]]; then
      value=1
    else
      [[ $# -gt 0 ]] || die "$flag needs a value"
      value=$1
      shift
    fi
    printf -v "$variable" %s "$value"
    given+="$variable "
  done
  take_variables "$known$switches"
  for variable in $switches; do # SPOT=0 is off
    case ${!variable:-} in 0 | [Ff]alse | FALSE | [Nn]o | NO) printf -v "$variable" "" ;; esac
  done
  NAME=${NAME:-dmphn}
  RESTARTS=${RESTARTS:-20}
  POLL=${POLL:-30} # seconds between two looks
  [[ $NAME =~ ^[a-z][a-z0-9-]{0,38}[a-z0-9]$ ]] ||
    die "--name $NAME$(from NAME): lower-case letters, digits and hyphens, 2 to 40 of them, a letter first"
  [[ $RESTARTS =~ ^[0-9]+$ ]] || die "--restarts $RESTARTS$(from RESTARTS): a whole number needed"
}

# Takes what no flag gave from the environment. A bare name may be there for something else (NAME
# under WSL, say): it is told.
take_variables() {
  local variable named taken=()
  for variable in $1; do
    [[ $given != *" $variable "* ]] || continue
    named=DMPHN_$variable
    if [[ -n ${!named:-} ]]; then
      printf -v "$variable" %s "${!named}"
    elif [[ -n ${!variable:-} ]]; then
      taken+=("$variable=${!variable}")
    fi
  done
  [[ ${#taken[@]} -eq 0 ]] || say "taken from the environment: $(quoted "${taken[@]}")"
}

# Names the variable that a flag's value came from, "" if it was the flag.
from() {
  local named=DMPHN_$1
  [[ $given != *" $1 "* && -n ${!1:-} ]] || return 0
  [[ -n ${!named:-} ]] || named=$1
  echo " (from the variable $named)"
}

# Names the flag of a variable.
flag() { echo "--$(tr 'A-Z_' 'a-z-' <<<"$1")"; }

# need VARIABLE EXAMPLE: ends with a line if it is not set.
need() { [[ -n ${!1:-} ]] || die "$(flag "$1") (or $1=) is needed, such as $2"; }

# need_tool PROGRAM WHERE: ends with a line if it is not installed. A dry run needs none.
need_tool() {
  [[ -n ${DRY_RUN:-} ]] || command -v "$1" >/dev/null || die "$1 is not installed: $2"
}

# A config of the project, or a file in the working folder, must be there before anything is paid.
need_config() {
  need CONFIG configs/stack4.py
  [[ -f ${CONFIG%%:*} || -f $root/${CONFIG%%:*} ]] || die "--config $CONFIG$(from CONFIG): no such file"
}

# What the hosts run: `work` is the arguments of on_host.sh or of the trainer, `module` the module
# that takes them. Ends with a line if it makes no sense, before anything is paid.
need_work() {
  local data=${1:-${DATA:-}} workdir=${2:-${WORKDIR:-}}
  if [[ -z ${COMMAND:-} ]]; then
    need_config
    module=dmphn_jax.main
    work=(--config "$CONFIG" ${data:+--config.data.data_dir="$data"}
      ${workdir:+--workdir "$workdir"} ${overrides[@]+"${overrides[@]}"})
    return
  fi
  module=dmphn_jax
  local lines out=""
  lines=$(xargs printf '%s\n' <<<"$COMMAND" 2>/dev/null) || die "--command$(from COMMAND): a quote is not closed"
  work=()
  while IFS= read -r word; do work+=("$word"); done <<<"$lines"
  case ${work[0]} in
    deblur) out='--output|-o' ;;
    evaluate) out='--report' ;;
    *) die "--command$(from COMMAND): deblur or evaluate needed, not '${work[0]}'" ;;
  esac
  [[ " ${work[*]} " =~ \ ($out)[\ =] ]] ||
    die "--command: ${out%|*} FOLDER is needed: what the hosts share"
  [[ " ${work[*]} " != *" --process"[\ =]* ]] || die "--command: --process is added here"
  [[ ${#overrides[@]} -eq 0 && -z ${CONFIG:-} ]] ||
    die "--config$(from CONFIG) and --command$(from COMMAND) exclude one another"
}

# `train` takes a config, `run` a command.
need_kind() {
  if [[ $1 == run ]]; then
    need COMMAND "'deblur photos --checkpoint stack4 --output sharp'"
  else
    [[ -z ${COMMAND:-} ]] || die "--command$(from COMMAND) goes with the action run"
  fi
}

# Prints words as a shell reads them back, quoted only where they must be.
quoted() {
  local word line="" plain='^[A-Za-z0-9_@%+=:,./~-]+$'
  for word in "$@"; do
    [[ $word =~ $plain ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Runs a command; in a dry run prints it.
run() {
  if [[ -n ${DRY_RUN:-} ]]; then quoted "$@"; else "$@"; fi
}

pause() { [[ -n ${DRY_RUN:-} || $POLL == 0 ]] || sleep "$POLL"; }

# Statuses after which the same command goes on: stopped and saved, or a process was lost (killed,
# aborted, out of reach). 2 is a mistake, 130 a person.
restarts_on() { [[ $1 == 75 || $1 == 134 || $1 == 137 || $1 == 143 || $1 == 255 ]]; }

# Prints which of a job's statuses tells how it ended: a mistake, a fault or a person before what is
# started again, since the processes that lose another one end with 75.
rank() {
  local status others=""
  for status in "$@"; do
    [[ $status == 0 ]] || restarts_on "$status" || others+=" $status"
  done
  for status in 2 1 130 $others 75 137 134 143 255; do
    [[ " $* " != *" $status "* ]] || { echo "$status"; return; }
  done
  echo 0
}

# Prints a Python that has the project: of the environment that `make plan` (or plan-gpu) has made
# with the compiler for the devices $1, else of the checkout's own. Fails where there is none.
project_python() {
  local environment python
  case $1 in v[0-9]*) environment=.venv-plan ;; *) environment=.venv-plan-gpu ;; esac
  for python in "$root/$environment/bin/python" "$root/.venv/bin/python"; do
    [[ ! -x $python ]] || { echo "$python"; return; }
  done
  return 1
}

# Runs a command where CONFIG is found: here, or in the checkout.
by_config() { ([[ -f ${CONFIG%%:*} ]] || cd "$root" || exit; "$@"); }

# `dmphn plan` of such a Python, else of PATH.
dmphn_plan() {
  local python
  if python=$(project_python "$1"); then
    by_config "$python" -m dmphn_jax plan "${@:2}"
  else
    dmphn plan "${@:2}"
  fi
}

# Names the accelerator as `dmphn plan --devices` does: v5litepod-16 -> v5e:4x4. "" if it has none.
devices() {
  local type=$1 count chips
  count=${type##*-}
  [[ $count =~ ^[0-9]+$ ]] || return 0
  case $type in
    v6e-* | v5litepod-* | v5e-*)
      case $count in
        1) chips=1x1 ;; 4) chips=2x2 ;; 8) chips=2x4 ;; 16) chips=4x4 ;; 32) chips=4x8 ;;
        64) chips=8x8 ;; 128) chips=8x16 ;; 256) chips=16x16 ;; *) return 0 ;;
      esac
      if [[ $type == v6e-* ]]; then echo "v6e:$chips"; else echo "v5e:$chips"; fi ;;
    v4-* | v5p-*) # counted in cores, two a chip
      case $count in
        8) chips=2x2x1 ;; 16) chips=2x2x2 ;; 32) chips=2x2x4 ;; 64) chips=2x4x4 ;;
        128) chips=4x4x4 ;; 256) chips=4x4x8 ;; 512) chips=4x8x8 ;; 1024) chips=8x8x8 ;;
        *) return 0 ;;
      esac
      echo "${type%-*}:$chips" ;;
    h100-* | h200-*) echo "${type%%-*}:$((count * ${NODES:-1}))" ;;
  esac
}

# What hosts get of the checkout is $commit: ends with a line if the config is not in it.
need_committed() {
  git -C "$root" cat-file -e "$commit:${CONFIG%%:*}" 2>/dev/null ||
    die "--config $CONFIG: not in ${commit:0:12}, which is all the hosts get: git add, git commit"
}

# Ends with a line if there is no such bucket. Whether the hosts may use one only they can tell.
need_buckets() {
  local variable bucket seen=" " said
  for variable in DATA WORKDIR; do
    bucket=${!variable:-}
    [[ $bucket == gs://* ]] || continue
    bucket=${bucket#gs://}
    bucket=gs://${bucket%%/*}
    [[ $seen != *" $bucket "* ]] || continue
    seen+="$bucket "
    if [[ -n ${DRY_RUN:-} ]]; then run gcloud storage ls "$bucket"; continue; fi
    command -v gcloud >/dev/null || continue
    said=$(gcloud storage ls "$bucket" 2>&1 >/dev/null </dev/null) && continue
    case $said in
      *404* | *"does not exist"* | *"nvalid bucket name"*)
        die "$(flag "$variable") ${!variable}$(from "$variable"): no such bucket: ${said##*$'\n'}" ;;
      *) say "$bucket cannot be looked at from here: ${said##*$'\n'}" ;;
    esac
  done
}

# Ends with a line if no run can have these settings on the devices $1, as `dmphn plan` names them.
check_settings() {
  local python said status=0
  python=$(project_python "$1") || python=python3
  local command=("$python" "$root/launch/check.py" "$1" "${SLICES:-1}" "$CONFIG"
    ${overrides[@]+"${overrides[@]}"})
  if [[ -n ${DRY_RUN:-} ]]; then run "${command[@]}"; return; fi
  said=$(by_config "${command[@]}" 2>&1) || status=$?
  [[ $said != *"dmphn: error: "* ]] || die "${said##*dmphn: error: }"
  [[ $status == 0 ]] || say "the settings are not checked: no Python here has the project's packages"
}

# The last look before anything is created: prints what the run will need there, where the
# accelerator's compiler is at hand; else says how to get it. Ends the script with a line if the run
# cannot start, or will not fit.
plan() {
  local name
  [[ -z ${commit:-} || -n ${COMMAND:-} ]] || need_committed
  [[ -z ${NO_PLAN:-} ]] || return 0
  need_buckets
  [[ -z ${COMMAND:-} ]] || return 0
  name=$(devices "${ACCELERATOR:-}")
  check_settings "$name"
  if [[ -n $name ]]; then
    table "$name"
  elif [[ -n ${ACCELERATOR:-} ]]; then
    say "no plan: --accelerator $ACCELERATOR is none that \`dmphn plan\` knows"
  else
    say "no plan: --accelerator is not given, such as h100-80gb-8"
  fi
}

# The plan for the devices $1.
table() {
  local said status=0 flags=(--config "$CONFIG" --devices "$1" ${overrides[@]+"${overrides[@]}"})
  if [[ -n ${DRY_RUN:-} ]]; then
    quoted dmphn plan "${flags[@]}"
    return
  fi
  said=$(dmphn_plan "$1" "${flags[@]}" 2>&1) || status=$?
  [[ ${SLICES:-1} -eq 1 || $status -gt 1 ]] ||
    say "planned as if one slice took the whole batch, which $SLICES share"
  case $status in
    0) printf '%s\n' "$said" ;;
    1)
      printf '%s\n' "$said"
      [[ ${SLICES:-1} -gt 1 ]] || die "the run does not fit; --no-plan starts it all the same" ;;
    *) say "no plan: ${said##*$'\n'}" ;;
  esac
}

given=" " # by flags
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
