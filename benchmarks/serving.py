#!/usr/bin/env python3
"""Serving beside what one would write by hand: the same model on the same cores, in one run, turn about.

    .venv/bin/python benchmarks/serving.py BUNDLE IMAGES [--case NAME ...] [--seconds 4] [--rounds 3] [--json FILE]

Every number is a median over rounds in which each way has its turn: what else the machine does meets all of them.
The ratios and the CPU time carry to other machines; answers a second do not.

`triton` needs the server that `make tools` installs, `litserve` needs `pip install litserve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
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
Ask = Callable[[bytes], Awaitable[bool]]
"""Asks about an image; False where the service refused."""


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
    refused: int = 0
    sent: int = 0

    def row(self) -> dict[str, float]:
        """Answers a second, CPU time of all processes for an answer, and latencies."""
        quantiles = np.percentile(self.latencies, (50, 95)) * 1000 if self.latencies else (np.nan, np.nan)
        return {
            "answers/s": round(statistics.median(self.rates), 2),
            "CPU ms": round(statistics.median(self.cpu) * 1000, 1),
            "p50 ms": round(float(quantiles[0]), 1),
            "p95 ms": round(float(quantiles[1]), 1),
            "refused": round(self.refused / max(1, self.sent), 3),
        }


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


async def turn_about(setting: Setting, ways: Sequence[Way], clients: int) -> dict[str, Measured]:
    """Lets each way answer as many clients as are given, each asking again when it was answered; in rounds."""
    results = {way.name: Measured() for way in ways}
    for way in ways:  # first requests connect, compile and allocate
        await asyncio.gather(*(way.ask(setting.images[0]) for _ in range(clients)))
    for number in range(setting.rounds):
        for way in ways if number % 2 == 0 else reversed(ways):
            await _turn(setting, way, clients, results[way.name])
    return results


async def _turn(setting: Setting, way: Way, clients: int, measured: Measured) -> None:
    end, answered = time.perf_counter() + setting.seconds, 0

    async def client(number: int) -> None:
        nonlocal answered
        index = number
        while (start := time.perf_counter()) < end:
            ok = await way.ask(setting.images[index % len(setting.images)])
            measured.sent += 1
            if ok:
                answered += 1
                measured.latencies.append(time.perf_counter() - start)
            else:
                measured.refused += 1
                await asyncio.sleep(0.05)
            index += clients

    start, spent = time.perf_counter(), cpu_seconds()
    await asyncio.gather(*(client(number) for number in range(clients)))
    measured.rates.append(answered / (time.perf_counter() - start))
    measured.cpu.append((cpu_seconds() - spent) / max(1, answered))


def cpu_seconds() -> float:
    """CPU time of this process and of all that it has started: what a busy machine does not distort."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        parents[int(file.parent.name)] = int(words[1])
        ticks[int(file.parent.name)] = int(words[11]) + int(words[12])
    return sum(ticks[pid] for pid in parents if _is_ours(pid, parents)) / os.sysconf("SC_CLK_TCK")


def _is_ours(pid: int, parents: Mapping[int, int]) -> bool:
    while pid and pid != os.getpid():
        pid = parents.get(pid, 0)
    return bool(pid)


# --- What is started ------------------------------------------------------------------------------------


