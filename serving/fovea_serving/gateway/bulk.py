"""Many images in one request: each is answered for itself, and waits where a single request would be refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

from fovea_api.errors import FoveaError
from pydantic import JsonValue

from fovea_serving.gateway.answers import prediction_json
from fovea_serving.gateway.gateway import Gateway
from fovea_serving.gateway.problems import problem_json
from fovea_serving.gateway.trial import Choice
from fovea_serving.upstreams import Overloaded

MOST_OF_ID = 120
"""Characters of the request's id that the id of an image begins with: no id is longer than 128."""


async def predict_lines(
    gateway: Gateway, request_id: str, client: str, images: Sequence[bytes], choice: Choice
) -> AsyncIterator[bytes]:
    """A line of JSON for each image, in the order in which they are done, with its `index`, from 0.

    A line has the prediction and the model's run, or `error`: the others are answered all the same. For feedback an
    image is a request of its own, with the id of the request, a hyphen and the index.
    """
    at_once = asyncio.Semaphore(2 * gateway.inference.batching.max_size)

    async def predict(index: int, image: bytes) -> dict[str, JsonValue]:
        own_id = f"{request_id[:MOST_OF_ID]}-{index}"
        async with at_once:
            while True:
                try:
                    with gateway.call(own_id, client, waits=True) as call:
                        answered = await gateway.predict(call, [image], choice)
                    manifest = answered.version.model.manifest
                    prediction = prediction_json(answered.answers[0], manifest.classes)
                    return {"index": index, "run": manifest.lineage.run, **prediction}
                except Overloaded as error:
                    await asyncio.sleep(error.retry_after)
                except FoveaError as error:
                    return {"index": index, "error": problem_json(error, own_id)}

    tasks = [asyncio.create_task(predict(index, image)) for index, image in enumerate(images)]
    try:
        for done in asyncio.as_completed(tasks):
            yield json.dumps(await done, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    finally:
        for task in tasks:
            task.cancel()
