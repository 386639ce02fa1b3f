#!/usr/bin/env python3
"""Serving beside what one would write by hand: the same model on the same cores, in one run, turn about.

    .venv/bin/python benchmarks/serving.py BUNDLE IMAGES [--case NAME ...] [--seconds 4] [--rounds 3] [--json FILE]

Every number is a median over rounds in which each way has its turn: what else the machine does meets all of them.
The ratios and the CPU time carry to other machines; answers a second do not.

`triton` needs the server that `make tools` installs; `litserve` is left out without `pip install litserve`. `soak` runs
only when it is named: `--case soak --seconds 120 --rounds 10` takes twenty minutes. All others together take about ten
on an idle machine; `--seconds 1 --rounds 1` shows in two or three whether all of it runs, and no figures to go by.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import numpy as np
from fovea_serving.backends.cpus import usable_cpus
from fovea_serving.bundle import Bundle, load_bundle
from fovea_serving.pipeline import Postprocess, Preprocess, decode
from fovea_serving.predictor import Predictor
from tritonclient.grpc.aio import InferenceServerClient, InferInput, InferRequestedOutput

BIN = Path(sys.executable).parent
CACHE = Path(os.environ.get("FOVEA_CACHE") or Path.home() / ".cache" / "fovea")
LAST_LINES = 5
"""Lines of a log that are shown where what writes it does not answer."""
Ask = Callable[[bytes], Awaitable[HTTPStatus]]
"""Asks about an image: OK, or why there is no answer."""
UNANSWERED = {HTTPStatus.TOO_MANY_REQUESTS: "refused", HTTPStatus.GATEWAY_TIMEOUT: "timed out"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get an answer."""

    name: str
    ask: Ask


@dataclass(slots=True)
class Measured:
    """What a way did in its turns."""

    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[HTTPStatus] = field(default_factory=Counter)

    async def ask(self, way: Way, image: bytes) -> HTTPStatus:
        """Asks once."""
        start = time.perf_counter()
        status = await way.ask(image)
        self.statuses[status] += 1
        if status is HTTPStatus.OK:
            self.latencies.append(time.perf_counter() - start)
        return status

    def row(self) -> dict[str, float]:
        """Answers a second, CPU time of all processes for an answer, and latencies."""
        quantiles = np.percentile(self.latencies, (50, 95)) * 1000 if self.latencies else (np.nan, np.nan)
        return {
            "answers/s": round(statistics.median(self.rates), 2),
            "CPU ms": round(statistics.median(self.cpu) * 1000, 1),
            "p50 ms": round(float(quantiles[0]), 1),
            "p95 ms": round(float(quantiles[1]), 1),
        } | {name: round(self.statuses[status] / self.statuses.total(), 3) for status, name in UNANSWERED.items()}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is served and how long it is asked."""

    folder: Path
    images: Sequence[bytes]
    seconds: float
    rounds: int
    work: Path

    @property
    def bundle(self) -> Bundle:
        """The bundle, verified."""
        return load_bundle(self.folder)


Load = Callable[[Way, "Setting", Measured], Awaitable[None]]
"""Asks a way for a turn, and notes what came of it."""


def clients(number: int) -> Load:
    """So many clients, each asking again when it was answered."""

    async def load(way: Way, setting: Setting, measured: Measured) -> None:
        end = time.perf_counter() + setting.seconds

        async def client(index: int) -> None:
            while time.perf_counter() < end:
                if await measured.ask(way, setting.images[index % len(setting.images)]) is not HTTPStatus.OK:
                    await asyncio.sleep(1)  # as Retry-After says
                index += number

        await asyncio.gather(*(client(index) for index in range(number)))

    return load


def arrivals(rate: float) -> Load:
    """So many requests a second, evenly spread, whether those before were answered or not."""

    async def load(way: Way, setting: Setting, measured: Measured) -> None:
        start, tasks = time.perf_counter(), []
        for index in range(round(rate * setting.seconds)):
            await asyncio.sleep(start + index / rate - time.perf_counter())
            tasks.append(asyncio.create_task(measured.ask(way, setting.images[index % len(setting.images)])))
        await asyncio.gather(*tasks)

    return load


async def turn_about(setting: Setting, ways: Sequence[Way], load: Load) -> dict[str, Measured]:
    """Puts the load on each way in turn, in rounds."""
    results = {way.name: Measured() for way in ways}
    for way in ways:  # first requests connect, compile and allocate
        await asyncio.gather(*(way.ask(setting.images[0]) for _ in range(CLIENTS)))
    for number in range(setting.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            measured = results[way.name]
            start, spent, answered = time.perf_counter(), cpu_seconds(), len(measured.latencies)
            await load(way, setting, measured)
            answered = len(measured.latencies) - answered
            measured.rates.append(answered / (time.perf_counter() - start))
            measured.cpu.append((cpu_seconds() - spent) / max(1, answered))
    return results


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has started: what a busy machine does not distort."""
    return sum(int(words[11]) + int(words[12]) for words in our_processes().values()) / os.sysconf("SC_CLK_TCK")


