"""What a workflow's history may say of an error, and which errors are retried."""

from __future__ import annotations

import pytest

from assets.errors import CommitConflictError, SourceAccessError, SourceUnreachableError
from temporal_bridge.activities.error_classification import MAX_MESSAGE_CHARACTERS, classify, scrub


@pytest.mark.parametrize(
    ("error", "type_name", "non_retryable"),
    [
        (SourceAccessError("refused"), "SourceAccessError", True),
        (SourceUnreachableError("reset"), "SourceUnreachableError", False),
        (SourceUnreachableError("no such host", retryable=False), "SourceUnreachableError", True),
        (CommitConflictError("another writer"), "CommitConflictError", False),
        (ValueError("odd"), "ValueError", False),
    ],
)
def test_an_error_says_itself_whether_a_retry_helps_and_unknown_ones_are_retried(
    error: Exception, type_name: str, non_retryable: bool
) -> None:
    failure = classify(error)
    assert (failure.type, failure.non_retryable) == (type_name, non_retryable)


@pytest.mark.parametrize(
    "text",
    [
        "cannot open postgresql://me:canary@db:5432/shop",
        "connect failed: host=db password=canary user=me",
        "{'password': 'canary', 'user': 'me'}",
        '{"api_key": "canary"}',
        "PGPASSWORD=canary psql",
        "header Authorization: Bearer canarycanary",
        "aws_secret_access_key=canary",
        'duplicate key value violates unique constraint "k"\nDETAIL:  Key (email)=(canary@example.org) already exists.',
        "DETAIL:  Failing row contains (1, canary, null).",
    ],
)
def test_secrets_and_row_values_are_taken_out(text: str) -> None:
    assert "canary" not in scrub(text)


def test_an_endless_message_is_cut() -> None:
    assert len(scrub("x" * 1_000_000)) < MAX_MESSAGE_CHARACTERS + 50
