"""Captures to CVAT and back: the real SDK against a small server that follows CVAT's API as its schema has it.

A real CVAT needs a dozen containers; whether it does what its schema says is not tested here.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner
from fovea_api.common import Task
from fovea_api.errors import InvalidInput
from fovea_cli.captures import command
from fovea_serving.captures.cvat import CvatUnavailable, Server, pull, push
from fovea_serving.captures.exchange import pictures

from tests.unit.serving.test_capture_exchange import BOX, filled, png

WHEN = "2026-11-26T12:00:00Z"


class Cvat:
    """One task on a CVAT server."""

    def __init__(self) -> None:
        self.url = ""
        self.made: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.order: list[str] = []
        self.annotations: dict[str, Any] = {"version": 0, "tags": [], "shapes": [], "tracks": []}
        self.states = ["completed"]
        self.types = ["annotation"]
        self.deleted: list[int] = []
        self.down = False

    def labels(self) -> list[dict[str, Any]]:
        return [{"id": 11 + index, "name": each["name"]} for index, each in enumerate(self.made["labels"])]

    def task(self) -> dict[str, Any]:
        summary = {"url": f"{self.url}/api/jobs", "count": 0, "completed": 0, "validation": 0}
        return {
            "id": 5, "url": f"{self.url}/api/tasks/5", "name": self.made["name"], "mode": "annotation", "owner": None,
            "assignee": None, "bug_tracker": "", "created_date": WHEN, "updated_date": WHEN, "overlap": 0,
            "segment_size": 0, "status": "annotation", "data_chunk_size": 36, "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset", "size": len(self.order), "image_quality": 95, "data": 3,
            "dimension": "2d", "subset": "", "organization": None, "target_storage": None, "source_storage": None,
            "project_id": None, "guide_id": None, "jobs": summary, "labels": {"url": f"{self.url}/api/labels"},
            "assignee_updated_date": None, "validation_mode": None, "consensus_enabled": False,
        }  # fmt: skip

    def job(self, number: int, start: int, stop: int, state: str, kind: str) -> dict[str, Any]:
        return {
            "id": number, "url": f"{self.url}/api/jobs/{number}", "task_id": 5, "project_id": None, "assignee": None,
            "guide_id": None, "dimension": "2d", "bug_tracker": None, "status": "annotation", "stage": "annotation",
            "state": state, "mode": "annotation", "frame_count": stop - start + 1, "start_frame": start,
            "stop_frame": stop, "data_chunk_size": 36, "data_compressed_chunk_type": "imageset",
            "data_original_chunk_type": "imageset", "created_date": WHEN, "updated_date": WHEN,
            "issues": {"url": f"{self.url}/api/issues", "count": 0}, "labels": {"url": f"{self.url}/api/labels"},
            "type": kind, "organization": None, "target_storage": None, "source_storage": None,
            "assignee_updated_date": None, "parent_job_id": None, "consensus_replicas": 0, "task_name": "captures",
        }  # fmt: skip

    async def answer(self, request: web.Request) -> web.Response:
        if self.down:
            return web.json_response({}, status=502)
        where = (request.method, request.path.rstrip("/"))
        if where == ("GET", "/api/server/about"):
            about = {"name": "CVAT", "description": "", "version": "2.80.0", "logo_url": "", "subtitle": ""}
            return web.json_response(about)
        if request.headers.get("Authorization") != "Bearer t-1":
            return web.json_response({"detail": "no"}, status=401)
        match where:
            case ("POST", "/api/tasks"):
                self.made = await request.json()
                return web.json_response(self.task(), status=201)
            case ("GET", "/api/tasks/5"):
                return web.json_response(self.task())
            case ("POST", "/api/tasks/5/data"):
                return await self.data(request)
            case ("GET", "/api/requests/rq-1"):
                operation = {"type": "create:task", "target": "task", "project_id": None, "task_id": 5, "job_id": None}
                done = {"id": "rq-1", "status": "finished", "message": "", "operation": operation}
                return web.json_response({**done, "created_date": WHEN})
            case ("GET", "/api/tasks/5/data/meta"):
                frames = [{"width": 60, "height": 40, "name": name, "related_files": 0} for name in self.order]
                size = {"size": len(frames), "start_frame": 0, "stop_frame": len(frames) - 1}
                more = {"image_quality": 95, "frame_filter": "", "frames": frames, "deleted_frames": self.deleted}
                return web.json_response({**size, **more, "chunk_size": 36, "chunks_updated_date": WHEN})
            case ("GET", "/api/labels"):
                return web.json_response({"count": 1, "next": None, "previous": None, "results": self.labels()})
            case ("GET", "/api/jobs"):
                share = len(self.order) // len(self.states)
                jobs = [
                    self.job(index + 1, index * share, (index + 1) * share - 1, state, kind)
                    for index, (state, kind) in enumerate(zip(self.states, self.types, strict=True))
                ]
                return web.json_response({"count": len(jobs), "next": None, "previous": None, "results": jobs})
            case ("PUT", "/api/tasks/5/annotations"):
                self.annotations = await request.json()
                return web.json_response(self.stored())
            case ("GET", "/api/tasks/5/annotations"):
                return web.json_response(self.stored())
        return web.json_response({"detail": f"{where} is none of CVAT's"}, status=404)

    async def data(self, request: web.Request) -> web.Response:
        if "Upload-Multiple" in request.headers:
            form = await request.post()
            for value in form.values():
                if isinstance(value, web.FileField):
                    self.files[value.filename.rpartition("/")[2]] = value.file.read()
            return web.json_response({})
        if "Upload-Finish" in request.headers:
            given = await request.json()
            assert given["sorting_method"] == "predefined"
            self.order = given["upload_file_order"]
            return web.json_response({"rq_id": "rq-1"}, status=202)
        return web.json_response({}, status=202)

    def stored(self) -> dict[str, Any]:
        def whole(part: dict[str, Any], number: int) -> dict[str, Any]:
            return {"id": number, "attributes": [], **part}

        shapes = [whole({"elements": [], **each}, index) for index, each in enumerate(self.annotations["shapes"])]
        tags = [whole(each, index) for index, each in enumerate(self.annotations["tags"])]
        return {"version": 1, "tracks": [], "shapes": shapes, "tags": tags}


@pytest.fixture
def cvat() -> Iterator[Cvat]:
    found, loop = Cvat(), asyncio.new_event_loop()

    async def start() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{anything:.*}", found.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield found
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.mark.parametrize("task", [Task.DETECTION, Task.CLASSIFICATION])
def test_predictions_go_out_and_labels_of_completed_jobs_come_back(cvat: Cvat, tmp_path: Path, task: Task) -> None:
    store, server = filled(tmp_path, {"b": 0, "a": 100}, task), Server(cvat.url, token="t-1")
    assert push(store, pictures(store), server, "cells", ["Platelets"]) == 5
    names = [each["name"] for each in cvat.labels()]
    assert names == (["Platelets", "RBC", "WBC"] if task == Task.DETECTION else ["Platelets", "RBC"])
    assert cvat.files == {"b-0.png": png(0), "a-0.png": png(8)}
    assert cvat.order == ["b-0.png", "a-0.png"], "the order is that of their use"
    kind = "shapes" if task == Task.DETECTION else "tags"
    assert {part["source"] for part in cvat.annotations[kind]} == {"auto"}
    cvat.annotations[kind] = [part for part in cvat.annotations[kind] if part["frame"] == 0][:1]
    cvat.states, cvat.types = ["completed", "completed"], ["annotation", "ground_truth"]
    assert pull(store, server, 5) == (1, 0)
    assert pictures(store)[1].label is None, "ground truth checks labels of others"
    cvat.states, cvat.types = ["completed", "in progress"], ["annotation", "annotation"]
    assert pull(store, server, 5) == (1, 0)
    labels = {each.found.capture.id: each.label for each in pictures(store)}
    assert labels["a"] is None, "its job is not completed"
    assert labels["b"] is not None
    part = labels["b"]["objects" if task == Task.DETECTION else "classes"][0]  # type: ignore[index, call-overload]
    assert part == ({"class": "RBC", "box": BOX} if task == Task.DETECTION else {"class": "RBC"})


def test_an_image_is_not_labelled_that_was_deleted_or_has_more_than_boxes(cvat: Cvat, tmp_path: Path) -> None:
    store, server = filled(tmp_path, {"a": 0}), Server(cvat.url, token="t-1")
    assert push(store, pictures(store), server, "cells") == 5
    cvat.annotations["shapes"][0]["rotation"] = 30.0
    with pytest.raises(InvalidInput, match="has a rotated rectangle"):
        pull(store, server, 5)
    cvat.annotations["shapes"][0] |= {"type": "polygon", "points": [0.0, 0.0, 9.0, 0.0, 9.0, 9.0], "rotation": 0.0}
    with pytest.raises(InvalidInput, match="has a polygon"):
        pull(store, server, 5)
    cvat.deleted = [0]
    assert pull(store, server, 5) == (0, 0)
    assert pictures(store)[0].label is None


def test_masks_do_not_go_to_cvat_and_no_secret_stands_in_words(tmp_path: Path) -> None:
    store = filled(tmp_path, {"a": 0}, Task.SEMANTIC_SEGMENTATION)
    server = Server("http://127.0.0.1:9", token="t-1", password="p-1")
    with pytest.raises(InvalidInput, match="do not go to CVAT"):
        push(store, pictures(store), server, "cells")
    assert "t-1" not in repr(server)
    assert "p-1" not in repr(server)


def test_the_commands_say_what_they_did(cvat: Cvat, tmp_path: Path) -> None:
    filled(tmp_path, {"a": 0, "b": 100})
    who, uri = ["--token", "t-1"], f"file://{tmp_path}"
    assert CliRunner().invoke(command, ["push", uri, cvat.url, "--most", "1", *who]).output == "1 images: task 5\n"
    pulled = CliRunner().invoke(command, ["pull", uri, cvat.url, "5", *who])
    assert pulled.output == "1 requests are labelled; 0 images belong to none that is kept as a whole\n"
    assert CliRunner().invoke(command, ["push", uri, cvat.url]).exit_code == 2


def test_a_wrong_token_and_a_server_that_is_down_are_told_apart(cvat: Cvat, tmp_path: Path) -> None:
    store = filled(tmp_path, {"a": 0})
    with pytest.raises(InvalidInput, match="CVAT answers 401"):
        pull(store, Server(cvat.url, token="t-2"), 5)
    with pytest.raises(InvalidInput, match="CVAT answers 404"):
        pull(store, Server(cvat.url, token="t-1"), 6)
    cvat.down = True
    with pytest.raises(CvatUnavailable):
        pull(store, Server(cvat.url, token="t-1"), 5)
    with pytest.raises(CvatUnavailable):
        push(store, pictures(store), Server("http://127.0.0.1:9", token="t-1"), "cells")
    assert json.dumps(cvat.made) == "{}"
