"""Every sentence the gateway says to a caller, in English; ``locales/`` holds the same in other languages.

The English text is the key of the gettext catalogues. A sentence that counts something has two forms here
and as many as its language needs there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Message(NamedTuple):
    """A translatable sentence; ``plural`` is empty unless it counts ``{count}`` of something."""

    singular: str
    plural: str = ""


class Sentence(NamedTuple):
    """A message with its parameters, ready to be put into any language."""

    message: Message
    params: Mapping[str, object] = {}


SUCCESS = Message("success")
FAILED = Message("failed")

IP_NOT_ALLOWED = Message("Requests from your IP address are not allowed.")
TOO_MANY_REQUESTS = Message("Too many requests.")
LIMIT_PER_SECOND = Message(
    "At most {count} request per second is allowed.", "At most {count} requests per second are allowed."
)
LIMIT_PER_MINUTE = Message(
    "At most {count} request per minute is allowed.", "At most {count} requests per minute are allowed."
)
LIMIT_PER_HOUR = Message(
    "At most {count} request per hour is allowed.", "At most {count} requests per hour are allowed."
)
LIMIT_PER_DAY = Message(
    "At most {count} request per day is allowed.", "At most {count} requests per day are allowed."
)
LIMITS_UNAVAILABLE = Message("The gateway cannot check its limits at the moment. Try again in a moment.")
TRY_AGAIN = Message("Try again in {count} second.", "Try again in {count} seconds.")

KEY_MISSING = Message(
    "No API key was given. Send it in the Authorization header as a bearer token: 'Authorization: Bearer YOUR_KEY'."
)
KEY_MISSING_CHAT = Message(
    "No API key was given, and this server has none of its own. Send yours in the field 'api_key'."
)
KEY_MALFORMED = Message("The API key holds characters that no key has.")

NOT_FOUND = Message("There is nothing at {method} {path}.")
METHOD_NOT_ALLOWED = Message("The method {method} is not allowed here. Use {allowed}.")
BODY_TOO_LARGE = Message(
    "The request body is too large: at most {count} byte is accepted.",
    "The request body is too large: at most {count} bytes are accepted.",
)
BAD_REQUEST = Message("The request is malformed: {reason}.")
HEADERS_TOO_LARGE = Message("The request headers are too large.")
TIMEOUT_READING = Message("The request did not arrive in time.")
LOOP_DETECTED = Message("The request came back to the gateway that sent it: its base_url leads to itself.")
INTERNAL_ERROR = Message("The gateway failed while handling the request. The request id is {request_id}.")

UPSTREAM_CONNECT = Message("The upstream server could not be reached.")
UPSTREAM_CONNECT_TIMEOUT = Message("The upstream server could not be reached in time.")
UPSTREAM_TIMEOUT = Message("The upstream server did not answer in time.")
UPSTREAM_PROTOCOL = Message("The upstream server broke off or sent an answer that makes no sense.")
UPSTREAM_NO_CAPACITY = Message("No connection to the upstream server is free.")
OVERLOADED = Message("The gateway has as much to do as it can. Try again in a moment.")
STOPPING = Message("The gateway is being stopped, and this answer was not finished.")

INVALID_JSON = Message("The request body is not valid JSON.")
NOT_AN_OBJECT = Message("The request body must be a JSON object.")
FIELD_REQUIRED = Message("The field '{field}' is required and must not be empty.")
FIELD_NOT_TEXT = Message("The field '{field}' must be a string.")
FIELD_NOT_INTEGER = Message("The field '{field}' must be an integer.")
FIELD_OUT_OF_RANGE = Message("The field '{field}' must be between {minimum} and {maximum}.")
DIALOGUE_SHAPE = Message(
    "The field '{field}' must be a list of messages, each an object with 'role' and 'content' as strings."
)
DIALOGUE_ROLE = Message("The role '{role}' in '{field}' is unknown. Use system, user or assistant.")

UPSTREAM_REFUSED_KEY = Message("OpenAI refused the API key.")
UPSTREAM_FORBIDDEN = Message("OpenAI does not allow this request: {reason}")
UPSTREAM_BAD_REQUEST = Message("OpenAI refused the request: {reason}")
UNKNOWN_MODEL = Message("The model '{model}' does not exist or is not available to this key.")
UPSTREAM_RATE_LIMIT = Message("OpenAI's own rate limit for this key is reached.")
UPSTREAM_QUOTA = Message("The OpenAI quota of this key is used up.")
UPSTREAM_FAILED = Message("OpenAI failed to answer.")

MESSAGES: tuple[Message, ...] = tuple(
    value for name, value in sorted(globals().items()) if name.isupper() and isinstance(value, Message)
)
"""Every message above: what a complete catalogue must contain."""
