"""Keys and users: kept over a restart, taken along by a backup, and shown to nobody."""

from __future__ import annotations

import base64
import json
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import MakePlace
from .harness import API, Database, Server, StartServer
from .places import Place, query

pytestmark = pytest.mark.e2e

ADMIN = ("admin", "the first one's p%ssword")
ANN = ("ann", "what only ann knows")
BASIC = {"MLFLOW_ACTION_EXTRA_PARAMS": "--app-name basic-auth", "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1]}
HOOK = {
    "url": "https://93.184.215.14/hook",
    "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}],
}


def ask(server: Server, who: tuple[str, str], method: str, path: str, body: object = None) -> tuple[int, Any]:
    """Return the status and the JSON of a user's request."""
    token = base64.b64encode(":".join(who).encode()).decode()
    status, answer = server.call(
        method, path if path.startswith("/api") else API + path, body, {"Authorization": f"Basic {token}"}
    )
    return status, json.loads(answer) if answer.startswith(b"{") else answer


def put_in(server: Server) -> str:
    """Make a second user with one permission, and two webhooks; return the experiment that is hers."""
    assert ask(server, ADMIN, "POST", "/users/create", {"username": ANN[0], "password": ANN[1]})[0] == 200
    made = [ask(server, ADMIN, "POST", "/experiments/create", {"name": name}) for name in ("hers", "other")]
    experiment = str(made[0][1]["experiment_id"])
    grant = {
        "username": "ann",
        "resource_type": "experiment",
        "resource_id": experiment,
        "permission": "EDIT",
    }
    assert ask(server, ADMIN, "POST", "/api/3.0/mlflow/users/permissions/grant", grant)[0] == 200
    for name, more in (("signed", {"secret": "of the hook"}), ("plain", {})):
        hook = {"name": name, **HOOK, **more}
        assert ask(server, ADMIN, "POST", "/webhooks", hook)[0] == 200
    return experiment


def check(server: Server, experiment: str) -> None:
    """Check that users, the permission and webhooks are as `put_in` has made them."""
    assert ask(server, ("ann", "guessed"), "GET", "/experiments/search?max_results=1")[0] == 401
    for number, status in ((experiment, 200), (str(int(experiment) + 1), 403)):
        body = {"experiment_id": number, "start_time": 1}
        assert ask(server, ANN, "POST", "/runs/create", body)[0] == status
    status, found = ask(server, ADMIN, "GET", "/webhooks")
    assert (status, sorted(hook["name"] for hook in found["webhooks"])) == (200, ["plain", "signed"])


def test_they_outlive_a_restart_and_move_to_another_database(
    place: MakePlace, start: StartServer, postgresql: Database, mariadb: Database
) -> None:
    store = place(**BASIC)  # a new one: MLflow is imported to make its tables, and takes a key by that
    server = start(store.destination, **store.env).wait_until_up(401)
    experiment = put_in(server)
    check(server, experiment)
    said = server.log.read_text("utf-8")
    server.stop()

    keys = store.path.with_name(".mlflow.db.keys")
    users = store.path.with_name("mlflow.db.users")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (keys, users)] == [0o600, 0o600]
    secrets = [*json.loads(keys.read_text()).values(), ADMIN[1], ANN[1], "of the hook"]
    assert len(set(secrets)) == 6
    assert not store.path.with_name("mlflow.db-wal").exists()  # folded into the file, whose header says so
    assert store.path.read_bytes()[18:20] == b"\1\1"

    changed = {**store.env, "MLFLOW_AUTH_ADMIN_PASSWORD": "another, which counts no more"}
    again = start(store.destination, **changed).wait_until_up(401)
    check(again, experiment)
    said += again.log.read_text("utf-8")
    job = store.start("backup", artifacts=False)
    assert job.wait() == 0, job.said
    assert "the keys of webhooks and of gateway secrets and 2 users" in job.said
    again.stop()
    name = str(job.result["name"])
    assert stat.S_IMODE((store.backups / name).stat().st_mode) == 0o600

    postgresql.execute("CREATE DATABASE mlflow_moved TEMPLATE template0")
    mariadb.execute("CREATE DATABASE mlflow_moved CHARACTER SET utf8mb4")
    last = store
    for number, uri in enumerate((postgresql.uri("mlflow_moved"), mariadb.uri("mlflow_moved"))):
        moved = place(f"moved {number}", uri, **BASIC)
        moved.backups.mkdir()
        (moved.backups / name).write_bytes((last.backups / name).read_bytes())
        restored = moved.start("restore", source=name, force=False, check=False)
        assert restored.wait() == 0, restored.said
        there = start(moved.destination, **moved.env).wait_until_up(401)
        check(there, experiment)
        new = {"username": f"new {number}", "password": ANN[1]}
        assert ask(there, ADMIN, "POST", "/users/create", new)[0] == 200
        there.stop()
        said += restored.said + there.log.read_text("utf-8")
        name, last = moved.backup(), moved
    back = place("back", **BASIC)
    back.backups.mkdir()
    (back.backups / name).write_bytes((last.backups / name).read_bytes())
    back.restore(name)
    sql = "SELECT username, password_hash, is_admin FROM users WHERE username NOT LIKE 'new%' ORDER BY id"
    assert query(back.path.with_name("mlflow.db.users"), sql) == query(users, sql)
    assert back.path.with_name(".mlflow.db.keys").read_text() == keys.read_text()
    for one in (last, back):  # what is removed for good leaves no permission behind
        assert ("experiment", experiment) in granted(one)
        one.warm.python(DELETE, **one.env, EXPERIMENT=experiment)
        cleaned = one.start("gc", older_than=0, force=True)
        assert cleaned.wait() == 0, cleaned.said
        assert cleaned.result["totals"]["experiment"] == 1, cleaned.said
        left = str(int(experiment) + 1)
        assert granted(one) == [("experiment", left), ("scorer", f"{left}/polite")]
        said += cleaned.said
    said += job.said
    assert [secret for secret in secrets if secret in said] == []