@asynccontextmanager
async def process(
    command: Sequence[str | Path], log: Path, **environment: str
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A program of its own; it is ended with the block."""
    with log.open("wb") as output:
        running = subprocess.Popen(
            [str(word) for word in command], env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait)


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
    sys.exit(f"{what} does not answer; see the logs")


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


def client_session() -> aiohttp.ClientSession:
    """Connections that wait for less than the five seconds after which uvicorn closes them."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2))


def post(session: aiohttp.ClientSession, url: str) -> Ask:
    """Posts image bytes."""

    async def ask(image: bytes) -> bool:
        async with session.post(url, data=image, headers={"content-type": "image/jpeg"}) as response:
            content = await response.read()
            if response.status == 429:
                return False
            if response.status != 200:
                sys.exit(f"{url} answers {response.status}: {content[:500]!r}")
            return True

    return ask


async def gateway(
    stack: AsyncExitStack, setting: Setting, runtime: str, address: str, inference: Mapping[str, object]
) -> str:
    """A gateway before a runtime, as on the cluster; the address that it answers at."""
    config = {
        "namespace": "benchmark",
        "deployment": "benchmark",
        "runtime": runtime,
        "inference": inference,
        "authentication": {"type": "None"},
        "versions": [
            {"name": "v", "role": "Stable", "weight": 100, "bundle": f"file://{setting.folder}", "address": address}
        ],
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
        process(command, setting.work / "ray.log", PYTHONPATH=str(setting.work), RAY_USAGE_STATS_ENABLED="0")
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

        async def raw(image: bytes) -> bool:
            return bool(await asyncio.get_running_loop().run_in_executor(threads, predict, image))

        session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        ours = await posting(session, setting, {"fovea serve": f"http://127.0.0.1:{port}/v1/predict"})
        rows = await both_loads(setting, [*ours, Way("raw ONNX Runtime", raw)])
        cpu = [rows[f"full load: {name}"]["CPU ms"] for name in ("raw ONNX Runtime", "fovea serve")]
        p95 = [rows[f"one client: {name}"]["p95 ms"] for name in ("fovea serve", "raw ONNX Runtime")]
        rows["ratio"] |= {"per core": round(cpu[0] / cpu[1], 3), "added p95 ms": round(p95[0] - p95[1], 2)}
        return rows


async def ray_serve(setting: Setting) -> dict[str, dict[str, float]]:
    """Gateway and Ray Serve, against a minimal application on the same Ray Serve."""
    async with AsyncExitStack() as stack:
        minimal = {"import_path": "minimal_ray_app:app", "args": {"folder": str(setting.folder)}}
        applications = {"fovea": fovea_application(setting, INFERENCE), "minimal": minimal}
        address = await ray(stack, setting, applications)
        through = await gateway(stack, setting, "RayServe", f"{address}/fovea", INFERENCE)
        session = await stack.enter_async_context(client_session())
        urls = {"gateway + Ray Serve": f"{through}/v1/predict", "minimal Ray Serve": f"{address}/minimal"}
        return await both_loads(setting, await posting(session, setting, urls))


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

        async def plain(image: bytes) -> bool:
            tensor, geometry = preprocess(decode(image))
            given = InferInput("image", [1, *tensor.shape], "FP32")
            given.set_data_from_numpy(tensor[None])
            result = await client.infer("model", [given], outputs=outputs)
            arrays = {name: result.as_numpy(name) for name in postprocess.outputs}
            (prediction,) = postprocess(arrays, [geometry], confidence=postprocess.confidence_threshold)
            json.dumps(prediction.above(0.5).to_dict(manifest.classes))
            return True

        session = await stack.enter_async_context(client_session())
        ours = await posting(session, setting, {"gateway + Triton": f"{through}/v1/predict"})
        return await both_loads(setting, [*ours, Way("plain Triton", plain)])


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
                    async def decode_request(self, request: Request): return await request.body()
                    def batch(self, inputs): return list(inputs)
                    def unbatch(self, output): return output
                    def predict(self, images): return self.predictor.predict(images)
                    async def encode_response(self, output): return output.to_dict(self.classes)

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
        return await both_loads(setting, await posting(session, setting, urls))


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
        return table(await turn_about(setting, ways, CLIENTS), "full load: ")


async def overload(setting: Setting) -> dict[str, dict[str, float]]:
    """Twice as many clients as one second of work: what is refused, and how long the answered ones wait."""
    async with AsyncExitStack() as stack:
        address = await triton(stack, setting, INFERENCE)
        inference = {**INFERENCE, "timeoutSeconds": 1}
        through = await gateway(stack, setting, "Triton", address, inference)
        session = await stack.enter_async_context(client_session())
        way = await posting(session, setting, {"gateway + Triton": f"{through}/v1/predict"})
        full = table(await turn_about(setting, way, CLIENTS), "full load: ")
        rate = next(iter(full.values()))["answers/s"]
        return full | table(await turn_about(setting, way, max(CLIENTS, round(2 * rate))), "twice what it can: ")


CASES = {
    "local": local,
    "ray_serve": ray_serve,
    "triton": triton_case,
    "litserve": litserve,
    "batching": batching,
    "overload": overload,
}


async def posting(session: aiohttp.ClientSession, setting: Setting, urls: Mapping[str, str]) -> list[Way]:
    """Ways that post image bytes to addresses, once all of them answer."""

    async def answers(url: str) -> bool:
        async with session.post(url, data=setting.images[0], headers={"content-type": "image/jpeg"}) as response:
            return response.status == 200

    for name, url in urls.items():
        await until(partial(answers, url), name)
    return [Way(name, post(session, url)) for name, url in urls.items()]


async def both_loads(setting: Setting, ways: Sequence[Way]) -> dict[str, dict[str, float]]:
    """Full load for throughput, one client for what is added to the latency of a request."""
    full = await turn_about(setting, ways, CLIENTS)
    single = await turn_about(setting, ways, 1)
    rows = table(full, "full load: ") | table(single, "one client: ")
    ours, theirs = (way.name for way in ways)
    rates = [a / b for a, b in zip(full[ours].rates, full[theirs].rates, strict=True) if b]
    added = np.median(single[ours].latencies) - np.median(single[theirs].latencies)
    added_cpu = statistics.median(full[ours].cpu) - statistics.median(full[theirs].cpu)
    rows["ratio"] = {
        "throughput": round(statistics.median(rates), 3),
        "added ms": round(float(added) * 1000, 2),
        "added CPU ms": round(added_cpu * 1000, 2),
    }
    return rows


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
    results = {}
    with tempfile.TemporaryDirectory(prefix="fovea-benchmark-") as work:
        for name in given.case or CASES:
            setting = Setting(given.bundle.resolve(), images, given.seconds, given.rounds, Path(work))
            results[name] = asyncio.run(CASES[name](setting))
            print(f"\n{name}")
            for row, values in results[name].items():
                print(f"  {row:34}", *(f"{key} {value:<9g}" for key, value in values.items()), flush=True)
            if given.json:
                given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
