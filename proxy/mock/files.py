"""Uploaded files, kept in memory for as long as the mock runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from openai.types import FileDeleted, FileObject, FilePurpose
from tornado import httputil

from proxy.mock import errors
from proxy.mock.answers import listing, to_json

PURPOSES: tuple[str, ...] = get_args(FilePurpose)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One upload: what is said about it, its very bytes, and their digest in hexadecimal."""

    about: FileObject
    content: bytes
    sha256: str


class Form:
    """A ``multipart/form-data`` body (RFC 7578), read by Tornado. Raises `ApiError` 400 if it is none."""

    def __init__(self, content_type: str, body: bytes, headers: httputil.HTTPHeaders) -> None:
        self._fields: dict[str, list[bytes]] = {}
        self._files: dict[str, list[httputil.HTTPFile]] = {}
        if not content_type.startswith("multipart/form-data"):
            raise errors.ApiError(
                400, f"The content type must be multipart/form-data, not {content_type or 'absent'}."
            )
        try:
            httputil.parse_body_arguments(content_type, body, self._fields, self._files, headers)
        except httputil.HTTPInputError as error:
            raise errors.ApiError(400, f"Could not parse multipart form: {error}") from None

    def text(self, name: str) -> str | None:
        """A field's value, None without one."""
        values = self._fields.get(name)
        return values[-1].decode("utf-8", "replace") if values else None

    def required(self, name: str) -> str:
        """A field's value; raises `ApiError` 400 without one."""
        value = self.text(name)
        if not value:
            raise errors.missing_parameter(name)
        return value

    def file(self, name: str = "file") -> httputil.HTTPFile:
        """A file; raises `ApiError` 400 without one."""
        files = self._files.get(name)
        if not files:
            raise errors.missing_parameter(name)
        return files[-1]


class FileShelf(Mapping[str, StoredFile]):
    """The files by id, in order of upload."""

    def __init__(self) -> None:
        self._files: dict[str, StoredFile] = {}

    def __getitem__(self, id: str) -> StoredFile:
        return self._files[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def find(self, id: str) -> StoredFile:
        """The file of this id; raises `ApiError` 404."""
        if id not in self._files:
            raise errors.ApiError(404, f"No such File object: {id}", param="id")
        return self._files[id]

    def upload(self, form: Form, id: str, created: int) -> bytes:
        """Keep the file of a form and answer its file object."""
        file = form.file()
        purpose = form.required("purpose")
        if purpose not in PURPOSES:
            raise errors.invalid_value("purpose", "one of " + ", ".join(PURPOSES))
        # construct() as the SDK itself does: not every purpose one may ask for is in the answer's type.
        about = FileObject.construct(
            id=f"file-{id}",
            object="file",
            bytes=len(file.body),
            created_at=created,
            filename=file.filename,
            purpose=purpose,
            status="processed",
            expires_at=_expiry(form, created),
            status_details=None,
        )
        self._files[about.id] = StoredFile(about, file.body, hashlib.sha256(file.body).hexdigest())
        return to_json(about)

    def list(self, query: Mapping[str, str]) -> bytes:
        """The file objects, newest first; ``order``, ``purpose``, ``after``, ``limit`` as OpenAI has them."""
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise errors.invalid_value("order", "asc or desc")
        limit = query.get("limit", "10000")
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:6]) <= 10_000:
            raise errors.invalid_value("limit", "a whole number from 1 to 10000")
        found = [file.about for file in self._files.values()]
        if order == "desc":
            found.reverse()
        if "purpose" in query:
            found = [about for about in found if about.purpose == query["purpose"]]
        if "after" in query:
            ids = [about.id for about in found]
            if query["after"] not in ids:
                raise errors.invalid_value("after", "the id of a file in the list")
            found = found[ids.index(query["after"]) + 1 :]
        page = found[: int(limit)]
        return listing(
            page,
            has_more=len(found) > len(page),
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
        )

    def delete(self, id: str) -> bytes:
        """Forget a file and say so."""
        self.find(id)
        del self._files[id]
        kind: Literal["file"] = "file"
        return to_json(FileDeleted(id=id, object=kind, deleted=True))


def _expiry(form: Form, created: int) -> int | None:
    seconds = form.text("expires_after[seconds]")
    if seconds is None:
        return None
    if not seconds.isascii() or not seconds.isdigit() or not 3600 <= int(seconds[:9]) <= 2_592_000:
        raise errors.invalid_value("expires_after[seconds]", "a whole number from 3600 to 2592000")
    return created + int(seconds)
