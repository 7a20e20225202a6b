"""Live flows with the older action, as people have them: names, releases, volumes, stores."""

from __future__ import annotations

VOLUME = """
volumes:
  mlruns:
    remote: storage:${{ flow.flow_id }}/mlruns
    mount: /usr/local/share/mlruns
"""
TRAIN = """
  train:
    image: python:3.11-slim
    volumes:
      - ${{ volumes.mlruns.ref_rw }}
    bash: |
      python3 -c "import sys, urllib.request as u; print('says', u.urlopen(sys.argv[1]).read())" \
        http://${{ inspect_job('mlflow').internal_hostname_named }}:5000/health
"""


def one(job: str, action: str, args: str, volumes: str = VOLUME, rest: str = "") -> str:
    """Return a flow with one server."""
    lines = "\n".join(f"      {line}" for line in args.strip().splitlines())
    head = f"kind: live\ntitle: my project\n{volumes}\njobs:\n  {job}:\n    action: {action}\n    args:\n"
    return f"{head}{lines}\n{rest}"


SQLITE = """
backend_store_uri: sqlite:////${{ volumes.mlruns.mount }}/mlflow.db
%s: ${{ volumes.mlruns.mount }}
volumes: "${{ to_json( [volumes.mlruns.ref_rw] ) }}"
"""
ROOT_ARG, DESTINATION = "default_artifact_root", "artifacts_destination"
EXAMPLE = """
volumes:
  mlflow_artifacts:
    remote: storage:${{ flow.flow_id }}/mlflow_artifacts
    mount: /usr/local/share/mlflow
"""
EXAMPLE_ARGS = SQLITE.replace("mlruns", "mlflow_artifacts")
DISK = """
volumes:
  db:
    remote: disk:mlflow-db
    mount: /mnt/db
  artifacts:
    remote: storage:team/artifacts
    mount: /mnt/artifacts
"""
DISK_ARGS = """
backend_store_uri: sqlite:///${{ volumes.db.mount }}/mlflow.db
artifacts_destination: ${{ volumes.artifacts.mount }}
volumes: >-
  ${{ to_json([volumes.db.ref_rw, volumes.artifacts.ref_rw]) }}
"""
POSTGRES = """
  postgres:
    image: postgres:12.5
    http_port: 5432
    http_auth: False
    life_span: 30d
    detach: True
    env:
      POSTGRES_PASSWORD: secret:postgres
"""
POSTGRES_ARGS = """
backend_store_uri: postgresql://postgres@${{ inspect_job('postgres').internal_hostname_named }}:5432
default_artifact_root: /usr/local/share/mlruns
envs: '{"PGPASSWORD": "secret:postgres"}'
volumes: "${{ to_json( [volumes.mlruns.ref_rw] ) }}"
"""
FILES_ARGS = """
artifacts_destination: ${{ volumes.mlruns.mount }}
volumes: "${{ to_json( [volumes.mlruns.ref_rw] ) }}"
"""

NEURO, APOLO = "gh:neuro-actions/mlflow@", "gh:apolo-actions/mlflow@"
FLOWS = {
    "docs of 1.17": one("mlflow", f"{NEURO}v1.17.0", SQLITE % ROOT_ARG, rest=TRAIN),
    "example of 1.25": one("mlflow_server", f"{NEURO}v1.25.1", EXAMPLE_ARGS % ROOT_ARG, EXAMPLE),
    "1.20, quoted": one("mlflow", f'"{NEURO}v1.20.2"  # the server', SQLITE % ROOT_ARG),
    "example of 2.1.1": one("mlflow_server", f"{NEURO}master", EXAMPLE_ARGS % DESTINATION, EXAMPLE),
    "example of 3.1.4": one("mlflow_server", f"{APOLO}master", EXAMPLE_ARGS % DESTINATION, EXAMPLE),
    "a fork": one("tracking", "'gh:our-org/mlflow@v2.1.1'", SQLITE % DESTINATION),
    "database on a disk": one("mlflow", f"{APOLO}v3.1.4", DISK_ARGS, DISK),
    "http_auth": one("mlflow", f"{NEURO}v2.1.1", f'{SQLITE % DESTINATION}http_auth: "True"\n'),
    "http_auth off": one("mlflow", f"{NEURO}v1.23.0", f'{SQLITE % ROOT_ARG}http_auth: "False"\n'),
    "every argument": one(
        "mlflow",
        f"{APOLO}v3.1.4",
        f"{SQLITE % DESTINATION}life_span: 1d2h3m\nport: '4444'\njob_name: mlflow-server\npreset: cpu-small\n"
        "extra_params: --workers 2\nmode: server\n"
        """envs: "${{ to_json( { 'ENV1': 'env_1_value' } ) }}"\n""",
    ),
    "no backend store": one("mlflow", f"{NEURO}v2.1.1", FILES_ARGS),
    "file store": one(
        "mlflow",
        f"{NEURO}v1.17.0",
        "backend_store_uri: ${{ volumes.mlruns.mount }}/runs" + FILES_ARGS.replace(DESTINATION, ROOT_ARG),
    ),
    "PostgreSQL as a job": one("mlflow", f"{NEURO}v1.25.1", POSTGRES_ARGS, rest=POSTGRES),
    "braces, and blanks at a line's end": (
        "{kind: live, volumes: {mlruns: {remote: 'storage:mlruns', mount: /mnt/mlruns}},\n"
        " jobs: {mlflow: {action: 'gh:neuro-actions/mlflow@v1.17.0', \n"
        "   args: {default_artifact_root: /mnt/mlruns, backend_store_uri: 'sqlite:////mnt/mlruns/mlflow.db',\n"
        """     volumes: '["storage:mlruns:/mnt/mlruns:rw"]'}}}}\n"""
    ),
    "Windows line ends": one("mlflow", f"{NEURO}v1.17.0", SQLITE % ROOT_ARG).replace("\n", "\r\n"),
    "ui": one("mlflow", f"{NEURO}v2.1.1", f"{SQLITE % DESTINATION}mode: ui\n"),
}
"""By what is special about each."""
