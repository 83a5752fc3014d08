"""Secrets in log fields and messages: recognised by the field's name or by the look of the text, and blotted out."""

from __future__ import annotations

import re

REDACTED = "[redacted]"

_WORDS = (
    r"pass(?:word|wd|phrase)?|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|authorization|cookie"
)
_SECRET_NAME = re.compile(rf"(?:^|[_.\s-])(?:{_WORDS})s?$", re.IGNORECASE)
_PATTERNS = (
    # user:password@ in a URL; greedy, because a careless password may hold an @ itself
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s]*@", re.IGNORECASE), rf"\1{REDACTED}@"),
    (re.compile(r"\b(bearer|basic)\s+[\w+/=.~-]{6,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    # http.client repeats a header that it cannot send
    (
        re.compile(r"(\bInvalid header value )b?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")", re.IGNORECASE),
        rf"\1{REDACTED}",
    ),
    # secrets of Standard Webhooks
    (re.compile(r"\bwhsec_[\w+/=-]+"), REDACTED),
    # name=value and name: value, as in connection strings, query strings and headers
    (
        re.compile(
            rf"((?:^|(?<=[\W_]))(?:{_WORDS})s?[\"']?\s*[=:]\s*)(?!(?:bearer|basic)\b)(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
)


def is_secret_name(name: str) -> bool:
    """Whether a field called ``name`` holds a secret (``password``, ``webhook_secret``, ``x-api-key`` …)."""
    return _SECRET_NAME.search(name) is not None


def redact_text(text: str) -> str:
    """``text`` without the secrets that can be told by their look."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
