#!/usr/bin/env bash
# Tests and measures the CUDA kernels on a machine that has no more than a driver and CUDA's libraries.
#
#   benches/gpu.sh build [UNET.onnx]   where Rust is: puts programs and the UNet's graph without its weights into target/gpu
#   benches/gpu.sh run [PART...]       where the GPU is, with the repository and target/gpu: writes docs/gpu/DATE-DEVICE.md, or adds to
#                                      it; parts are tests, sanitizers and speed, all of them if none is named
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
    for test in operators reference moments; do
        cargo test --release --locked --no-run --test $test --message-format=json \
            | python3 -c 'import json,sys
for line in sys.stdin:
    found = json.loads(line)
    if found.get("executable") and found["target"]["kind"] == ["test"]: print(found["executable"])' \
            | while read -r program; do cp "$program" $gpu/$test; done
    done
    strip $gpu/sara $gpu/operators $gpu/reference $gpu/moments
    # The tests look for their files where they were compiled.
    pwd > $gpu/root
    git rev-parse --short HEAD > $gpu/commit
    if [ $# -gt 0 ]; then
        mkdir -p $gpu/unet
        cp "$1" $gpu/unet/model.onnx
        data=("$(dirname "$1")"/*_data)
        [ ${#data[@]} -eq 1 ] && [ -e "${data[0]}" ] || { echo "one file of weights is expected beside $1" >&2 && exit 1; }
        echo "$(basename "${data[0]}") $(stat -c %s "${data[0]}")" > $gpu/unet/size
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
    if [ $code -ne 0 ]; then failed=$((failed + 1)); fi
}

tests() {
    printf '\n## Tests on the device\n' >> "$doc"
    for precision in highest high tf32; do show env SARA_TEST_PRECISION=$precision $gpu/operators cuda_; done
    show $gpu/moments cuda_
    show $gpu/reference cuda_ --include-ignored --nocapture --test-threads=1
    printf '\n## Comparison with ONNX Runtime\n' >> "$doc"
    if $gpu/sara doctor | grep -q 'loaded, version'; then
        for model in tests/reference/*.dynamo.onnx; do show $gpu/sara verify "$model" --device cuda; done
    else
        echo "Nothing was compared: there is no ONNX Runtime (ORT_DYLIB_PATH)." >> "$doc"
    fi
}

sanitizers() {
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
}

speed() {
    printf '\n## Speed\n' >> "$doc"
    if [ ! -e $gpu/unet/size ]; then
        echo "Nothing was measured: target/gpu was built without a UNet." >> "$doc"
        return
    fi
    [ -e $gpu/unet/"$(cut -d' ' -f1 $gpu/unet/size)" ] || noise
    local seq=seq
    if grep -qa sequence_length $gpu/unet/model.onnx; then seq=sequence_length; fi
    local bench=($gpu/sara bench $gpu/unet/model.onnx --device cuda --dim height=64 --dim width=64 --dim $seq=77 --trainable-params 5M)
    for batch in 1 4; do
        for precision in bf16 no; do
            show "${bench[@]}" --dim batch=$batch --mixed-precision $precision --repeat 10
        done
    done
    show "${bench[@]}" --mixed-precision bf16 --weights streamed --repeat 3
    # On both sides of where masked gradients go from entries to tiles: of linear layers and of convolutions, in single precision, and of
    # convolutions in bfloat16. Each pair should take about the same.
    local flat=("$gpu/sara" bench "$gpu/unet/model.onnx" --device cuda --dim batch=1 --dim height=64 --dim width=64 --dim $seq=77 --repeat 3)
    for density in 0.5% 0.55% 4% 4.4%; do show "${flat[@]}" --density $density; done
    for density in 0.5% 0.6%; do show "${flat[@]}" --density $density --mixed-precision bf16; done
    local peers=lora,lora-bf16,lora-compiled,lora-bf16-compiled
    if python3 -c 'import onnxruntime as o; assert "CUDAExecutionProvider" in o.get_available_providers()' 2> /dev/null; then
        peers=onnxruntime,$peers
    else
        echo "ONNX Runtime was not measured: its CUDA provider is not here." >> "$doc"
    fi
    if python3 -c 'import torch, diffusers, peft' 2> /dev/null; then
        for batch in 1 4; do
            show python3 benches/peers.py $gpu/sara $gpu/unet/model.onnx --device cuda --batch $batch --ours sara,sara-bf16 --peers $peers
        done
    else
        echo "PyTorch was not measured: torch, diffusers and peft are not here." >> "$doc"
    fi
}

run() {
    local root device
    root=$(cat $gpu/root)
    if [ ! -e "$root" ]; then mkdir -p "$(dirname "$root")" && ln -s "$PWD" "$root"; fi
    export CUDA_HOME=${CUDA_HOME:-/usr/local/cuda} SARA_TEST_DEVICE=cuda:0 RUST_BACKTRACE=0
    device=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1 | tr ' ' '-')
    mkdir -p docs/gpu
    doc=docs/gpu/$(date +%F)-${device:-none}.md
    failed=0
    if [ ! -e "$doc" ]; then
        {
            echo "# ${device:-no device}, $(date +%F)"
            echo
            echo "Commit $(cat $gpu/commit), driver $(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -1)."
        } > "$doc"
        show $gpu/sara doctor
    fi
    [ $# -gt 0 ] || set -- tests sanitizers speed
    for part in "$@"; do $part; done
    cat "$doc"
    echo "$failed commands failed"
    [ $failed -eq 0 ]
}

case ${1:-} in
    build) shift && build "$@" ;;
    run)
        shift
        for part in "$@"; do
            case $part in tests | sanitizers | speed) ;; *) echo "there is no part $part: tests, sanitizers, speed" >&2 && exit 2 ;; esac
        done
        run "$@"
        ;;
    *) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
