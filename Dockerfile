# syntax=docker/dockerfile:1
#
# docker build -t dfwatch .                              for CPUs
# docker build -t dfwatch:cuda --build-arg VARIANT=cuda .  for CUDA
#
# PyPI's torch carries CUDA, several GB of it. The CPU image drops what a CPU never loads; what torch is linked against
# stays. A much smaller one needs PyTorch's own index of CPU builds (its installation page names the address):
# --build-arg TORCH_INDEX=ADDRESS
#
# Run it with a read-only root; everything it writes lies under /srv/dfwatch (one volume, because files are renamed from
# one of its folders to another) and /tmp. deploy/compose.yaml shows the whole.

ARG VARIANT=cpu
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/dfwatch

# torch and torchvision come from one index: those of two do not fit each other.
FROM base AS torch-cpu
ARG TORCH_INDEX=""
RUN /opt/dfwatch/bin/pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.8,<3" "torchvision>=0.23,<1"
COPY deploy/drop_cuda.py /tmp/
RUN /opt/dfwatch/bin/python /tmp/drop_cuda.py

FROM base AS torch-cuda
RUN /opt/dfwatch/bin/pip install "torch>=2.8,<3" "torchvision>=0.23,<1"

# hadolint ignore=DL3006
FROM torch-${VARIANT} AS build
# openvino: an engine that may be faster on a CPU; the service measures which one is. Sinks: EXTRAS=metrics,openvino,sinks
ARG EXTRAS=metrics,openvino
WORKDIR /src
COPY pyproject.toml README.md LICENSE config.yaml ./
COPY dfwatch ./dfwatch
COPY model ./model
COPY systemd ./systemd
RUN /opt/dfwatch/bin/pip wheel --no-deps --wheel-dir /wheels . \
 && /opt/dfwatch/bin/pip install "$(echo /wheels/dfwatch-*.whl)[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
LABEL org.opencontainers.image.title="dfwatch" \
      org.opencontainers.image.description="A watch-folder daemon for deepfake detection" \
      org.opencontainers.image.licenses="MIT"
RUN groupadd --system --gid 10001 dfwatch \
 && useradd --system --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin dfwatch \
 && install -d -o dfwatch -g dfwatch -m 2770 /srv/dfwatch
COPY --from=build /opt/dfwatch /opt/dfwatch
COPY deploy/container.yaml /etc/dfwatch/config.yaml
ENV PATH=/opt/dfwatch/bin:$PATH HOME=/tmp XDG_CACHE_HOME=/tmp/cache \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# By number, so that Kubernetes' runAsNonRoot can tell.
USER 10001:10001
WORKDIR /srv/dfwatch
VOLUME /srv/dfwatch
# Loading the model takes a while; after that an answer takes milliseconds.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=5)"]
ENTRYPOINT ["dfwatch"]
CMD ["run", "--config", "/etc/dfwatch/config.yaml"]
