"""URLs as names of datasets: validation, and file names for downloads."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from llm.errors import WrongUse

SAFE = "%/:=&?~#+!$,;'@()*[]"  # not percent-encoded
MAX_STEM, MAX_SUFFIX = 40, 16


def is_url(text: str) -> bool:
    """Whether `text` begins like a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text.strip()) is not None


def normalize_url(text: str) -> str:
    """`text` as a URL for a request: percent-encoded ASCII without a fragment.

    WrongUse unless it is an http or https URL with a host and without a password.
    """
    try:
        parts = urlsplit(text.strip())
        host = (parts.hostname or "").encode("idna").decode()
        place = f"{host}:{parts.port}" if parts.port else host
        path, query = (quote(part, safe=SAFE) for part in (parts.path or "/", parts.query))
    except UnicodeEncodeError as error:
        raise WrongUse(
            f"{text} is not a URL (it is not UTF-8 text); give one like https://example.org/text.txt."
        ) from error
    except ValueError as error:
        raise WrongUse(f"{text} is not a URL ({error}); give one like https://example.org/text.txt.") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise WrongUse(
            f"{text} cannot be downloaded; give a URL that begins with https:// or http:// and has no password, or a "
            "local file."
        )
    return urlunsplit((parts.scheme, place, path, query, ""))


def file_name(url: str) -> tuple[str, str]:
    """Stem and suffix for the file at `url`, from its last part, in characters safe for file systems."""
    stem, dot, suffix = unquote(urlsplit(url).path).rpartition("/")[2].rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (suffix, "")
    stem = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:MAX_STEM] or "text"
    return stem, re.sub(r"[^\w.-]+", "", suffix)[:MAX_SUFFIX]


def short_digest(url: str) -> str:
    """Eight hexadecimal digits that distinguish files of the same name from different URLs."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]
