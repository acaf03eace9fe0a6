"""The gateway on Kubernetes: nginx behind a load balancer, with certificate and passwords out of Secrets."""

from __future__ import annotations

import hashlib

from pipelines.deploying import nginx
from pipelines.deploying.deployment import DAGSTER_PORT, MLFLOW_PORT, Deployment
from pipelines.deploying.objects import (
    HTPASSWD_SECRET,
    TLS_SECRET,
    config_map,
    container,
    deployment,
    pod,
    probe,
    service,
)  # fmt: skip
from pipelines.jobs.manifests import DASHBOARD_PORT, Manifest

HTTP_PORT, HTTPS_PORT = 8080, 8443
IMAGE = "nginxinc/nginx-unprivileged:1.28"
NGINX_USER = 101
STANDING = "vim"
"""The RayCluster that stays, where there is one."""


def gateway(made: Deployment) -> list[Manifest]:
    """Configuration, nginx and its address."""
    text = configuration(made)
    mounts = [
        {"name": "configuration", "mountPath": "/etc/nginx/nginx.conf", "subPath": "nginx.conf", "readOnly": True},
        {"name": "tls", "mountPath": "/etc/vim/tls", "readOnly": True},
        {"name": "htpasswd", "mountPath": "/etc/vim/htpasswd", "readOnly": True},
        {"name": "temporary", "mountPath": "/tmp"},
    ]
    server = container(
        "nginx", IMAGE, ["nginx", "-g", "daemon off;"], [], "250m", "256Mi",
        ports=[{"containerPort": HTTP_PORT}, {"containerPort": HTTPS_PORT}],
        readinessProbe=probe("/healthz", HTTP_PORT), volumeMounts=mounts,
    )  # fmt: skip
    volumes = [
        {"name": "configuration", "configMap": {"name": "gateway"}},
        {"name": "tls", "secret": {"secretName": TLS_SECRET}},
        {"name": "htpasswd", "secret": {"secretName": HTPASSWD_SECRET}},
        {"name": "temporary", "emptyDir": {}},
    ]
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    ports = {"http": (80, HTTP_PORT), "https": (443, HTTPS_PORT)}
    return [
        config_map(made.namespace, "gateway", {"nginx.conf": text}),
        deployment(made.namespace, "gateway", pod([server], "default", NGINX_USER, volumes=volumes), digest),
        # Local: nginx, and with that its log, sees the callers' own addresses.
        service(made.namespace, "gateway", ports, type="LoadBalancer", externalTrafficPolicy="Local"),
    ]


def configuration(made: Deployment) -> str:
    """nginx.conf for this deployment."""
    gate = nginx.Gate(
        certificate="/etc/vim/tls/tls.crt", key="/etc/vim/tls/tls.key", htpasswd="/etc/vim/htpasswd/htpasswd",
        http_port=HTTP_PORT, https_port=HTTPS_PORT, resolver="kube-dns.kube-system.svc.cluster.local",
    )  # fmt: skip
    domain = f"{made.namespace}.svc.cluster.local"
    # By variables, so that nginx starts although a cluster or a server is not there, and asks for its address anew.
    sites = {
        made.site("mlflow"): _lazily(f"{made.host('mlflow')}:{MLFLOW_PORT}"),
        made.site("dagster"): _lazily(f"{made.host('dagster-web')}:{DAGSTER_PORT}"),
        made.site("ray"): _lazily(f"{STANDING}-head-svc.{domain}:{DASHBOARD_PORT}"),
    }
    return nginx.config(gate, sites, {made.site("ray"): nginx.JOBS.format(domain=domain, port=DASHBOARD_PORT)})


def _lazily(upstream: str) -> str:
    host, _, port = upstream.rpartition(":")
    return f"http://{host}$late:{port}"
