#!/usr/bin/env bash
# LLVM 23.1 from PyPI where the build of the features `cuda`, `rocm` and `cpu` looks for it, for
# machines that reach no GitHub: a crate of CubeCL's would else download it from there.
#
#   benches/gpu/llvm.sh          # needs python3 with pip, and 400 MB
#
# The wheels hold static libraries, headers and llvm-config for Linux on x86-64.
set -euo pipefail

version=23.1.0-4 # of tracel-llvm-bundler in Cargo.lock
wheels=(mlc-llvm-static==23.1.1.post0 mlc-llvm-static-extra-targets==23.1.1.post0)
locked=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p}' "$(dirname "$0")/../../Cargo.lock")
if [ "$locked" != "$version" ]; then
    echo "Cargo.lock has tracel-llvm-bundler $locked, this script sets up $version: look for wheels of its LLVM" >&2
    exit 1
fi
target="${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$version"
if [ -e "$target/.tracel-llvm-installed" ]; then
    echo "already there: $target"
    exit
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m pip install --quiet --no-deps --only-binary :all: --target "$scratch/wheels" "${wheels[@]}"
# Whole or nothing: the file that says it is installed comes last.
config=$(find "$scratch/wheels" -name llvm-config -type f | head -n 1)
if [ -z "$config" ]; then
    echo "no llvm-config in ${wheels[*]}" >&2
    exit 1
fi
prefix=$(dirname "$(dirname "$config")")
chmod +x "$config"
# The second wheel's targets may lie in a folder of their own.
find "$scratch/wheels" -name 'libLLVM*.a' -not -path "$prefix/*" -exec mv -t "$prefix/lib" {} +
mkdir -p "$(dirname "$target")"
rm -rf "$target"
mv "$prefix" "$target"
"$target/bin/llvm-config" --version
"$target/bin/llvm-config" --targets-built | grep -q NVPTX || { echo "no NVPTX among the targets" >&2; exit 1; }
touch "$target/.tracel-llvm-installed"
echo "LLVM is in $target"
