#!/usr/bin/env bash
# Copy into DIRECTORY every shared library that the FILEs need and the base image has not.
#
#     carry-libraries.sh BASE_SONAMES DIRECTORY FILE...
#
# BASE_SONAMES: a file with the sonames that the base image's loader finds, one a line (`ldconfig -p`, first column).
# Asking the loader beats a list of packages: what Triton links (DCGM, curl, libxml2, numa, b64, re2 …) and in which
# version changes from release to release.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

sonames=$1 directory=$2
shift 2
mkdir -p "$directory"

{
    for file in "$@"; do
        ldd "$file" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }'
    done
    # No loader knows these: cuDNN, DCGM and NVRTC open their own parts by name, when they are first used.
    ldconfig -p | awk '$1 ~ /^lib(cudnn|dcgm|nvrtc).*\.so\.[0-9.]+$/ { print $1, $NF }'
} | sort -u | while read -r soname path; do
    case $path in
        /opt/tritonserver/*) ;;                                   # copied as it lies
        *) grep -qxF -- "$soname" "$sonames" || cp -L -- "$path" "$directory/$soname" ;;
    esac
done
