"""``headrace secrets``: the keys that stored secrets are encrypted with."""

from __future__ import annotations

import typer

from orchestration.cli_output import HomeOption, JsonOption, open_headrace, print_json, print_table, reports_errors

app = typer.Typer(no_args_is_help=True, help="Keys of the stored secrets.")


@app.command()
@reports_errors
def status(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Which keys there are, and how many stored secrets need which."""
    found = open_headrace(home).catalog.key_rotation.inventory()
    payloads = _payload_keys()
    if as_json:
        print_json({"keys": found.keys, "secrets": found.secrets, "payload_keys": [key for _, key in payloads]})
        return
    rows: list[tuple[str, str, int]] = []
    for number, key in enumerate(found.keys):
        rows.append((f"key {key}", "encrypts" if number == 0 else "reads", found.secrets.get(f"key {key}", 0)))
    known = {f"key {key}" for key in found.keys}
    for kind, count in sorted(found.secrets.items()):
        if kind not in known:
            state = "MISSING" if kind.startswith("key ") and kind != "key without id" else "reference"
            rows.append((kind, "old form" if kind == "key without id" else state, count))
    print_table("Stored secrets", ("", "", "secrets"), rows)
    print_table("Keys of Temporal's payloads", ("key", ""), [(k, "reads" if n else "encrypts") for n, k in payloads])


@app.command()
@reports_errors
def rotate(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Encrypt every stored secret with a new key. Safe while everything runs, and after a death half-way."""
    catalog = open_headrace(home).catalog
    done = catalog.key_rotation.rotate()
    catalog.access.audit("command line", "secrets rotate", done.key, detail=f"{done.secrets} secrets")
    if as_json:
        print_json(done)
        return
    print(f"{done.secrets} stored secrets are encrypted with key {done.key} now.")
    if open_headrace(home).settings.secret_key is not None:
        print(f"Take the other keys out of HEADRACE_SECRET_KEY: {', '.join(done.dropped)}.")
    elif done.dropped:
        print(f"Dropped: {', '.join(done.dropped)}. A backup of the catalog from before needs them.")


def _payload_keys() -> list[tuple[int, str]]:
    from temporal_bridge.codec import payload_keys

    return list(enumerate(payload_keys()))