def resident_bytes() -> int:
    """Memory of all processes that this one has started."""
    pages = sum(int(words[21]) for pid, words in our_processes().items() if pid != os.getpid())
    return pages * os.sysconf("SC_PAGE_SIZE")


def our_processes() -> dict[int, list[str]]:
    """This process and all that it has started, with the words of their /proc/PID/stat after the name."""
    every = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            every[int(file.parent.name)] = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
    parents = {pid: int(words[1]) for pid, words in every.items()}
    return {pid: words for pid, words in every.items() if _is_ours(pid, parents)}


def _is_ours(pid: int, parents: Mapping[int, int]) -> bool:
    while pid and pid != os.getpid():
        pid = parents.get(pid, 0)
    return bool(pid)


# --- What is started ------------------------------------------------------------------------------------


@asynccontextmanager
async def process(command: Sequence[str | Path], log: Path, **environment: str) -> AsyncIterator[None]:
    """A program of its own; it is ended with the block, and what it has started with it."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            [str(word) for word in command],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield
    except SystemExit:
        print(f"{log.name}:", *log.read_text(errors="replace").splitlines()[-LAST_LINES:], sep="\n", file=sys.stderr)
        raise
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


async def until(ask: Callable[[], Awaitable[bool]], what: str, seconds: float = 240) -> None:
    """Waits for something that is being started."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if await ask():
                return
        except (aiohttp.ClientError, OSError):
            pass
        await asyncio.sleep(0.3)
    sys.exit(f"{what} does not answer")


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


