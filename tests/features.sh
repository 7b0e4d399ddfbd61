#!/usr/bin/env bash
# The features that this machine can build and test, as arguments of cargo, one a line:
# MPI where its compiler and starter are there, and libclang, which its bindings are
# made with.
set -euo pipefail
has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm*/lib*/libclang*.so*' > /dev/null ||
        { command -v ldconfig > /dev/null && ldconfig -p | grep -q 'libclang[-.0-9]*so'; }
}
if command -v mpicc > /dev/null && command -v mpirun > /dev/null && has_libclang; then
    printf '%s\n' --features spin-fit/mpi
fi