def granted(place: Place) -> list[tuple[str, str]]:
    """Return type and pattern of what somebody may do in an experiment."""
    return [tuple(line.split()) for line in place.warm.python(GRANTS, **place.env).splitlines()]  # type: ignore[misc]


DELETE = """
import os
from in_job import location, queries, users
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
uri = uri if uri.startswith("sqlite") else location.sql_uri(uri)
number = os.environ["EXPERIMENT"]
for table in ("experiments", "runs"):
    delete = f"UPDATE {table} SET lifecycle_stage = 'deleted' WHERE experiment_id = :value"
    queries.change(uri, delete, [number])
insert = "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission)"
for scorer in (number, int(number) + 1):
    grant = f"SELECT min(id), 'scorer', '{scorer}/polite', 'READ' FROM roles"
    queries.change(users.users_uri(uri), f"{insert} {grant}", [""])
"""
GRANTS = """
import os
from in_job import location, queries, users
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
uri = uri if uri.startswith("sqlite") else location.sql_uri(uri)
for row in queries.rows(users.users_uri(uri), "SELECT resource_type, resource_pattern FROM role_permissions "
        "WHERE resource_type IN ('experiment', 'scorer') ORDER BY id"):
    print(*row)
"""


def test_a_key_of_the_users_wins_and_a_lost_one_is_named(
    place: MakePlace, ready_volume: Path, start: StartServer
) -> None:
    own = base64.urlsafe_b64encode(bytes(range(32))).decode()
    uri = f"sqlite:///{ready_volume}/mlflow.db"
    env = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": own}
    server = start(ready_volume / "artifacts", **env)
    server.wait_until_up()
    assert server.ask("POST", "/webhooks", {"name": "a-hook", "secret": "s", **HOOK})
    assert server.ask("POST", "/webhooks", {"name": "plain", **HOOK})
    server.stop()
    assert own not in (ready_volume / ".mlflow.db.keys").read_text()
    lost = dict(env)
    del lost["MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"]
    for given, names, line in (
        (lost, ["plain"], "cannot be decrypted: the webhooks a-hook ("),
        (env, ["a-hook", "plain"], "there again, since their key is: the webhooks a-hook ("),
    ):
        again = start(ready_volume / "artifacts", **given)
        again.wait_until_up()
        assert line in again.log.read_text("utf-8")
        assert sorted(hook["name"] for hook in again.ask("GET", "/webhooks")["webhooks"]) == names
        again.stop()


