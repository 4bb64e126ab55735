"""The key of a server of OpenAI's kind, the meaning of its failures, and the wait before another attempt.

Invariant: an error text that leaves this package does not hold the key. The client library makes no retries of its own,
so that attempts are counted right and a server's Retry-After is obeyed.
"""

import os
import random
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import openai
import tenacity

from reasonir.core.errors import UserError
from reasonir.llm.engines.verdicts import DOUBTED

# Waits grow from the first to the longest by doubling, with jitter, so that many requests do not return at once.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
# Time-out, conflict, too early, too many requests: another attempt may succeed. So may one after any 5xx.
TRANSIENT_STATUS = {408, 409, 425, 429}
# Statuses by which servers refuse what was asked, and words by which they say that this prompt is not to be answered.
REFUSING_STATUS = {400, 413, 422}
FILTERED = (
    "content_filter", "content filter", "content management policy", "content_policy", "content policy",
    "responsibleaipolicy", "invalid_prompt", "usage policy", "content exists risk", "data_inspection_failed",
    "inappropriate content", "high risk", "was flagged", "input was flagged", "moderation",
)  # fmt: skip
# Of a refusal's text: more than any says of itself, less than one that repeats a long prompt.
MOST_READ_CHARACTERS = 4_000
# A shorter key is a local server's placeholder ("EMPTY"); redacting it would damage ordinary words.
SHORTEST_SECRET = 8


# Of an answer: far more than a model writes with its log-probabilities, far less than the memory of many at once.
LARGEST_BODY_BYTES = 64 << 20


class BodyTooLarge(openai.APIConnectionError):
    """A server sends more than any answer holds."""


class BoundedClient(openai.DefaultAioHttpClient):  # half the time of httpx's own
    """Reads a body part by part and stops at LARGEST_BODY_BYTES, unpacked: a few megabytes can hold gigabytes."""

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request as the library's client does."""
        response = await super().send(request, stream=True, **options)
        if stream:
            return response
        parts, size = [], 0
        try:
            async for part in response.aiter_bytes():
                parts.append(part)
                size += len(part)
                if size > LARGEST_BODY_BYTES:
                    message = f"an answer of more than {LARGEST_BODY_BYTES >> 20} MiB"
                    raise BodyTooLarge(message=message, request=request)
        finally:
            await response.aclose()
        # What `aread` leaves behind; httpx has no other way to give a response its content.
        response._content = b"".join(parts)
        return response


class TransientError(Exception):
    """A failure that another attempt may mend. unreachable: no connection came about, whatever the request."""

    def __init__(self, text: str, wait_seconds: float = 0.0, status: int = 0, unreachable: bool = False) -> None:
        super().__init__(text)
        self.wait_seconds, self.status, self.unreachable = wait_seconds, status, unreachable


class RefusedError(Exception):
    """A refusal that no further attempt mends. finish: what it makes of the request, as in `Completion`."""

    def __init__(self, text: str, finish: str = "error") -> None:
        super().__init__(text)
        self.finish = finish


class Notices:
    """Prints warnings, each once however often it is given."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, text: str) -> None:
        """Print a warning that was not printed before."""
        if text not in self._said:
            self._said.add(text)
            print(f"warning: {text}", file=sys.stderr, flush=True)


class Secret:
    """The key: read from an environment variable, shown to the client alone. Only OpenAI's own server requires one."""

    def __init__(self, variable: str, base_url: str | None) -> None:
        self.variable = variable
        self._value = os.environ.get(variable, "").strip()
        if not (self._value or base_url or os.environ.get("OPENAI_BASE_URL")):
            raise UserError(f"{variable} is not set: export your key, or name a server: generator.base_url=URL")
        # The key goes into a header of HTTP, which takes no such characters.
        if any(not 32 < ord(character) < 127 for character in self._value):
            raise UserError(f"{variable} holds white space or other characters that no key has; export it again")

    def __repr__(self) -> str:
        return f"Secret({self.variable})"

    def reveal(self) -> str:
        """Return the key for the client, "none" where there is none."""
        return self._value or "none"

    def redact(self, text: str) -> str:
        """Return a text without the key."""
        return text.replace(self._value, f"<{self.variable}>") if len(self._value) >= SHORTEST_SECRET else text


