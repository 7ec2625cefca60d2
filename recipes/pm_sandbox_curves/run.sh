#!/bin/sh
# The whole experiment of this recipe: sh run.sh [WORKSPACE]. Given again after an interruption, it goes on.
set -eu

recipe=$(cd "$(dirname "$0")" && pwd)
workspace=${1:-pm_sandbox_curves}

[ -e "$workspace/prefloop.toml" ] || prefloop init "$workspace" >&2

trained() { # NAME STAGE RUN...
    name=$1 stage=$2
    shift 2
    [ ! -e "$workspace/$name.json" ] || return 0
    begun=$(find "$workspace/runs" -maxdepth 1 -name "$stage-$name-*")
    prefloop train "$stage" "$@" --set "name=$name" --workspace "$workspace" --json ${begun:+--resume} \
        >"$workspace/$name.part"
    mv "$workspace/$name.part" "$workspace/$name.json"
}

start() { # HIDDEN LAYERS HEADS: a language model of that size, then PM pre-training
    trained "curves_lm_$1" lm "$recipe/lm.toml" \
        --set "shape.hidden=$1" --set "shape.layers=$2" --set "shape.heads=$3"
    trained "curves_pmp_$1" preference "$recipe/pmp.toml" --set "start=curves_lm_$1"
}

start 16 2 2
start 32 2 2
start 64 3 4
start 128 4 4

begun=$(find "$workspace/runs" -maxdepth 1 -name "scan-pm_sandbox_curves-*")
prefloop eval scan "$recipe/scan.toml" --workspace "$workspace" --html "$workspace/curves.html" ${begun:+--resume}
