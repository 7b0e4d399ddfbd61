#!/usr/bin/env bash
# An archive with which a machine that has a GPU's driver and nothing else can run gpu-check:
# tests/gpu-pack.sh PROGRAMS OUT.tar.xz, where PROGRAMS is a directory with built programs.
# There: tar xf OUT.tar.xz && spin-gpu/check [FLAGS OF gpu-check]
set -euo pipefail
programs=${1:?PROGRAMS} out=${2:?OUT.tar.xz}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/spin-gpu/bin" "$work/spin-gpu/data/raw" "$work/spin-gpu/tests"
for program in spin-store spin-sample spin-pair spin-fit gpu-check; do
    strip -o "$work/spin-gpu/bin/$program" "$programs/$program"
done
cp -r data/raw/demo "$work/spin-gpu/data/raw/"
mkdir "$work/spin-gpu/tests/bench"
cp tests/bench/gpu_peer.py "$work/spin-gpu/tests/bench/"
cp LICENSE "$work/spin-gpu/"
cat > "$work/spin-gpu/check" << 'END'
#!/usr/bin/env bash
# CUDA's libraries (libcudart, libcublas, libcublasLt, libcurand, libnvrtc) must be found: by LD_LIBRARY_PATH, or in a
# Python with torch, given as --python.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")"
python=
for ((i = 1; i < $#; i++)); do if [ "${!i}" = --python ]; then j=$((i + 1)); python=${!j}; fi; done
if [ -n "$python" ]; then
    libraries=$("$python" -c 'import glob, os, nvidia; print(":".join(sorted({os.path.dirname(f) for p in nvidia.__path__ for f in glob.glob(p + "/*/lib/lib*.so*")})))' || true)
    export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
exec bin/gpu-check --out gpu.json "$@"
END
chmod +x "$work/spin-gpu/check"
# The programs share much: the dictionary is to reach from one to the next.
tar -C "$work" -c spin-gpu | xz --lzma2=preset=6,dict=384MiB > "$out"
echo "wrote $out: $(($(stat -c %s "$out") / 1048576)) MiB"