def retrying(kind: Any, max_attempts: int) -> Any:
    """Return tenacity's `kind` (Retrying, AsyncRetrying) set to repeat what raises `TransientError`."""
    return kind(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(max_attempts),
        wait=wait_seconds,
        reraise=True,
    )


def no_connection(error: BaseException | None) -> bool:
    """Return whether no connection was made at all; aiohttp's transport calls a broken one ConnectTimeout too."""
    while error is not None:
        if {"ConnectError", "ClientConnectorError"} & {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__ or error.__context__
    return False


def raise_meaning(
    error: openai.APIError, secret: Secret, base_url: str | None, model: str, timeout_seconds: float
) -> NoReturn:
    """Raise what a failed call means: `TransientError`, `RefusedError`, or a `UserError` that ends the run.

    Args:
        error: Of the call.
        secret: The key, which no message may hold.
        base_url: The server, for messages; None is OpenAI.
        model: Its name, for messages.
        timeout_seconds: What the call was given, for messages.
    """
    if not isinstance(error, openai.APIStatusError):  # connections that fail, break off, or speak no HTTP
        cause = error.__cause__ or error
        # A refused connection comes as a time-out of connecting (aiohttp's transport).
        if isinstance(error, openai.APITimeoutError) and type(cause).__name__ != "ConnectTimeout":
            raise TransientError(no_answer(timeout_seconds)) from None
        if isinstance(cause, BodyTooLarge):
            raise TransientError(str(cause)) from None
        text = " ".join(f"{type(cause).__name__}: {cause}".split())[:300]
        raise TransientError(secret.redact(f"no connection: {text}"), unreachable=no_connection(cause)) from None
    status, text = error.status_code, secret.redact(message_of(error))
    # OpenAI answers 429 to an account without credit too, which no waiting mends.
    if (status in TRANSIENT_STATUS or status >= 500) and "insufficient_quota" not in text:
        raise TransientError(f"status {status}: {text}", retry_after_seconds(error.response.headers), status) from None
    # Gateways that moderate answer 403 as well.
    if status in REFUSING_STATUS | {403, 451} and any(sign in words_of(error).lower() for sign in FILTERED):
        raise RefusedError(f"status {status}: {text}", "refusal") from None
    if status in REFUSING_STATUS:
        raise RefusedError(f"status {status}: {text}", DOUBTED) from None
    remedy = {
        401: f"check the key in {secret.variable}",
        402: "the account is out of credit",
        403: f"check the rights of the key in {secret.variable}",
        404: f"check generator.base_url and generator.model={model}",
        429: "the account is out of credit",
    }.get(status, "check the generator's options")
    where = base_url or "OpenAI"
    raise UserError(f"{where} refuses (status {status}): {text}; {remedy}") from None


def no_answer(timeout_seconds: float) -> str:
    """Return the error text of a request that took too long."""
    return f"no answer within {timeout_seconds:g} s"


def wait_seconds(state: tenacity.RetryCallState) -> float:
    """Return the pause before the next attempt: exponential with jitter, never less than the server asks for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.wait_seconds if isinstance(error, TransientError) else 0.0
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (state.attempt_number - 1))
    jitter = random.uniform(0.5, 1.0) * longest
    # Never sooner than asked, and a little apart, so that waiting requests do not return all at once.
    return asked + jitter / 4 if asked else jitter


def retry_after_seconds(headers: Any) -> float:
    """Return the pause that a server asks for (seconds or a date), at most LONGEST_WAIT_SECONDS; 0 for none."""
    value = headers.get("retry-after", "").strip()
    try:
        if headers.get("retry-after-ms"):
            seconds = float(headers["retry-after-ms"]) / 1000
        elif value[-3:] == "GMT":
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        else:
            seconds = float(value or 0)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(seconds, LONGEST_WAIT_SECONDS) if seconds > 0 else 0.0  # NaN is not above 0


def words_of(error: openai.APIStatusError) -> str:
    """Return all that the server says, as it says it."""
    return error.response.text[:MOST_READ_CHARACTERS]


def message_of(error: openai.APIStatusError) -> str:
    """Return what the server says in one short line, its code included."""
    body = error.body if isinstance(error.body, dict) else {}
    text, code = body.get("message"), body.get("code") or body.get("type")
    text = text if isinstance(text, str) and text else error.response.text or "(no text)"
    return " ".join(f"{text} [{code}]".split() if code else text.split())[:300]