GATEWAY = """
import os
from in_job import keys, queries
from mlflow.utils import crypto
uri = os.environ["MLFLOW_BACKEND_STORE_URI"]
words = os.environ["WORDS"]
manager = crypto.KEKManager(words if words else crypto.DEFAULT_KEK_PASSPHRASE)
sealed = crypto._encrypt_secret({"api_key": "x"}, manager, "s", "n")
values = f"x'{sealed.encrypted_value.hex()}', x'{sealed.wrapped_dek.hex()}'"
queries.change(uri, "DELETE FROM secrets", [""])
insert = "INSERT INTO secrets (secret_id, secret_name, encrypted_value, wrapped_dek, kek_version, "
insert += "masked_value, "
insert += f"created_at, last_updated_at, workspace) VALUES ('s', 'n', {values}, 1, '***', 1, 1, 'default')"
queries.change(uri, insert, [""])
env = {keys.GATEWAY: os.environ["GIVEN"]} if os.environ["GIVEN"] else {}
keys.keep(env, uri, keys.settle(env, uri, "/nowhere"))
sealed = queries.rows(uri, "SELECT wrapped_dek FROM secrets")[0][0]
try:
    manager = crypto.KEKManager(env.get(keys.GATEWAY) or crypto.DEFAULT_KEK_PASSPHRASE)
    crypto.unwrap_dek(sealed, manager.get_kek())
    print("opened")
except Exception:
    print("lost")
"""


def test_users_have_tables_in_mysql(place: MakePlace, mariadb: Database) -> None:
    """MLflow itself cannot make them there."""
    mariadb.execute("CREATE DATABASE mlflow_users CHARACTER SET utf8mb4")
    store = place(uri=mariadb.uri("mlflow_users"), **BASIC)
    code = (
        "import os; from in_job import users; users.prepare_users(os.environ, os.environ['URI'], '/nowhere')"
    )
    uri = store.uri.replace("mysql:", "mysql+pymysql:")
    for _ in range(2):
        store.warm.python(code, **store.env, URI=uri)
    made = set(mariadb.execute("SHOW TABLES", "mlflow_users").split())
    assert made >= {"users", "roles", "role_permissions", "registered_model_permissions"}
    code = "import os; from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore as S; s = S()"
    code += (
        "; s.init_db(os.environ['URI']); s.create_user('ann', 'a long password'); print(s.has_user('ann'))"
    )
    assert store.warm.python(code, **store.env, URI=uri).endswith("True\n")


def test_gateway_secrets_of_another_store_are_opened_by_what_they_were_made_with(
    place: MakePlace, template: Path
) -> None:
    store = place()
    store.path.write_bytes(template.read_bytes())
    keep = "from in_job.keys import keep, settle; uri = {!r}; keep({{}}, uri, settle({{}}, uri, '/nowhere'))"
    store.warm.python(keep.format(store.uri))
    keys = store.path.with_name(".mlflow.db.keys")
    own = json.loads(keys.read_text())["MLFLOW_CRYPTO_KEK_PASSPHRASE"]
    assert own
    for words, given, ends, said in (
        (own, "", "opened", ""),
        ("another", "", "lost", "no passphrase at hand opens the gateway secrets"),
        ("another", "another", "opened", ""),
        ("", "another", "lost", "no passphrase at hand opens the gateway secrets"),
        ("", "", "opened", "a passphrase that all MLflows share"),  # of a plain MLflow
    ):
        assert (json.loads(keys.read_text())["MLFLOW_CRYPTO_KEK_PASSPHRASE"]) == own
        out = store.warm.python(GATEWAY, **store.env, WORDS=words, GIVEN=given)
        assert out.splitlines()[-1] == ends
        assert said in out
        assert ("WARNING" in out) == (ends == "lost")


def test_keys_are_put_where_no_client_reaches_them(place: MakePlace, template: Path) -> None:
    first = place("first")
    first.path.write_bytes(template.read_bytes())
    keys = '{"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "of the first"}'
    first.path.with_name(".mlflow.db.keys").write_text(keys)
    job = first.start("backup", env={"MLFLOW_CRYPTO_KEK_PASSPHRASE": "of envs"}, artifacts=False)
    assert job.wait() == 0, job.said
    assert "left out: MLFLOW_CRYPTO_KEK_PASSPHRASE, which envs sets: whoever restores" in job.said
    assert "of envs" not in job.said
    name = str(job.result["name"])
    among = place("among", destination=first.folder.with_name("among"))  # where all of the volume is served
    (among.folder / "1").mkdir()
    (among.folder / "1/file").write_bytes(b"x")
    for force in (False, True):
        among.backups.mkdir(exist_ok=True)
        (among.backups / name).write_bytes((first.backups / name).read_bytes())
        job = among.start("restore", source=name, force=force, check=False)
        assert job.wait() == 0, job.said
        there = among.path.with_name(".mlflow.db.keys")
        assert there.exists() == force
        if force:
            assert there.read_text() == keys
            break
        assert "so keys and users stay in the backup only" in job.said
        done = among.run("upgrade", check=False)
        there.write_text(keys)  # as a server makes them, which then does not come up
        among.run("undo", **done)
        assert not there.exists()
        assert (among.folder / "1/file").exists()
        among.run("upgrade", check=False)


