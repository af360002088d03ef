"""Onboard a fresh Home Assistant and talk to its REST API (standard library only). See the script `home-assistant`."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

BASE = "http://127.0.0.1:8123"


def call(method: str, path: str, data: Any = None, token: str | None = None, *, form: bool = False) -> Any:
    """The answer of a request as JSON, or as text where it is none."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    body = None
    if data is not None:
        body = (urllib.parse.urlencode(data) if form else json.dumps(data)).encode()
        headers["Content-Type"] = "application/x-www-form-urlencoded" if form else "application/json"
    request = urllib.request.Request(BASE + path, body, headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        text = answer.read().decode("utf-8", "replace")
    try:
        return json.loads(text)
    except ValueError:
        return text


def flow(token: str, handler: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Walk a config flow: one dictionary of fields a step."""
    state = call("POST", "/api/config/config_entries/flow", {"handler": handler}, token)
    for data in steps:
        state = call("POST", f"/api/config/config_entries/flow/{state['flow_id']}", data, token)
    if state["type"] != "create_entry":
        raise SystemExit(f"{handler}: {state}")
    return dict(state)


def onboard(port: int) -> str:
    """The token of the first user of a fresh instance, which is given the broker on `port`."""
    for _ in range(240):
        try:
            call("GET", "/api/onboarding")
            break
        except OSError:
            time.sleep(0.5)
    client = {"client_id": BASE + "/"}
    user = {**client, "name": "t", "username": "t", "password": "test-only", "language": "en"}
    code = call("POST", "/api/onboarding/users", user)["auth_code"]
    grant = {**client, "grant_type": "authorization_code", "code": code}
    token = str(call("POST", "/auth/token", grant, form=True)["access_token"])
    flow(token, "mqtt", [{"broker": "127.0.0.1", "port": port}])
    return token


def main(what: str, *rest: str) -> None:
    """One verb of the script `home-assistant`."""
    token = os.environ.get("HA_TOKEN")
    match what:
        case "onboard":
            print(onboard(int(rest[0])))
        case "states":
            for state in sorted(call("GET", "/api/states", token=token), key=lambda state: str(state["entity_id"])):
                if state["entity_id"].startswith(rest[0] if rest else ""):
                    print(state["entity_id"], state["state"])
        case "get":
            print(json.dumps(call("GET", rest[0], token=token), indent=1))
        case "post":
            print(json.dumps(call("POST", rest[0], json.loads(rest[1]), token), indent=1))
        case "wyoming":
            print(flow(token or "", "wyoming", [{"host": "127.0.0.1", "port": int(rest[0])}])["title"])


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{error.code}: {error.read().decode()[:500]}") from None
