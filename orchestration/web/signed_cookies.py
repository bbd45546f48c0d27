"""Signers of what a browser keeps for us for a while, one key a purpose, derived from the stack's credential."""

from __future__ import annotations

import hashlib
import hmac

from itsdangerous import URLSafeTimedSerializer

from assets.settings import Settings
from orchestration.stack_credential import stack_credential


def signer(settings: Settings, purpose: str) -> URLSafeTimedSerializer:
    """A signer whose values are good for ``purpose`` only."""
    key = hmac.new(stack_credential(settings).encode(), f"headrace {purpose}".encode(), hashlib.sha256).hexdigest()
    return URLSafeTimedSerializer(key, salt=f"headrace_{purpose}")
