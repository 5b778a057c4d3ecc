# syntax=docker/dockerfile:1.7
#
# Triton with its ONNX Runtime backend and nothing else, for an NVIDIA GPU.
#
#     docker build -f docker/server.Dockerfile -t clipdex-server .
#
# NVIDIA's full image has a dozen backends, Python among them. As NVIDIA's own compose.py does, this one starts from
# the `-min` image of the same release (Ubuntu, CUDA, cuDNN, TensorRT; no Triton) and takes from the full one the
# server, its library, one backend, and the system libraries these three link. docs/docker.md says more.

# 26.09 is Triton 2.73. The two images must be of one release: the server links its CUDA libraries by version.
ARG TRITON_RELEASE=26.09
# A tag can be moved, a digest cannot: --build-arg FULL_DIGEST=sha256:… BASE_DIGEST=sha256:… pins the bytes too.
ARG FULL_DIGEST=
ARG BASE_DIGEST=
ARG FULL_IMAGE=nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3${FULL_DIGEST:+@${FULL_DIGEST}}
ARG BASE_IMAGE=nvcr.io/nvidia/tritonserver:${TRITON_RELEASE}-py3-min${BASE_DIGEST:+@${BASE_DIGEST}}

FROM ${BASE_IMAGE} AS base-libraries
USER 0:0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN ldconfig -p | awk 'NR > 1 { print $1 }' | sort -u > /base-sonames

FROM ${FULL_IMAGE} AS full
USER 0:0
COPY --from=base-libraries /base-sonames /base-sonames
COPY docker/carry-libraries.sh /carry-libraries.sh
RUN bash /carry-libraries.sh /base-sonames /carried \
        /opt/tritonserver/bin/tritonserver \
        /opt/tritonserver/lib/*.so* \
        /opt/tritonserver/backends/onnxruntime/*.so*

FROM ${BASE_IMAGE}
USER 0:0
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Nothing here belongs to the user it runs as: a server that is taken over cannot change its own program.
RUN rm -rf /opt/tritonserver
WORKDIR /opt/tritonserver
COPY --from=full /opt/tritonserver/LICENSE /opt/tritonserver/NVIDIA_Deep_Learning_Container_License.pdf ./
COPY --from=full /opt/tritonserver/TRITON_VERSION ./
COPY --from=full /opt/tritonserver/bin/tritonserver bin/tritonserver
COPY --from=full /opt/tritonserver/lib lib/
COPY --from=full /opt/tritonserver/backends/onnxruntime backends/onnxruntime/
COPY --from=full /carried /opt/tritonserver/carried/
COPY --chmod=755 docker/healthcheck.sh /opt/tritonserver/healthcheck.sh

# A build that lacks a library, or whose server does not know the flag that keeps shared memory off, fails here and
# not in production. libcuda and libnvidia-ml belong to the driver: the container runtime adds them at start.
RUN echo /opt/tritonserver/carried > /etc/ld.so.conf.d/zz-tritonserver.conf && ldconfig \
    && ldd bin/tritonserver lib/*.so* backends/onnxruntime/*.so* \
        | awk '/not found/ && !/lib(cuda|nvidia-ml)\.so/ { print; missing = 1 } END { exit missing }' \
    && { bin/tritonserver --help 2>&1 || true; } | grep -e --allow-client-shm

# Where TensorRT keeps engines: a volume that is mounted there takes over who owns it. Empty unless a model asks for it.
RUN install -d -o 1000 -g 1000 /var/cache/clipdex

# NVIDIA_TF32_OVERRIDE: float32 stays float32. TensorFloat-32 would round products to 10 bits, and TensorRT has no other
# switch for it. UCX_MEM_EVENTS: as NVIDIA's images set it. HOME: CUDA's cache of compiled kernels needs a place, and with a
# read-only root there is only /tmp. NVIDIA_DRIVER_CAPABILITIES: no video or graphics libraries of the driver.
ENV PATH=/opt/tritonserver/bin:${PATH} \
    NVIDIA_TF32_OVERRIDE=0 \
    UCX_MEM_EVENTS=no \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# By number, so that Kubernetes' runAsNonRoot can see that it is not root. The client image uses the same one: shared
# memory that a client makes is readable to its own user.
USER 1000:1000
EXPOSE 8001 8002

# A real gRPC ServerReady call; see the script. Triton opens its port when the models are loaded, which for a large
# model on a cold disk takes minutes: failures within the start period do not count.
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["/opt/tritonserver/healthcheck.sh", "8001"]

# What never changes is the entrypoint, and the same as `clipdex serve` uses:
#   nothing is loaded, unloaded or completed by guesses after the start; a model that does not load ends the server;
#   ready means that every model is; HTTP is off. The addresses are the container's own: who may reach them is for
#   `docker run -p` or compose.yaml to say. Metrics (Prometheus) are for the containers of the same network.
ENTRYPOINT ["/opt/tritonserver/bin/tritonserver", \
    "--model-repository=/models", \
    "--model-control-mode=none", \
    "--disable-auto-complete-config", \
    "--exit-on-error=true", \
    "--strict-readiness=true", \
    "--exit-timeout-secs=30", \
    "--allow-http=false", \
    "--allow-grpc=true", \
    "--grpc-address=0.0.0.0", \
    "--grpc-port=8001", \
    "--allow-metrics=true", \
    "--metrics-address=0.0.0.0", \
    "--metrics-port=8002"]

# What a deployment may want to change is the command.
#   allow-client-shm  off: a client names a segment and the server maps it. That is for a client on the same host,
#                     whom the server trusts: compose.shm.yaml. (It is also Triton's default, since 26.04.)
#   pinned memory     staging between the network and the GPU. A full bulk request is 64 × 224 × 224 × 3 bytes =
#                     9.6 MB, or 21.7 MB at 336 px: 512 MiB hold two dozen of the larger ones, Triton's default of
#                     256 MB eleven. Beyond it Triton takes pageable memory, which is slower.
#   CUDA memory       the same tensors on GPU 0, inputs and outputs of the batches in flight; Triton's default is
#                     64 MB. Give the flag once more for each further GPU. Weights and activations are not in it.
CMD ["--allow-client-shm=false", \
    "--pinned-memory-pool-byte-size=536870912", \
    "--cuda-memory-pool-byte-size=0:268435456"]
