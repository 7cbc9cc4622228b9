"""Web addresses in the place of names: what can be asked for, and what to call the file that comes."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from llm.errors import WrongUse

SAFE = "%/:=&?~#+!$,;'@()*[]"  # left as it is; everything else outside letters and digits is percent-encoded
STEM_CHARACTERS, SUFFIX_CHARACTERS = 40, 16


def is_address(text: str) -> bool:
    """Whether `text` is meant as a web address: it begins like one."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text.strip()) is not None


def web_address(text: str) -> str:
    """`text` as a request can carry it: characters outside ASCII encoded, what follows a # left out.

    WrongUse where that is no http or https address of a host.
    """
    try:
        parts = urlsplit(text.strip())
        host = (parts.hostname or "").encode("idna").decode()
        place = f"{host}:{parts.port}" if parts.port else host
    except ValueError as error:
        raise WrongUse(f"{text} is not a web address ({error}); give one like https://example.org/text.txt.") from error
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise WrongUse(
            f"{text} cannot be downloaded; give an address that begins with https:// or http:// and has no password in "
            "it, or a file that is here."
        )
    path, query = (quote(part, safe=SAFE) for part in (parts.path or "/", parts.query))
    return urlunsplit((parts.scheme, place, path, query, ""))


def file_name(url: str) -> tuple[str, str]:
    """Stem and suffix for the file at `url`: from its last part, without anything that could mislead a file system."""
    stem, dot, suffix = unquote(urlsplit(url).path).rpartition("/")[2].rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (suffix, "")
    stem = re.sub(r"[^\w.-]+", "_", stem).strip("._")[:STEM_CHARACTERS] or "text"
    return stem, re.sub(r"[^\w.-]+", "", suffix)[:SUFFIX_CHARACTERS]


def short_digest(url: str) -> str:
    """Eight hexadecimal digits that keep two files of one name, from two addresses, apart."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]
