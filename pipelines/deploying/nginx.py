"""The configuration of nginx in front of MLflow, Dagster and Ray: TLS, one login for all, nothing passed on unasked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HEAD = """\
worker_processes auto;
pid {temporary}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}

http {{
    access_log {access_log};
    server_tokens off;
    client_body_temp_path {temporary}/body;
    proxy_temp_path {temporary}/proxy;
    fastcgi_temp_path {temporary}/fastcgi;
    uwsgi_temp_path {temporary}/uwsgi;
    scgi_temp_path {temporary}/scgi;
{resolver}
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache shared:tls:10m;
    add_header Strict-Transport-Security "max-age=31536000" always;

    auth_basic "VIM";
    auth_basic_user_file {htpasswd};

    # Artifacts of any size go through; answers come as they are made.
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_buffering off;
    proxy_read_timeout 1h;
    proxy_http_version 1.1;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto https;
    # The login is for this gate alone. Ray has a token of its own, by X-Ray-Authorization or its cookie.
    proxy_set_header Authorization "";
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $upgraded;
    map $http_upgrade $upgraded {{ default upgrade; "" ""; }}
    # In an address, this makes nginx look the name up when it is asked for, not when it starts.
    map "" $late {{ default ""; }}

    server {{
        listen {listen}{http_port} default_server;
        server_name _;
        location = /healthz {{ auth_basic off; return 200 "ok\\n"; }}
        location / {{ auth_basic off; return 301 https://$host{public_port}$request_uri; }}
    }}
    server {{
        listen {listen}{https_port} ssl default_server;
        server_name _;
        # A name that is not ours gets no certificate.
        ssl_reject_handshake on;
    }}
"""
SITE = """\
    server {{
        listen {listen}{https_port} ssl;
        server_name {name};
        location / {{ proxy_pass {upstream}; }}
{more}    }}
"""
JOBS = """\
        # Each job's own cluster, by the name of its head's service.
        location ~ ^/([a-z0-9-]+-head-svc)/(.*)$ {{
            proxy_pass http://$1.{domain}:{port}/$2$is_args$args;
        }}
"""


@dataclass(frozen=True)
class Gate:
    """Where nginx listens and finds its files; `address` '' is every interface, `resolver` '' is none."""

    certificate: str
    key: str
    htpasswd: str
    http_port: int
    https_port: int
    public_port: int = 443
    address: str = ""
    resolver: str = ""
    temporary: str = "/tmp"
    access_log: str = "/dev/stdout"


def config(gate: Gate, sites: Mapping[str, str], more: Mapping[str, str] | None = None) -> str:
    """The whole nginx.conf; `sites` are upstream addresses by server name, `more` further text for one of them."""
    listen = f"{gate.address}:" if gate.address else ""
    head = HEAD.format(
        listen=listen, http_port=gate.http_port, https_port=gate.https_port, certificate=gate.certificate,
        key=gate.key, htpasswd=gate.htpasswd, temporary=gate.temporary, access_log=gate.access_log,
        public_port="" if gate.public_port == 443 else f":{gate.public_port}",
        resolver=f"    resolver {gate.resolver} valid=30s;" if gate.resolver else "",
    )  # fmt: skip
    servers = [
        SITE.format(
            listen=listen, https_port=gate.https_port, name=name, upstream=upstream, more=(more or {}).get(name, "")
        )
        for name, upstream in sites.items()
    ]
    return head + "".join(servers) + "}\n"
