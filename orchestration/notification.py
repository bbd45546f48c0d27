"""Tells people of a failure: webhook, Slack or e-mail, by one URL."""

from __future__ import annotations

import json
import smtplib
import time
import urllib.error
import urllib.request
from email.message import EmailMessage
from urllib.parse import parse_qs, unquote, urlsplit

from assets.errors import ConfigurationError, HeadraceError
from assets.sync import Model

SECONDS = 10
TRIES = 3
MAX_TEXT = 3000


class NotificationError(HeadraceError):
    """A notification could not be delivered."""


class Failure(Model):
    """What failed."""

    title: str
    text: str
    link: str | None = None


def notify(url: str, failure: Failure) -> None:
    """Deliver a notification, in at most three tries.

    Args:
        url: ``https://...`` gets the failure as JSON; ``https://hooks.slack.com/...`` as Slack's text;
            ``smtp://user:password@host:port?from=a@b&to=c@d`` (``smtps`` for TLS from the start, ``tls=1`` for
            STARTTLS) as a mail. It may hold a secret, so no message names more of it than its host.

    Raises:
        ConfigurationError: the URL is of no such kind.
        NotificationError: nobody took it.
    """
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.hostname}"
    if parts.scheme not in ("http", "https", "smtp", "smtps") or not parts.hostname:
        raise ConfigurationError(
            "this is no notification URL.", where="HEADRACE_NOTIFY_URL", remedy="Use https or smtp."
        )
    deliver = _mail if parts.scheme.startswith("smtp") else _post
    for attempt in range(1, TRIES + 1):
        try:
            deliver(url, failure)
            return
        except (OSError, smtplib.SMTPException) as error:
            if attempt == TRIES:
                # the error's own text may repeat the URL
                raise NotificationError(f"not delivered: {type(error).__name__}.", where=where) from None
            time.sleep(attempt)


def _text(failure: Failure) -> str:
    return "\n".join(filter(None, (failure.title, failure.text[:MAX_TEXT], failure.link)))


def _post(url: str, failure: Failure) -> None:
    slack = urlsplit(url).hostname == "hooks.slack.com"
    document = {"text": _text(failure)} if slack else failure.model_dump() | {"text": failure.text[:MAX_TEXT]}
    request = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS):
        return


def _mail(url: str, failure: Failure) -> None:
    parts = urlsplit(url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if "to" not in options:
        raise ConfigurationError("the mail has no addressee.", where="HEADRACE_NOTIFY_URL", remedy="Add ?to=a@b.")
    message = EmailMessage()
    message["Subject"] = " ".join(failure.title.split())[:200]
    message["From"] = options.get("from", options["to"])
    message["To"] = options["to"]
    message.set_content(_text(failure))
    secure = parts.scheme == "smtps"
    connect = smtplib.SMTP_SSL if secure else smtplib.SMTP
    with connect(parts.hostname or "", parts.port or (465 if secure else 25), timeout=SECONDS) as server:
        if options.get("tls"):
            server.starttls()
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)
