#!/usr/bin/env bash
# Exit with 0 when the Triton at 127.0.0.1:PORT says over gRPC that it and all its models are ready.
#
#     healthcheck.sh [PORT]
#
# HTTP is off, and the image holds no gRPC client. So this is one gRPC call written out: the HTTP/2 preface, empty
# SETTINGS, the HEADERS and the empty message of inference.GRPCInferenceService/ServerReady.
set -eu

method=/inference.GRPCInferenceService/ServerReady   # 43 bytes: \x2b below

exec 3<>"/dev/tcp/127.0.0.1/${1:-8001}"
{
    printf 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
    printf '\0\0\0\x04\0\0\0\0\0'                                  # SETTINGS, none
    printf '\0\0\x5a\x01\x04\0\0\0\x01'                            # HEADERS: 90 bytes, END_HEADERS, stream 1
    printf '\x83\x86'                                              #   :method POST, :scheme http
    printf '\x04\x2b%s' "$method"                                  #   :path
    printf '\x01\x09localhost'                                     #   :authority
    printf '\x0f\x10\x10application/grpc'                          #   content-type
    printf '\0\x02te\x08trailers'                                  #   te
    printf '\0\0\x05\0\x01\0\0\0\x01' && printf '\0\0\0\0\0'       # DATA: 5 bytes, END_STREAM: an empty message
} >&3

# The answer "ready: true" is the message 08 01 behind its length, 00 00 00 00 02, and before the next frame, which
# begins with 00: between two NULs stand exactly these three bytes. "Not ready" is an empty message, so grep waits on.
LC_ALL=C timeout 3 grep -zqaxF $'\x02\x08\x01' <&3
