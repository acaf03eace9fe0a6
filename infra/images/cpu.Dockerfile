# Ray nodes without an accelerator: heads, and workers of components that run on CPUs.
#
#   docker build -f infra/images/cpu.Dockerfile -t REGION-docker.pkg.dev/PROJECT/vim/cpu:TAG .
#
# from the repository's root. All Ray nodes of a cluster need the same Python and Ray: build all images from one commit.
FROM python:3.11-slim-trixie

# KubeRay's probes call wget; torch.compile wants a compiler.
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
# The CPU builds carry no CUDA libraries, which saves several GB; they have the lock's versions.
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint infra/constraints.txt '.[gcp]'

ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
USER 10001:10001
