#!/bin/sh
# The whole experiment of this recipe: sh run.sh DATA_ROOT [WORKSPACE]
# DATA_ROOT holds hh-rlhf/*.jsonl.gz. Each step's result goes to WORKSPACE/results/STEP.json, its seconds to seconds.txt.
# Given again after an interruption, it goes on with the first step that has no result.
set -eu

PREFLOOP_DATA_ROOT=$(cd "${1:?usage: sh run.sh DATA_ROOT [WORKSPACE]}" && pwd)
export PREFLOOP_DATA_ROOT
recipe=$(cd "$(dirname "$0")" && pwd)
workspace=${2:-ppo_hh_small}

step() { # NAME COMMAND...: runs `prefloop COMMAND... --json` in the workspace
    name=$1
    result=$workspace/results/$name.json
    shift
    [ ! -e "$result" ] || return 0
    began=$(date +%s)
    echo "[$name] prefloop $*" >&2
    prefloop "$@" --workspace "$workspace" --json >"$result.part"
    mv "$result.part" "$result"
    echo "$name $(($(date +%s) - began))" >>"$workspace/results/seconds.txt"
}

train() { # NAME STAGE: a training run from NAME.toml, resumed where it was begun before
    begun=$(find "$workspace/runs" -maxdepth 1 -name "$2-ppohh_$1-*")
    step "$1" train "$2" "$recipe/$1.toml" ${begun:+--resume}
}

[ -e "$workspace/prefloop.toml" ] || prefloop init "$workspace" >&2
mkdir -p "$workspace/results"

step import_harmless_base import hh-rlhf hh-rlhf/harmless-base.jsonl.gz --tranche base --mode red_team
step import_helpful_base import hh-rlhf hh-rlhf/helpful-base.jsonl.gz --tranche base --mode helpful
step import_online import hh-rlhf hh-rlhf/helpful-online.jsonl.gz --tranche online --mode helpful
step import_rejection import hh-rlhf hh-rlhf/helpful-rejection-sampled.jsonl.gz --tranche rejection_sampled --mode helpful

train lm lm
train sft lm
train pm_a preference
train pm_b preference
train policy policy
step policy_report eval policy ppohh_policy --base ppohh_sft --pm ppohh_pm_a --pm ppohh_pm_b \
    --max-response-tokens 32 --html "$workspace/policy.html"
step best_of eval best-of ppohh_sft --pm ppohh_pm_a --judge ppohh_pm_b --beside ppohh_policy --samples 32 \
    --max-response-tokens 32 --html "$workspace/best_of.html"

cat "$workspace/results/seconds.txt"
