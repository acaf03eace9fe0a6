# MLflow, Dagster and the backups of their database.
#
#   docker build -f infra/images/server.Dockerfile -t REGION-docker.pkg.dev/PROJECT/vim/server:TAG .
#
# from the repository's root. pg_dump must not be older than the server it reads.
FROM python:3.11-slim-trixie

RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home vim \
    && install --directory --owner=vim --group=vim /opt/dagster /var/lib/vim /var/lib/vim/backups

WORKDIR /opt/vim
COPY pyproject.toml README.md LICENSE ./
COPY infra/constraints.txt infra/constraints.txt
COPY vim_core vim_core
COPY components components
COPY pipelines pipelines
COPY infra/postgres/backup.sh infra/postgres/restore.sh postgres/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    --constraint infra/constraints.txt '.[gcp,gke,postgres]'

ENV PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true DAGSTER_DISABLE_TELEMETRY=true
USER 10001:10001
