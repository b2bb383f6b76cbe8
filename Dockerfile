# syntax=docker/dockerfile:1
# The image of workers, commands and jobs: Debian's glibc, wheels only, locked by hash, a user without rights.
#
#   docker build --tag payout-streams:0.1.0 .
#
# The base image is named by a tag, because its digest has to be looked up where images can be pulled. What pays must be
# built from a digest:
#
#   docker buildx imagetools inspect python:3.11-slim-bookworm
#   docker build --build-arg PYTHON_IMAGE=python@sha256:… --tag payout-streams:0.1.0 .
#
# amd64 only: faust-streaming publishes no wheel for Linux on arm64, and nothing is compiled here.
# tests/chart/test_chart_image.py does the same steps from the same files, without Docker.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
COPY requirements/build.txt requirements/runtime.in requirements/runtime.txt requirements/
# The extra is there, and imported only where PAYOUTS_TRACING asks for it.
COPY requirements/tracing.in requirements/tracing.txt requirements/
RUN python -m venv --without-pip /opt/payouts \
    && python -m pip --python /opt/payouts/bin/python install --no-cache-dir --disable-pip-version-check \
       --require-hashes --only-binary :all: -r requirements/runtime.txt \
    && python -m pip --python /opt/payouts/bin/python install --no-cache-dir --disable-pip-version-check \
       --require-hashes --only-binary :all: -r requirements/tracing.txt \
    && python -m pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore \
       --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md ./
COPY schemas schemas
COPY processors processors
COPY ledger ledger
COPY streams streams
COPY policies policies
COPY ops ops
COPY sandbox sandbox
RUN python -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation --no-index \
       --wheel-dir /wheels . \
    && python -m pip --python /opt/payouts/bin/python install --no-cache-dir --disable-pip-version-check \
       --no-deps --no-index /wheels/payout_streams-*.whl \
    && python -m pip --python /opt/payouts/bin/python check

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="payout-streams" \
      org.opencontainers.image.description="Payout requests on Kafka, paid once through Visa Direct"
RUN groupadd --gid 10001 payouts \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/payouts --shell /usr/sbin/nologin payouts \
    && install --directory --owner 10001 --group 10001 /var/lib/payouts
COPY --from=build /opt/payouts /opt/payouts
ENV PATH=/opt/payouts/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Faust makes an empty directory where it is started.
WORKDIR /var/lib/payouts
USER 10001:10001
EXPOSE 6066 6067
STOPSIGNAL SIGTERM
# Of a worker that listens where the settings say; Kubernetes ignores it and has probes of its own.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('PAYOUTS_HTTP_PORT', '6066') + '/health', timeout=4)"]
ENTRYPOINT ["payouts"]
CMD ["--help"]
