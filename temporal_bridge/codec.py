"""Encryption of payloads and failure texts, on once a key exists; Temporal's server and its page see none of them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
from collections.abc import Mapping, Sequence

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes, PayloadCodec

from assets.errors import ConfigurationError

KEYS_VARIABLE = "HEADRACE_PAYLOAD_KEYS"
_ENCODING = b"binary/headrace-aes-gcm"
_NONCE_BYTES = 12


class EncryptionCodec(PayloadCodec):
    """AES-256-GCM. The key's id stands in the payload's metadata, so old keys go on reading after a rotation.

    Args:
        keys: 32-byte keys by id; the first one encrypts.
    """

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._current = next(iter(keys))

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._encrypt(payload) for payload in payloads]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        return [self._decrypt(payload) for payload in payloads]

    def _encrypt(self, payload: Payload) -> Payload:
        nonce = os.urandom(_NONCE_BYTES)
        key_id = self._current.encode()
        sealed = self._ciphers[self._current].encrypt(nonce, payload.SerializeToString(), key_id)
        return Payload(metadata={"encoding": _ENCODING, "headrace-key-id": key_id}, data=nonce + sealed)

    def _decrypt(self, payload: Payload) -> Payload:
        if payload.metadata.get("encoding") != _ENCODING:
            return payload  # written before there was a key
        key_id = payload.metadata["headrace-key-id"]
        cipher = self._ciphers.get(key_id.decode())
        if cipher is None:
            raise ConfigurationError(
                f"a payload was encrypted with the key `{key_id.decode()}`, which is not at hand.",
                remedy=f"Add it to {KEYS_VARIABLE}.",
            )
        opened = cipher.decrypt(payload.data[:_NONCE_BYTES], payload.data[_NONCE_BYTES:], key_id)
        return Payload.FromString(opened)


def payload_keys(environment: Mapping[str, str] | None = None) -> dict[str, bytes]:
    """Read ``HEADRACE_PAYLOAD_KEYS``: ``id:key,id:key``, each key 32 bytes in base64, the first one encrypts.

    Raises:
        ConfigurationError: an entry is not of that form; the message holds no key.
    """
    text = (os.environ if environment is None else environment).get(KEYS_VARIABLE, "")
    keys: dict[str, bytes] = {}
    for number, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), start=1):
        key_id, colon, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, altchars=b"-_", validate=True)
        except binascii.Error:
            key = b""
        if not colon or not key_id or len(key) != 32 or key_id in keys:
            raise ConfigurationError(
                f"entry {number} of {KEYS_VARIABLE} is not `id:key` with a new id and a key of 32 bytes in base64.",
                remedy="Make a key with: openssl rand -base64 32",
            )
        keys[key_id] = key
    return keys


def data_converter() -> DataConverter:
    """The converter of every client, worker and replayer: pydantic, and encrypted once keys are set."""
    keys = payload_keys()
    if not keys:
        return pydantic_data_converter
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=EncryptionCodec(keys),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )
