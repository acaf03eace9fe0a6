# Ray nodes with NVIDIA GPUs, for a Ray cluster of your own (profiles with kind: jobs).
#
#   docker build -f infra/images/cuda.Dockerfile -t REGION-docker.pkg.dev/PROJECT/vim/cuda:TAG .
#
# from the repository's root. PyPI's torch brings the CUDA libraries; the driver comes from the host.
FROM python:3.11-slim-trixie

RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home vim

WORKDIR /opt/vim
COPY pyproject.toml README.md LICENSE ./
COPY infra/constraints.txt infra/constraints.txt
COPY vim_core vim_core
COPY components components
COPY pipelines pipelines
RUN pip install --no-cache-dir --constraint infra/constraints.txt '.[gcp]'

ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
