#!/usr/bin/env bash
# Tests and measures the CUDA kernels on a machine that has no more than a driver and CUDA's libraries.
#
#   benches/gpu.sh build [UNET.onnx]   where Rust is: puts programs and the UNet's graph without its weights into target/gpu
#   benches/gpu.sh run                 where the GPU is, with the repository and target/gpu: writes docs/gpu/DATE-DEVICE.md
#
# The weights of the UNet, which only have to have a size, are noise made on the spot. compute-sanitizer, PyTorch with diffusers and
# peft, and ONNX Runtime's CUDA provider are used where they are found, and named in the document where they are not.
set -uo pipefail
cd "$(dirname "$0")/.."
gpu=target/gpu

build() {
    set -e
    mkdir -p $gpu
    cargo build --release --locked
    cp target/release/sara $gpu/
    for test in operators reference; do
        cargo test --release --locked --no-run --test $test --message-format=json \
            | python3 -c 'import json,sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["kind"] == ["test"]: print(found["executable"])' \
            | while read -r program; do cp "$program" $gpu/$test; done
    done
    strip $gpu/sara $gpu/operators $gpu/reference
    # The tests look for their files where they were compiled.
    pwd > $gpu/root
    git rev-parse --short HEAD > $gpu/commit
    if [ $# -gt 0 ]; then
        mkdir -p $gpu/unet
        cp "$1" $gpu/unet/model.onnx
        for data in "$(dirname "$1")"/*_data; do
            echo "$(basename "$data") $(stat -c %s "$data")" > $gpu/unet/size
        done
    fi
    du -sh $gpu
}

noise() {
    python3 - "$gpu/unet" <<'PY'
import array, os, random, sys
folder = sys.argv[1]
name, size = open(f"{folder}/size").read().split()
random.seed(0)
block = array.array("f", (random.gauss(0, 0.02) for _ in range(1 << 20))).tobytes()
with open(f"{folder}/{name}", "wb") as out:
    for at in range(0, int(size), len(block)):
        out.write(block[: int(size) - at])
PY
}

# Runs a command, and writes it and the end of what it said into the document.
show() {
    printf '\n```\n$ %s\n' "$*" >> "$doc"
    "$@" > $gpu/said 2>&1
    local code=$?
    tail -n 60 $gpu/said | cut -c1-160 >> "$doc"
    printf '```\nexit code %s\n' $code >> "$doc"
}

run() {
    local root device
    root=$(cat $gpu/root)
    if [ ! -e "$root" ]; then mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"; fi
    export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda} SARA_TEST_DEVICE=cuda:0 RUST_BACKTRACE=0
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '-')
    mkdir -p docs/gpu
    doc=docs/gpu/$(date +%F)-${device:-none}.md
    {
        echo "# ${device:-no device}, $(date +%F)"
        echo
        echo "Commit $(cat $gpu/commit), driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)."
    } > "$doc"
    show $gpu/sara doctor
    printf '\n## Tests on the device\n' >> "$doc"
    for precision in highest high tf32; do show env SARA_TEST_PRECISION=$precision $gpu/operators cuda_; done
    show $gpu/reference cuda_ --include-ignored --nocapture --test-threads=1
    printf '\n## Memory and races\n' >> "$doc"
    local sanitizer
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | head -1)
    for tool in memcheck racecheck initcheck synccheck; do
        if [ -n "$sanitizer" ]; then
            show "$sanitizer" --tool $tool --error-exitcode 9 $gpu/operators cuda_
        else
            echo "$tool was not run: there is no compute-sanitizer." >> "$doc"
        fi
    done
    printf '\n## Speed\n' >> "$doc"
    if [ -e $gpu/unet/size ]; then
        noise
        for batch in 1 4; do
            for precision in bf16 no; do
                show $gpu/sara bench $gpu/unet/model.onnx --device cuda --dim batch=$batch --dim height=64 --dim width=64 --dim seq=77 \
                    --trainable-params 5M --mixed-precision $precision --repeat 10
            done
        done
        show $gpu/sara bench $gpu/unet/model.onnx --device cuda --dim height=64 --dim width=64 --dim seq=77 \
            --trainable-params 5M --mixed-precision bf16 --weights streamed --repeat 3
        if python3 -c 'import torch, diffusers, peft' 2> /dev/null; then
            show python3 benches/peers.py $gpu/sara $gpu/unet/model.onnx --device cuda --peers lora,lora-bf16,lora-bf16-compiled
        else
            echo "PyTorch was not measured: torch, diffusers and peft are not here." >> "$doc"
        fi
    else
        echo "Nothing was measured: target/gpu was built without a UNet." >> "$doc"
    fi
    cat "$doc"
}

case ${1:-} in
    build) shift && build "$@" ;;
    run) run ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
