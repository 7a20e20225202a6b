"""What `GET /config` says about the platform: its services, projects, and resource presets."""

from typing import Any

from .names import CLUSTER, ORGS, PROJECTS

GIB = 2**30

#: Presets of a local job are labels: its process may use the whole machine. The first is the default.
PRESETS: dict[str, dict[str, Any]] = {
    name: {"name": name, "credits_per_hour": "0", "cpu": cpu, "memory": memory * GIB}
    for name, cpu, memory in [("cpu-small", 1.0, 4), ("cpu-medium", 2.0, 8), ("cpu-large", 4.0, 16)]
}


def config(api_url: str) -> dict[str, Any]:
    """Build the answer for clients that reach the API at `api_url` (`http://127.0.0.1:PORT/api/v1`)."""
    root = api_url.rsplit("/api/", 1)[0]
    cluster = {
        "name": CLUSTER,
        "orgs": list(ORGS),
        "registry_url": f"{root}/registry",
        "storage_url": f"{api_url}/storage",
        "users_url": f"{api_url}/users",
        "monitoring_url": f"{api_url}/monitoring",
        "secrets_url": f"{api_url}/secrets",
        "disks_url": f"{api_url}/disks",
        "buckets_url": f"{api_url}/buckets",
        "resource_pool_types": [
            {
                "name": "local",
                "min_size": 1,
                "max_size": 1,
                "cpu": 4.0,
                "memory": 16 * GIB,
                "disk_size": 100 * GIB,
            }
        ],
        "resource_presets": list(PRESETS.values()),
    }
    return {
        # Nobody logs in by browser here, yet clients insist on the addresses.
        "auth_url": f"{root}/authorize",
        "token_url": f"{root}/token",
        "logout_url": f"{root}/logout",
        "client_id": "local",
        "audience": "local",
        "headless_callback_url": f"{root}/headless",
        "authorized": True,
        "clusters": [cluster],
        "projects": [
            {"name": project.name, "cluster_name": CLUSTER, "org_name": project.org, "role": "owner"}
            for project in PROJECTS
        ],
    }