@pytest.mark.parametrize(
    ("env", "what"),
    [
        (
            {"MLFLOW_AUTH_ADMIN_PASSWORD": ""},
            "basic-auth: the first user's password is missing: `apolo secret",
        ),
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "password is shorter than 12 signs"),
        ({"MLFLOW_BACKEND_STORE_URI": "{}/runs"}, "is a file store: set backend_store_uri"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "{}"}, "basic-auth would protect nothing: clients reach"),
        ({"MLFLOW_AUTH_CONFIG_PATH": "/nowhere.ini"}, "which has no section of MLflow"),
    ],
)
def test_users_are_refused_where_they_would_not_be_safe(
    refused: Any, ready_volume: Path, env: dict[str, str], what: str
) -> None:
    (ready_volume / "1").mkdir()  # artifacts beside the database
    given = {name: text.replace("{}", str(ready_volume)) for name, text in env.items()}
    uri = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{ready_volume}/mlflow.db"}
    destination = given.pop("MLFLOW_ARTIFACTS_DESTINATION", str(ready_volume / "artifacts"))
    assert what in refused(destination, **{**uri, **BASIC, **given})


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("--expose-prometheus {}/metrics", "prometheus_flask_exporter"),
        ("--uvicorn-opts '--ssl-certfile /nowhere --ssl-keyfile /nowhere'", "FileNotFoundError"),
    ],
)
def test_an_app_that_no_worker_can_load_ends_the_job(
    start: StartServer, ready_volume: Path, words: str, what: str
) -> None:
    extra = {"MLFLOW_ACTION_EXTRA_PARAMS": words.replace("{}", str(ready_volume))}
    uri = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{ready_volume}/mlflow.db"}
    server = start(ready_volume / "artifacts", **uri, **extra)
    assert server.process.wait(120) == 1
    said = [line for line in server.log.read_text("utf-8").splitlines() if "cannot start" in line]
    assert said
    assert what in said[0]


AUTOMATIC = """
import os, time
from pathlib import Path
from in_job import keeper
from in_job.store import Store
env, folder = dict(os.environ), Path(os.environ["BACKUPS"])
store = Store(env)
for day in range(9):
    kept = folder / f"mlflow-2020010{day + 1}T000000Z-auto-{store.token}.zip"
    folder.mkdir(exist_ok=True)
    kept.touch()
print("due", keeper.due(folder, store, 86400) < time.time())
print("made", keeper.make_one(env, folder, 86400))
print("due", keeper.due(folder, store, 86400) < time.time())
print("made", keeper.make_one(env, folder, 86400))  # nothing is due any more
print(sorted(path.name[:15] for path in folder.iterdir()))
with store.alone():
    print("made", keeper.make_one(env, folder, 0))
"""


def test_automatic_backups(place: MakePlace, filled: Path) -> None:
    store = place()
    store.path.write_bytes(filled.read_bytes())
    (store.backups).mkdir()
    by_hand = store.backup()
    said = store.warm.python(AUTOMATIC, **store.env, BACKUPS=str(store.backups))
    lines = [line for line in said.splitlines() if not line.startswith("mlflow-server: ")]
    assert [line for line in lines if " " in line and line[0] != "["] == [
        "due True",
        "made True",
        "due False",
        "made True",
        "made False",
    ]
    assert "of a processor" in said
    assert "another backup, restore, upgrade or clean-up" in said
    made = [path for path in store.backups.glob("*-auto-*.zip") if path.stat().st_size]
    assert len(made) == 1
    assert len(list(store.backups.glob("*-auto-*.zip"))) == 7
    assert (store.backups / by_hand).exists()
    with zipfile.ZipFile(made[0]) as archive, zipfile.ZipFile(store.backups / by_hand) as other:
        manifests = [json.loads(one.read("manifest.json")) for one in (archive, other)]
    assert manifests[0]["counts"] == manifests[1]["counts"]
    other_place = place("other")
    (other_place.backups).mkdir()
    (other_place.backups / made[0].name).write_bytes(made[0].read_bytes())
    other_place.restore(made[0].name)
    assert other_place.path.exists()
