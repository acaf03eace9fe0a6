"""Google Cloud Storage emulator in memory, on loopback: `python -m tests.support.gcs_emulator PORT BUCKET`.

gcp-storage-emulator, and what it lacks of the real service where VIM relies on it: the precondition that an object
must not exist yet (`ifGenerationMatch=0`), giving up an upload that was begun, and a bucket that wants a login. It
answers one request at a time, so looking and writing are one act here, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

from tests.support.common import PRIVATE


def guarded(insert: Callable[..., None]) -> Callable[..., None]:
    """The handler of uploads, refusing (412) one under the precondition where the object exists."""

    def handler(request: Any, response: Any, storage: Any, *rest: Any) -> None:
        asked = request.query.get("ifGenerationMatch") == ["0"] and "upload_id" not in request.query
        if asked and exists(storage, request.params["bucket_name"], name_of(request)):
            response.status = HTTPStatus.PRECONDITION_FAILED
        else:
            insert(request, response, storage, *rest)

    return handler


def name_of(request: Any) -> str:
    """The object's name, from the address or from the description that leads the data."""
    if "name" in request.query:
        return str(request.query["name"][0])
    return str((request.data.get("meta") or request.data)["name"])


def exists(storage: Any, bucket: str, name: str) -> bool:
    """Whether the bucket has the object."""
    try:
        storage.get_file_obj(bucket, name)
    except NotFound:
        return False
    return True


def give_up(request: Any, response: Any, storage: Any, *_: Any) -> None:
    """Forget an upload that was begun."""
    storage.delete_resumable_file_obj(request.query["upload_id"][0])
    response.status = HTTPStatus.NO_CONTENT


def closed(handler: Callable[..., None]) -> Callable[..., None]:
    """The handler, for everybody but those who come without a login to the bucket `PRIVATE`."""

    def asking(request: Any, response: Any, storage: Any, *rest: Any) -> None:
        if (request.params or {}).get("bucket_name") != PRIVATE:
            return handler(request, response, storage, *rest)
        response.status = HTTPStatus.UNAUTHORIZED
        said = "Anonymous caller does not have storage.objects.get access to the Google Cloud Storage object."
        response.json({"error": {"code": 401, "message": said}})

    return asking


def completed(pattern: str, methods: dict[str, Callable[..., None]]) -> tuple[str, dict[str, Callable[..., None]]]:
    """A route with what is added here."""
    if methods.get(server.POST) is objects.insert:
        methods = {**methods, server.POST: guarded(methods[server.POST]), server.DELETE: give_up}
    return pattern, {method: closed(handler) for method, handler in methods.items()}


if __name__ == "__main__":
    server.HANDLERS = tuple(completed(*route) for route in server.HANDLERS)
    server.create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket=sys.argv[2]).run()
