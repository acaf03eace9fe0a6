# Hosts of TPU v4 slices: torch_xla with libtpu.
#
#   docker build -f infra/images/tpu.Dockerfile -t REGION-docker.pkg.dev/PROJECT/vim/tpu:TAG .
#
# from the repository's root. libtpu is the version that torch_xla 2.9.0 asks for.
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
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint infra/constraints.txt '.[gcp,tpu]' libtpu==0.0.21

# GKE sets what the slice is; nobody has to ask the metadata server.
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 PJRT_DEVICE=TPU TPU_SKIP_MDS_QUERY=1
USER 10001:10001
