"""The explorer's addresses, asked over a socket: from a model's name to files on disk."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from explorer_client import PROMPT, Client, load, serving

from lrp_hooks import AttributionGraph
from lrp_hooks.explorer import app
from lrp_hooks.explorer.engine import Settings
from lrp_hooks.explorer.session import Session
from lrp_hooks.explorer.shelf import Shelf

ASKED: dict[str, Any] = {"prompt": PROMPT, "target": "a", "contrasts": ["b"]}


def test_from_a_name_to_an_explanation(client: Client, session: Session) -> None:
    state = client.json("GET", "/api/state")
    assert (state["model"], state["entries"], state["jobs"]) == (None, [], [])
    job = client.finished("/api/read", {"prompt": PROMPT})
    assert (job["state"], job["error"][:22]) == ("failed", "no model is loaded. do")
    model = client.result("/api/load", {"name": "tiny-0"})
    assert (model["name"], model["class"], model["dtype"], model["chat"]) == (
        "tiny-0",
        "LlamaForCausalLM",
        "float32",
        True,
    )
    read = client.result("/api/read", {"prompt": PROMPT, "top": 3, "extra": ["z"]})
    assert len(read["tokens"]) == 11
    assert [row["rank"] for row in read["candidates"]][:3] == [1, 2, 3]
    assert "z" in [row["label"] for row in read["candidates"]]
    row = next(row for row in read["candidates"] if len(row["label"]) == 1)  # a letter, no marker
    said = client.result("/api/continue", {"prompt": PROMPT, "token": row["id"], "new_tokens": 5})
    assert said["text"].startswith(row["label"])
    (heatmap,) = client.result("/api/explain", ASKED)
    (graph,) = client.result("/api/explain", {**ASKED, "show": "graph"})
    assert (heatmap["number"], heatmap["kind"], graph["number"], graph["kind"]) == (1, "heatmap", 2, "graph")
    assert heatmap["target"] == graph["target"] == "logit('a') - logit('b')"
    assert heatmap["value"] == pytest.approx(graph["value"])
    assert heatmap["question"]["prompt"]["text"] == PROMPT["text"]
    state = client.json("GET", "/api/state")
    assert [entry["number"] for entry in state["entries"]] == [1, 2]
    assert state["folder"] == str(session.shelf.folder)


def test_another_model_takes_the_place_of_the_first(tiny_client: Client, session: Session) -> None:
    (first,) = tiny_client.result("/api/explain", ASKED)
    assert tiny_client.result("/api/load", {"name": "tiny-3"})["name"] == "tiny-3"
    (second,) = tiny_client.result("/api/explain", ASKED)
    assert (first["model"], second["model"]) == ("tiny-0", "tiny-3")
    assert first["value"] != second["value"]
    job = tiny_client.finished("/api/load", {"name": "tiny-x"})
    assert job["state"] == "failed"
    assert session.state()["model"] is None  # neither the old one nor half a new one


def test_questions_are_about_the_model_that_they_were_asked_of(tiny_client: Client) -> None:
    first = tiny_client.json("GET", "/api/state")["model"]["number"]
    assert tiny_client.result("/api/explain", {**ASKED, "model": first})
    second = tiny_client.result("/api/load", {"name": "tiny-3"})["number"]
    for path, form in (
        ("/api/explain", ASKED),
        ("/api/read", {"prompt": PROMPT}),
        ("/api/continue", {"prompt": PROMPT}),
    ):
        job = tiny_client.finished(path, {**form, "model": first})
        assert (job["state"], "tiny-3 has taken the model's place" in job["error"]) == ("failed", True)
        assert tiny_client.finished(path, {**form, "model": second})["state"] == "done"


def test_a_load_that_is_stopped_leaves_no_model(
    client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()
    monkeypatch.setattr(session, "_loader", lambda name, **_: (waiting.wait(10), load(name))[1])
    job = client.json("POST", "/api/load", {"name": "tiny-0"}, status=202)
    while client.json("GET", f"/api/jobs/{job['number']}")["state"] == "waiting":
        time.sleep(0.01)
    client.ask("POST", f"/api/jobs/{job['number']}/cancel")
    waiting.set()
    while (job := client.json("GET", f"/api/jobs/{job['number']}"))["state"] == "running":
        time.sleep(0.01)
    assert job["state"] == "cancelled"
    assert client.json("GET", "/api/state")["model"] is None


def test_results_are_shown_in_the_colours_that_are_asked_for(tiny_client: Client) -> None:
    tiny_client.result("/api/explain", ASKED)
    tiny_client.result("/api/explain", {**ASKED, "show": "graph"})
    for number in (1, 2):
        _, headers, body = tiny_client.ask("GET", f"/results/{number}?palette=orange-purple&theme=dark")
        assert headers["content-type"] == "text/html; charset=utf-8"
        data = json.loads(body.partition(b'id="data">')[2].partition(b"</script>")[0])
        assert (data["palette"], data["theme"], data["embedded"]) == ("orange-purple", "dark", True)
    for query in ("palette=pink", "theme=blue"):
        assert tiny_client.ask("GET", f"/results/1?{query}")[0] == 422
    assert tiny_client.ask("GET", "/results/7")[0] == 422


def test_files_are_downloaded_in_every_format(tiny_client: Client, tmp_path: Path) -> None:
    for show in ("heatmap", "graph"):
        (entry,) = tiny_client.result("/api/explain", {**ASKED, "show": show})
        for suffix in entry["formats"]:
            status, headers, body = tiny_client.ask("GET", f"/results/{entry['number']}/download?format={suffix}")
            assert status == 200, body
            name = headers["content-disposition"].partition('filename="')[2].strip('"')
            assert headers["content-disposition"].startswith("attachment")
            assert body
            if name.endswith(".zip"):
                assert len(zipfile.ZipFile(io.BytesIO(body)).namelist()) > 1
            else:
                assert name == f"{show}-{entry['number']}{suffix}"
    (tmp_path / "g.safetensors").write_bytes(tiny_client.ask("GET", "/results/2/download?format=.safetensors")[2])
    assert AttributionGraph.load(tmp_path / "g.safetensors").tokens[0] == "s"
    status, _, body = tiny_client.ask("GET", "/results/1/download?format=.exe")
    assert (status, b"has no format '.exe'" in body) == (422, True)


def test_comparing_opening_and_removing(tiny_client: Client) -> None:
    tiny_client.result("/api/explain", ASKED)
    tiny_client.result("/api/explain", {**ASKED, "composite": "gradient"})
    both = tiny_client.json("POST", "/api/compare", {"results": [1, 2]})
    assert (both["number"], both["origin"], both["composite"]) == (3, "compared", "attnlrp | gradient")
    saved = tiny_client.ask("GET", "/results/3/download?format=.json")[2]
    opened = json.loads(tiny_client.ask("POST", "/api/open?name=x.json", saved)[2])
    assert (opened["number"], opened["origin"], opened["target"]) == (4, "opened", both["target"])
    assert tiny_client.ask("DELETE", "/api/results/3")[0] == 204
    assert tiny_client.ask("DELETE", "/api/results/3")[0] == 422
    assert [entry["number"] for entry in tiny_client.json("GET", "/api/state")["entries"]] == [1, 2, 4]


@pytest.mark.parametrize(
    ("path", "form", "message"),
    [
        ("/api/read", {"prompt": {"text": "a", "messages": []}}, "give a text or messages"),
        ("/api/read", {"prompt": {}}, "give a text or messages"),
        ("/api/read", {"prompt": PROMPT, "top": 0}, "top: Input should be greater than or equal to 1"),
        ("/api/read", {"prompt": PROMPT, "topp": 3}, "topp: Extra inputs are not permitted"),
        ("/api/explain", {"prompt": PROMPT, "kind": "guess"}, "kind: Input should be"),
        ("/api/explain", {"prompt": PROMPT, "top_p": 2}, "top_p"),
        ("/api/explain", {"prompt": PROMPT, "node_threshold": -1}, "node_threshold"),
        ("/api/explain", b'{"prompt": {"text": "a"}, "node_threshold": 1e999}', "finite number"),
        ("/api/explain", b'{"prompt": {"text": "a"}, "node_threshold": Infinity}', "finite number"),
        ("/api/read", {"prompt": PROMPT, "position": 10**30}, "position"),
        ("/api/explain", b"[" * 100_000, "Invalid JSON"),
        ("/api/load", {"name": ""}, "name"),
        ("/api/load", {"name": "a", "trust_remote_code": True}, "trust_remote_code: Extra inputs"),
        ("/api/compare", {"results": [1]}, "results"),
        ("/api/compare", {"results": [1, 2]}, "there is no result 1"),
        ("/api/compare", b"{", "Invalid JSON"),
        ("/api/open?name=x.bin", b"abc", "opens .safetensors and .json"),
        ("/api/open?name=../x.json", b"abc", "x.json holds no heatmaps"),
    ],
)
def test_what_is_wrong_is_said_at_once(client: Client, path: str, form: Any, message: str) -> None:
    status, _, body = client.ask("POST", path, form)
    assert status == 422
    assert message in json.loads(body)["error"]
    assert client.json("GET", "/api/state")["jobs"] == []


def test_too_much_is_not_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "LARGEST_FORM", 1 << 20)
    status, _, body = client.ask("POST", "/api/read", {"prompt": {"text": "a" * (2 << 20)}})
    assert (status, json.loads(body)["error"]) == (422, "that is more than 1 MiB")
    monkeypatch.setitem(app.LARGEST_FILE, ".json", 1 << 20)
    assert client.ask("POST", "/api/open?name=x.json", b"[" * (2 << 20))[0] == 422


def test_what_nobody_thought_of_is_said_and_the_server_goes_on(
    tiny_client: Client, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_client.result("/api/explain", ASKED)
    monkeypatch.setattr("lrp_hooks.explorer.results.HeatmapResult.page", lambda *_: 1 / 0)
    status, _, body = tiny_client.ask("GET", "/results/1")
    assert (status, json.loads(body)["error"]) == (500, "ZeroDivisionError: division by zero")
    assert len(tiny_client.json("GET", "/api/state")["entries"]) == 1
    for path in ("/results/x", "/results/" + "9" * 5000, "/results/-1"):
        assert tiny_client.ask("GET", path)[0] == 422
    assert tiny_client.ask("GET", "/api/jobs/" + "9" * 5000)[0] == 404


def test_work_is_cancelled_over_the_wire(
    tiny_client: Client, monkeypatch: pytest.MonkeyPatch, session: Session
) -> None:
    engine = session._engine
    monkeypatch.setattr(engine, "heatmap", lambda _, job: [(job.check(), time.sleep(0.005)) for _ in range(4000)])
    job = tiny_client.json("POST", "/api/explain", ASKED, status=202)
    assert [found["number"] for found in tiny_client.json("GET", "/api/state")["jobs"]] == [job["number"]]
    assert tiny_client.ask("POST", f"/api/jobs/{job['number']}/cancel")[0] == 204
    for _ in range(1000):
        job = tiny_client.json("GET", f"/api/jobs/{job['number']}")
        if job["state"] == "cancelled":
            break
        time.sleep(0.01)
    assert job["state"] == "cancelled"
    assert tiny_client.ask("GET", "/api/jobs/99")[0] == 404


def test_stopping_the_server_gives_the_model_back(tmp_path: Path) -> None:
    session = Session(lambda name, **_: loaded, Settings(), Shelf())
    import tiny

    loaded = tiny.loaded(0)
    running = serving(session)
    client = next(running)
    client.result("/api/load", {"name": "x"})
    client.result("/api/explain", ASKED)
    assert any("forward" in vars(module) for module in loaded.model.modules())
    with pytest.raises(StopIteration):
        next(running)
    assert not any("forward" in vars(module) for module in loaded.model.modules())


def test_the_page_is_whole_and_names_nobody_else(client: Client) -> None:
    _, headers, body = client.ask("GET", "/")
    text = body.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "innerHTML" not in text
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
