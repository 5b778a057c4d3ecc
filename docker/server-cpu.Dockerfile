# syntax=docker/dockerfile:1.7
#
# A server for machines without a GPU: `clipdex serve`, with onnxruntime and OpenVINO.
#
#     docker build -f docker/server-cpu.Dockerfile -t clipdex-server-cpu .
#
# NVIDIA's image has an OpenVINO backend of its own, but that computes full batches only, however few rows there are
# (docs/cpu.md). So this one takes Triton and both runtimes from pip.

# constraints.txt is of Python 3.11. nvidia-pytriton's Triton needs a shared libpython, which this image has.
ARG PYTHON_VERSION=3.11.14
# A tag can be moved, a digest cannot: --build-arg PYTHON_DIGEST=sha256:… pins the bytes too.
ARG PYTHON_DIGEST=
ARG PYTHON_IMAGE=python:${PYTHON_VERSION}-slim-bookworm${PYTHON_DIGEST:+@${PYTHON_DIGEST}}

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /source
COPY locks locks/
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes -r locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client/
COPY export export/
COPY server server/
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${PYTHON_IMAGE}
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --only-binary=:all: -c /tmp/constraints.txt \
        "$(echo /wheels/clipdex-*.whl)[cli,local,openvino]" \
    && pip check \
    && rm /tmp/constraints.txt
COPY --chmod=755 docker/healthcheck.sh /usr/local/bin/healthcheck.sh

# The root is meant to be read-only. /tmp must allow programs: Triton's Python backend runs from a copy there.
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1
USER 1000:1000
WORKDIR /tmp
EXPOSE 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["/usr/local/bin/healthcheck.sh", "8001"]
ENTRYPOINT ["clipdex", "serve", "--repository=/models", "--host=0.0.0.0", "--port=8001"]
CMD ["--no-client-shm"]
