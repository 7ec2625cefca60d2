#!/bin/sh
# The whole experiment of this recipe: sh run.sh [WORKSPACE]. Given again after an interruption, it goes on.
set -eu

recipe=$(cd "$(dirname "$0")" && pwd)
workspace=${1:-pm_sandbox_curves}

[ -e "$workspace/prefloop.toml" ] || prefloop init "$workspace" >&2

language_model() { # HIDDEN LAYERS HEADS
    [ ! -e "$workspace/curves_lm_$1.json" ] || return 0
    begun=$(find "$workspace/runs" -maxdepth 1 -name "lm-curves_lm_$1-*")
    prefloop train lm "$recipe/lm.toml" --workspace "$workspace" --json ${begun:+--resume} \
        --set "name=curves_lm_$1" --set "shape.hidden=$1" --set "shape.layers=$2" --set "shape.heads=$3" \
        >"$workspace/curves_lm_$1.part"
    mv "$workspace/curves_lm_$1.part" "$workspace/curves_lm_$1.json"
}

language_model 16 2 2
language_model 32 2 2
language_model 64 3 4
language_model 128 4 4

begun=$(find "$workspace/runs" -maxdepth 1 -name "scan-pm_sandbox_curves-*")
prefloop eval scan "$recipe/scan.toml" --workspace "$workspace" --html "$workspace/curves.html" ${begun:+--resume}
