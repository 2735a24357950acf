#!/usr/bin/env bash
# The kit for a machine with a GPU that has neither Rust nor a network: programs, stripped and packed.
#
#   benches/gpu/build.sh FOLDER [FEATURES]     # cuda,wgpu,kernel-cache unless others are named
#
# Writes FOLDER/kit.tar.xz, and the same in parts of 24 MB, kit.tar.xz.00 and so on. With `cuda` half an
# hour of compiling on one core, with `kernel-cache` more; what `cuda` links must be there: benches/gpu/llvm.sh.
set -euo pipefail
folder=$(mkdir -p "$1" && realpath "$1")
features=${2:-cuda,wgpu,kernel-cache}
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}

programs=(text_to_image bench_full_size shape_sweep warm_up)
# In one go, so that all share the crates that they depend on. A test's program has a hash in its name;
# cargo says which it is.
conformance=$(cargo build --release --locked -p sd-examples -p sd-pipeline --features "$features" \
    "${programs[@]/#/--example=}" --test conformance --message-format json-render-diagnostics |
    sed -n 's/.*"name":"conformance".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)

kit=$folder/kit
rm -rf "$kit" && mkdir -p "$kit"
for program in "${programs[@]}"; do
    strip -o "$kit/$program" "$target/release/examples/$program"
done
strip -o "$kit/conformance" "$conformance"
# The programs are alike but for their beginning: one dictionary over all of them.
tar -C "$folder" -c kit | xz -T1 --lzma2=preset=6,dict=512MiB > "$folder/kit.tar.xz"
rm -f "$folder"/kit.tar.xz.*
split -b 24M -d "$folder/kit.tar.xz" "$folder/kit.tar.xz."
ls -l "$folder"
