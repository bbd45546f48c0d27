"""Payload encryption: keys from the environment, old keys go on reading."""

from __future__ import annotations

import asyncio
import base64

import pytest
from temporalio.exceptions import ApplicationError

from assets.errors import ConfigurationError
from temporal_bridge.codec import KEYS_VARIABLE, data_converter, payload_keys

OLD = base64.b64encode(b"o" * 32).decode()
NEW = base64.b64encode(b"n" * 32).decode()


def test_without_keys_payloads_stay_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_VARIABLE, raising=False)
    assert data_converter().payload_codec is None


def test_payloads_and_failure_texts_are_sealed_and_open_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, f"new:{NEW}")

    async def round_trip() -> None:
        from temporalio.api.failure.v1 import Failure

        converter = data_converter()
        payloads = await converter.encode([{"table": "public.canary"}])
        assert b"canary" not in payloads[0].SerializeToString()
        assert payloads[0].metadata["headrace-key-id"] == b"new"
        assert await converter.decode(payloads) == [{"table": "public.canary"}]
        failure = Failure()
        await converter.encode_failure(ApplicationError("canary text", type="Any"), failure)
        assert b"canary" not in failure.SerializeToString()
        assert str(await converter.decode_failure(failure)) == "Any: canary text"

    asyncio.run(round_trip())


def test_after_a_rotation_the_new_key_writes_and_the_old_one_still_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    async def rotate() -> None:
        monkeypatch.setenv(KEYS_VARIABLE, f"old:{OLD}")
        written = await data_converter().encode(["before"])
        monkeypatch.setenv(KEYS_VARIABLE, f"new:{NEW}, old:{OLD}")
        assert await data_converter().decode(written) == ["before"]
        assert (await data_converter().encode(["after"]))[0].metadata["headrace-key-id"] == b"new"
        monkeypatch.setenv(KEYS_VARIABLE, f"new:{NEW}")
        with pytest.raises(ConfigurationError, match="the key `old`, which is not at hand"):
            await data_converter().decode(written)

    asyncio.run(rotate())


@pytest.mark.parametrize("entry", [NEW, f"new:{NEW[:20]}", f":{NEW}", "new:not base64!", f"a:{NEW},a:{OLD}"])
def test_a_malformed_key_is_refused_and_not_repeated(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="openssl rand -base64 32") as caught:
        payload_keys({KEYS_VARIABLE: entry})
    assert NEW[:20] not in str(caught.value)
