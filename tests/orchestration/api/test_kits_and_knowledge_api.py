"""Kits and knowledge over HTTP."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from orchestration.headrace import Headrace

SOURCE = {"name": "notes", "source": {"kind": "text", "path": "/nowhere"}}


def test_a_knowledge_source_over_http(client: TestClient) -> None:
    made = client.post("/knowledge/sources", json=SOURCE)
    assert (made.status_code, made.json()["extractor"]["kind"]) == (201, "embedded"), made.text
    assert client.post("/knowledge/sources", json=SOURCE).status_code == 409
    etag = made.headers["etag"]
    change = {"source": {"kind": "text", "path": "/elsewhere"}, "active": False}
    changed = client.put("/knowledge/sources/notes", json=change, headers={"If-Match": etag})
    assert (changed.status_code, changed.json()["active"]) == (200, False)
    assert client.put("/knowledge/sources/notes", json=change, headers={"If-Match": etag}).status_code == 412
    wrong = client.post("/knowledge/sources", json={"name": "x", "source": {"kind": "text"}})
    assert wrong.status_code == 422 and "path" in wrong.json()["detail"]
    plain_key = {"kind": "endpoint", "base_url": "https://x/v1", "model": "m", "api_key": "canary-plain"}
    refused = client.post("/knowledge/sources", json=SOURCE | {"name": "y", "extractor": plain_key})
    assert refused.status_code == 422 and "canary-plain" not in refused.text
    assert client.get("/knowledge/sources").json()["total"] == 1
    assert client.get("/knowledge/runs").json() == []
    assert client.get("/knowledge/search", params={"query": "any"}).json() == []
    assert client.get("/knowledge/entities/nobody").status_code == 404
    assert client.get("/knowledge/tables/passwords").status_code == 422
    assert client.get("/knowledge/tables/entities").json() == []
    started = client.post("/knowledge/extract", json={"sources": ["notes"]})
    assert started.status_code == 422 and "headrace up" in started.json()["remedy"], started.text
    assert client.delete("/knowledge/sources/notes").status_code == 204
    assert client.get("/knowledge/sources/notes").status_code == 404


def test_kits_over_http(client: TestClient, hr: Headrace) -> None:
    folder: Path = hr.settings.home_path / "kits"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.yaml").write_text("name: broken\nobjective: x\n")
    page = client.get("/kits").json()
    problems = {kit["name"]: kit["problem"] for kit in page["items"]}
    assert problems["broken"] and page["total"] == len(problems) > 1
    whole = next(name for name, problem in problems.items() if not problem)
    assert client.get(f"/kits/{whole}").json()["kit"]["name"] == whole
    assert client.get("/kits/none").status_code == 404
    assert client.get("/kits/broken").status_code == 422
    assert client.get("/kit-runs").json() == []
    for path in ("/kit-runs/none", "/kit-runs/none/outputs"):
        assert client.get(path).status_code == 404
    assert client.post("/kit-runs/none/decision", json={"approve": True}).status_code == 404
    simulated = client.post(f"/kits/{whole}/simulate", json={"inputs": {}})
    assert simulated.status_code in (200, 422), simulated.text
