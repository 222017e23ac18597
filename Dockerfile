# CPU:   docker build -t kdcompress .
# CUDA:  docker build -t kdcompress --build-arg BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
# A smaller image for the CPU: --build-arg PIP_EXTRA_INDEX_URL=... names PyTorch's own index of CPU packages. pip reads it.
ARG BASE=debian:trixie-slim
FROM ${BASE}

ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=tensorrt-rtx

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends -y ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --user-group --shell /bin/bash kd \
    && install -d -o 10001 -g kd /opt/kdcompress /work
USER 10001
ENV PATH=/opt/kdcompress/bin:$PATH PYTHONUNBUFFERED=1

COPY --chown=10001:kd constraints.txt /tmp/kdcompress/
RUN python3 -m venv /opt/kdcompress \
    && pip install --no-cache-dir --constraint /tmp/kdcompress/constraints.txt torch torchvision
COPY --chown=10001:kd . /tmp/kdcompress
RUN pip install --no-cache-dir --constraint /tmp/kdcompress/constraints.txt "/tmp/kdcompress[${EXTRAS}]"

WORKDIR /work
ENTRYPOINT ["kdcompress"]
CMD ["doctor"]
