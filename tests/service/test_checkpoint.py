"""Finding checkpoints: a stand-in hub on the loopback, and a cache laid out as the hub's."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import oracle
from reward_service.checkpoint import Checkpoint, find_checkpoint
from reward_service.errors import StartupError
from reward_service.inputs import GivenTokens
from reward_service.loading import load_model
from reward_service.settings import Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"

REFUSALS = {
    "gated": (403, "GatedRepo"),
    "missing": (404, "RepoNotFound"),
    "no-revision": (404, "RevisionNotFound"),
}


class _Hub(BaseHTTPRequestHandler):
    tokens: list[str | None] = []  # noqa: RUF012 - one list for all requests is what is meant

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        kind = next(kind for kind in REFUSALS if kind in self.path)
        status, code = REFUSALS[kind]
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[_Hub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield _Hub
    server.shutdown()
    thread.join()
    server.server_close()


def _find(model_id: str, *, revision: str | None = None) -> Checkpoint:
    return find_checkpoint(model_id, revision=revision, allow_pickle=False, trust_remote_code=False)


@pytest.mark.parametrize(
    ("model_id", "revision", "sentence"),
    [
        ("org/gated", None, "is gated: accept its terms on its hub page, then set HF_TOKEN"),
        ("org/missing", None, "the hub has no model org/missing that this token may read"),
        ("org/no-revision", "v9", "has no revision v9"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_one_sentence_with_the_remedy(
    model_id: str, revision: str | None, sentence: str
) -> None:
    with pytest.raises(StartupError, match=sentence):
        _find(model_id, revision=revision)


def test_hf_token_is_sent_to_the_hub(hub: type[_Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens.clear()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with pytest.raises(StartupError):
        _find("org/gated")
    assert "Bearer hf_secret" in hub.tokens


def test_a_cached_hub_model_loads_offline_and_is_known_by_its_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debug_folder: Path
) -> None:
    repository = tmp_path / "models--org--reward"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(debug_folder)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    loaded = load_model(Settings(model_id="org/reward"))
    assert (loaded.model_id, loaded.revision) == ("org/reward", COMMIT)
    local = load_model(Settings(model_id=str(debug_folder)))
    assert loaded.fingerprint != local.fingerprint  # another identity, even with equal files
    ids = oracle.token_ids(debug_folder, "Hi", "there")
    groups = [loaded.encoder.encode([GivenTokens(ids)], truncation="error")[0]]
    [[reading]] = loaded.runner.run(loaded.runner.prepare(groups)).groups
    assert list(reading.outputs) == pytest.approx(
        oracle.outputs_of_ids(debug_folder, ids), abs=1e-5
    )
