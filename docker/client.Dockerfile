# syntax=docker/dockerfile:1.7
#
# The thin client with its command line: no torch, no ONNX, no Triton.
#
#     docker build -f docker/client.Dockerfile -t clipdex .

ARG PYTHON_VERSION=3.12.12
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
# Built by what was installed above by hash: an environment of its own would be filled without.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM ${PYTHON_IMAGE}
COPY locks /tmp/locks
# Every file by hash; then the wheel, whose hash nobody can know before, without what it depends on.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tmp/locks/base.txt -r /tmp/locks/cli.txt \
    && pip install --no-cache-dir --no-deps /wheels/clipdex-*.whl \
    && pip check \
    && rm -r /tmp/locks

# A named volume takes over who owns the directory it is mounted on: this is where indexes go.
RUN install -d -o 1000 -g 1000 /index
VOLUME /index

# The root is meant to be read-only: what may be written is /index, where the cards and tokenizers of the served
# models are kept too, and /tmp.
ENV HOME=/tmp \
    CLIPDEX_CACHE=/index/.cache \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /index
ENTRYPOINT ["clipdex"]
CMD ["--help"]