def client_session() -> aiohttp.ClientSession:
    """Connections that wait for less than the five seconds after which uvicorn closes them."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2))


Body = Callable[[bytes], tuple[bytes | aiohttp.FormData, Mapping[str, str]]]
"""What is posted for an image, and the headers that say so."""


def as_image(image: bytes) -> tuple[bytes, Mapping[str, str]]:
    """The image itself."""
    return image, {"content-type": "image/jpeg"}


def as_form(image: bytes) -> tuple[aiohttp.FormData, Mapping[str, str]]:
    """A form with the image in it."""
    form = aiohttp.FormData()
    form.add_field("image", image, filename="image.jpg", content_type="image/jpeg")
    return form, {}


def post(session: aiohttp.ClientSession, url: str, body: Body) -> Ask:
    """Posts images."""

    async def ask(image: bytes) -> HTTPStatus:
        data, headers = body(image)
        async with session.post(url, data=data, headers=headers) as response:
            content, status = await response.read(), HTTPStatus(response.status)
            if status is not HTTPStatus.OK and status not in UNANSWERED:
                sys.exit(f"{url} answers {status}: {content[:500]!r}")
            return status

    return ask


async def gateway(
    stack: AsyncExitStack, setting: Setting, runtime: str, address: str, inference: Mapping[str, object]
) -> str:
    """A gateway before a runtime, as on the cluster; the address that it answers at."""
    bundle = f"file://{setting.folder}"
    version = {"name": "v", "role": "Stable", "weight": 100, "bundle": bundle, "runtime": runtime, "address": address}
    config = {
        "namespace": "benchmark",
        "deployment": "benchmark",
        "inference": inference,
        "authentication": {"type": "None"},
        "versions": [version],
    }
    file, port = setting.work / f"gateway-{runtime}.json", free_port()
    file.write_text(json.dumps(config))
    command = [BIN / "fovea", "gateway", "--config", file, "--host", "127.0.0.1", "--port", port]
    await stack.enter_async_context(
        process([*command, "--admin-port", free_port()], setting.work / f"gateway-{runtime}.log")
    )
    return f"http://127.0.0.1:{port}"


MINIMAL = textwrap.dedent(
    '''
    """The least that serves this model with Ray Serve: decode, resize and run in a replica, requests in batches."""
    import asyncio, sys
    from ray import serve
    from starlette.responses import JSONResponse
    from fovea_serving.bundle import load_bundle
    from fovea_serving.predictor import Predictor

    @serve.deployment(name="Minimal", max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
    class Minimal:
        def __init__(self, folder):
            bundle = load_bundle(folder)
            self.classes, self.predictor = bundle.manifest.classes, Predictor.from_bundle(bundle, threads=1)

        @serve.batch(max_batch_size=8, batch_wait_timeout_s=0.005)
        async def predict(self, images):
            return await asyncio.to_thread(self.predictor.predict, images)

        async def __call__(self, request):
            prediction = await self.predict(await request.body())
            return JSONResponse(prediction.to_dict(self.classes))

    def app(args):
        return Minimal.bind(args["folder"])
    '''
)


async def ray(stack: AsyncExitStack, setting: Setting, applications: Mapping[str, Mapping[str, object]]) -> str:
    """A Ray of one node with applications of Ray Serve; the address of its proxy."""
    (setting.work / "minimal_ray_app.py").write_text(MINIMAL)
    dashboard, port = free_port(), free_port()
    command = [
        BIN / "ray", "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=100000000",
        "--node-ip-address=127.0.0.1", f"--port={free_port()}", f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={free_port()}", f"--temp-dir=/tmp/fovea-benchmark-{os.getpid()}",
    ]  # fmt: skip
    await stack.enter_async_context(
        process(
            command,
            setting.work / "ray.log",
            PYTHONPATH=str(setting.work),
            RAY_USAGE_STATS_ENABLED="0",
            RAY_AUTH_MODE="disabled",
        )
    )
    session = await stack.enter_async_context(client_session())
    url = f"http://127.0.0.1:{dashboard}/api/serve/applications/"

    async def deployed() -> bool:
        async with session.get(url) as response:
            states = {name: each["status"] for name, each in (await response.json())["applications"].items()}
            if "DEPLOY_FAILED" in states.values():
                sys.exit(await response.text())
            return states == dict.fromkeys(applications, "RUNNING")

    async def declared() -> bool:
        content = {
            "http_options": {"host": "127.0.0.1", "port": port},
            "applications": [{"name": name, "route_prefix": f"/{name}", **app} for name, app in applications.items()],
        }
        async with session.put(url, json=content) as response:
            return response.status == 200

    await until(declared, "Ray")
    await until(deployed, "Ray Serve")
    return f"http://127.0.0.1:{port}"


def fovea_application(setting: Setting, inference: Mapping[str, object]) -> dict[str, object]:
    """Our application, on one CPU."""
    deployment = {"name": "Model", "user_config": inference, "ray_actor_options": {"num_cpus": 1}}
    return {
        "import_path": "fovea_serving.runtimes.ray_serve:app",
        "args": {"bundle": f"file://{setting.folder}"},
        "deployments": [deployment],
    }


async def triton(stack: AsyncExitStack, setting: Setting, inference: Mapping[str, object]) -> str:
    """A tritonserver with the bundle, as its pod starts it; the address of its gRPC."""
    grpc, http = free_port(), free_port()
    command = [
        BIN / "fovea", "triton", setting.folder, "--backend=python", "--inference", json.dumps(inference),
        f"--repository={setting.work / 'repository'}", "--", f"--grpc-port={grpc}", f"--http-port={http}",
        "--allow-metrics=false",
    ]  # fmt: skip
    path = f"{os.environ['PATH']}{os.pathsep}{CACHE / 'triton' / 'bin'}"
    await stack.enter_async_context(process(command, setting.work / "triton.log", PATH=path))
    session = await stack.enter_async_context(client_session())

    async def loaded() -> bool:
        async with session.get(f"http://127.0.0.1:{http}/v2/models/model/ready") as response:
            return response.status == 200

    await until(loaded, "Triton")
    return f"127.0.0.1:{grpc}"


# --- Cases ----------------------------------------------------------------------------------------------

CLIENTS = 10
"""A batch and one more for each of two CPUs: the model always has work, and a gateway refuses none of them."""
INFERENCE = {"batching": {"maxSize": 8, "maxDelayMilliseconds": 5}, "timeoutSeconds": 60}


async def local(setting: Setting) -> dict[str, dict[str, float]]:
    """`fovea serve` against ONNX Runtime with the same decoding in one process, without HTTP or any server."""
    async with AsyncExitStack() as stack:
        port = free_port()
        command = [BIN / "fovea", "serve", setting.folder, "--port", str(port), "--timeout", "60"]
        await stack.enter_async_context(process(command, setting.work / "serve.log"))
        predictor, classes = Predictor.from_bundle(setting.bundle), setting.bundle.manifest.classes
        threads = stack.enter_context(ThreadPoolExecutor(usable_cpus()))

        def predict(image: bytes) -> str:
            return json.dumps(predictor.predict([image])[0].to_dict(classes))

        async def raw(image: bytes) -> HTTPStatus:
            await asyncio.get_running_loop().run_in_executor(threads, predict, image)
            return HTTPStatus.OK

        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        ours = await posting(session, setting, {"fovea serve": f"http://127.0.0.1:{port}/v1/predict"})
        return await compare(setting, [*ours, Way("raw ONNX Runtime", raw)])


async def ray_serve(setting: Setting) -> dict[str, dict[str, float]]:
    """Gateway and Ray Serve, against a minimal application on the same Ray Serve."""
    async with AsyncExitStack() as stack:
        minimal = {"import_path": "minimal_ray_app:app", "args": {"folder": str(setting.folder)}}
        applications = {"fovea": fovea_application(setting, INFERENCE), "minimal": minimal}
        address = await ray(stack, setting, applications)
        through = await gateway(stack, setting, "RayServe", f"{address}/fovea", INFERENCE)
        session = await stack.enter_async_context(client_session())
        urls = {"gateway + Ray Serve": f"{through}/v1/predict", "minimal Ray Serve": f"{address}/minimal"}
        return await compare(setting, await posting(session, setting, urls))


async def triton_case(setting: Setting) -> dict[str, dict[str, float]]:
    """Gateway and Triton, against a client that prepares images for the same tritonserver by itself."""
    async with AsyncExitStack() as stack:
        address = await triton(stack, setting, INFERENCE)
        through = await gateway(stack, setting, "Triton", address, INFERENCE)
        manifest = setting.bundle.manifest
        preprocess = Preprocess.from_manifest(manifest.preprocessing)
        postprocess = Postprocess.from_manifest(manifest.task, manifest.postprocessing)
        client = InferenceServerClient(address)
        stack.push_async_callback(client.close)
        outputs = [InferRequestedOutput(name) for name in postprocess.outputs]

        async def plain(image: bytes) -> HTTPStatus:
            tensor, geometry = preprocess(decode(image))
            given = InferInput("image", [1, *tensor.shape], "FP32")
            given.set_data_from_numpy(tensor[None])
            result = await client.infer("model", [given], outputs=outputs)
            arrays = {name: result.as_numpy(name) for name in postprocess.outputs}
            (prediction,) = postprocess(arrays, [geometry], confidence=postprocess.confidence_threshold)
            json.dumps(prediction.above(0.5).to_dict(manifest.classes))
            return HTTPStatus.OK

        session = await stack.enter_async_context(client_session())
        ours = await posting(session, setting, {"gateway + Triton": f"{through}/v1/predict"})
        return await compare(setting, [*ours, Way("plain Triton", plain)])


async def litserve(setting: Setting) -> dict[str, dict[str, float]]:
    """`fovea serve` against LitServe with the same model, both on the same cores."""
    async with AsyncExitStack() as stack:
        script, port, own = setting.work / "lit.py", free_port(), free_port()
        script.write_text(
            textwrap.dedent(
                f"""
                import litserve as ls
                from fastapi import Request
                from fovea_serving.bundle import load_bundle
                from fovea_serving.predictor import Predictor

                class Api(ls.LitAPI):
                    def setup(self, device):
                        bundle = load_bundle({str(setting.folder)!r})
                        self.classes, self.predictor = bundle.manifest.classes, Predictor.from_bundle(bundle)
                    def decode_request(self, request: Request): return request["image"].file.read()
                    def batch(self, inputs): return list(inputs)
                    def unbatch(self, output): return output
                    def predict(self, images): return self.predictor.predict(images)
                    def encode_response(self, output): return output.to_dict(self.classes)

                if __name__ == "__main__":
                    api = Api(max_batch_size=8, batch_timeout=0.005)
                    ls.LitServer(api, accelerator="cpu").run(host="127.0.0.1", port={port}, num_api_servers=1,
                                                             generate_client_file=False, log_level="warning")
                """
            )
        )
        await stack.enter_async_context(process([sys.executable, script], setting.work / "litserve.log"))
        command = [BIN / "fovea", "serve", setting.folder, "--port", str(own), "--timeout", "60"]
        await stack.enter_async_context(process(command, setting.work / "serve.log"))
        session = await stack.enter_async_context(client_session())
        urls = {"fovea serve": f"http://127.0.0.1:{own}/v1/predict", "LitServe": f"http://127.0.0.1:{port}/predict"}
        return await compare(setting, await posting(session, setting, urls, as_form))  # LitServe takes no bare bytes


async def batching(setting: Setting) -> dict[str, dict[str, float]]:
    """The replica of Ray Serve with and without batches."""
    async with AsyncExitStack() as stack:
        sizes = {"batches of 8": 8, "one at a time": 1}
        applications = {
            f"b{size}": fovea_application(setting, {**INFERENCE, "batching": {"maxSize": size}})
            for size in sizes.values()
        }
        address = await ray(stack, setting, applications)
        session = await stack.enter_async_context(client_session())
        ways = await posting(session, setting, {name: f"{address}/b{size}" for name, size in sizes.items()})
        return table(await turn_about(setting, ways, clients(CLIENTS)), "full load: ")


async def overload(setting: Setting) -> dict[str, dict[str, float]]:
    """Twice as many requests as it can answer: what is refused, and how long the answered ones wait."""
    async with AsyncExitStack() as stack:
        address = await triton(stack, setting, INFERENCE)
        inference = {**INFERENCE, "timeoutSeconds": 1}
        through = await gateway(stack, setting, "Triton", address, inference)
        session = await stack.enter_async_context(client_session())
        way = await posting(session, setting, {"gateway + Triton": f"{through}/v1/predict"})
        full = table(await turn_about(setting, way, clients(CLIENTS)), "full load: ")
        rate = next(iter(full.values()))["answers/s"]
        return full | table(await turn_about(setting, way, arrivals(2 * rate)), "twice what it can: ")


async def soak(setting: Setting) -> dict[str, dict[str, float]]:
    """`fovea serve` under 32 clients for all rounds: whether memory stays and every answer is the first one's equal."""
    async with AsyncExitStack() as stack:
        port = free_port()
        command = [BIN / "fovea", "serve", setting.folder, "--port", str(port), "--timeout", "60"]
        await stack.enter_async_context(process(command, setting.work / "serve.log"))
        session = await stack.enter_async_context(client_session())
        url = f"http://127.0.0.1:{port}/v1/predict"
        await posting(session, setting, {"fovea serve": url})

        alone: dict[bytes, object] = {}
        different = 0

        async def ask(image: bytes) -> HTTPStatus:
            nonlocal different
            async with session.post(url, data=image, headers={"content-type": "image/jpeg"}) as response:
                status, content = HTTPStatus(response.status), await response.json()
            if status is HTTPStatus.OK:
                different += content["predictions"] != alone.setdefault(image, content["predictions"])
            return status

        for image in setting.images:
            await ask(image)
        rows, ways = {}, [Way("fovea serve", ask)]
        for number in range(1, setting.rounds + 1):
            (measured,) = (await turn_about(replace(setting, rounds=1), ways, clients(32))).values()
            memory = resident_bytes() / 2**20
            rows[f"round {number}"] = measured.row() | {"different": different, "memory MiB": round(memory, 1)}
        return rows


CASES = {
    "local": local,
    "ray_serve": ray_serve,
    "triton": triton_case,
    "litserve": litserve,
    "batching": batching,
    "overload": overload,
    "soak": soak,
}


async def posting(
    session: aiohttp.ClientSession, setting: Setting, urls: Mapping[str, str], body: Body = as_image
) -> list[Way]:
    """Ways that post images to addresses, once all of them answer."""

    async def answers(url: str) -> bool:
        data, headers = body(setting.images[0])
        async with session.post(url, data=data, headers=headers) as response:
            return response.status == 200

    for name, url in urls.items():
        await until(partial(answers, url), name)
    return [Way(name, post(session, url, body)) for name, url in urls.items()]


async def compare(setting: Setting, ways: Sequence[Way]) -> dict[str, dict[str, float]]:
    """Full load for throughput; half of it, and a single client, for what is added to the latency of a request."""
    ours, theirs = (way.name for way in ways)
    full = await turn_about(setting, ways, clients(CLIENTS))
    half = await turn_about(setting, ways, arrivals(min(statistics.median(each.rates) for each in full.values()) / 2))
    single = await turn_about(setting, ways, clients(1))
    rates = [a / b for a, b in zip(full[ours].rates, full[theirs].rates, strict=True) if b]
    cpu = [statistics.median(full[name].cpu) for name in (ours, theirs)]
    ratio = {
        "throughput": round(statistics.median(rates), 3),
        "per core": round(cpu[1] / cpu[0], 3),
        "added CPU ms": round((cpu[0] - cpu[1]) * 1000, 2),
    }
    for name, results in {"half load": half, "one client": single}.items():
        for quantile in (50, 95):
            added = np.subtract(*(np.percentile(results[each].latencies, quantile) for each in (ours, theirs)))
            ratio[f"{name}, added p{quantile} ms"] = round(float(added) * 1000, 2)
    return table(full, "full load: ") | table(half, "half load: ") | table(single, "one client: ") | {"ratio": ratio}


def table(results: Mapping[str, Measured], prefix: str) -> dict[str, dict[str, float]]:
    """Rows by name."""
    return {f"{prefix}{name}": measured.row() for name, measured in results.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path, help="folder of JPEG files")
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    images = [file.read_bytes() for file in sorted(given.images.rglob("*.jpg"))[:32]]
    cases = given.case or [name for name in CASES if name != "soak"]
    if "litserve" in cases and find_spec("litserve") is None:
        if given.case:
            parser.error("the case litserve needs `pip install litserve`")
        print("litserve is left out: it is not installed")
        cases.remove("litserve")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # ends what was started, too
    results = {}
    with tempfile.TemporaryDirectory(prefix="fovea-benchmark-") as work:
        for name in cases:
            setting = Setting(given.bundle.resolve(), images, given.seconds, given.rounds, Path(work))
            results[name] = asyncio.run(CASES[name](setting))
            print(f"\n{name}")
            for row, values in results[name].items():
                print(f"  {row:34}", *(f"{key} {value:<9g}" for key, value in values.items()), flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
