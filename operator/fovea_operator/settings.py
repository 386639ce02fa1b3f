"""Every limit, default and timeout of the operator: one named setting each, with its unit and its reason."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from fovea_api.errors import InvalidInput

ENV_PREFIX = "FOVEA_OPERATOR_"


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator. Each is a flag `--name-in-kebab` or a variable `FOVEA_OPERATOR_NAME`."""

    # Where to look
    namespaces: str = _setting("", "Namespaces to serve, comma-separated. Empty: all of the cluster.")
    resync_seconds: float = _setting(
        600.0, "Seconds between full listings. They prune what a lost watch left behind; each costs a read a kind."
    )
    relist_delay_seconds: float = _setting(
        5.0, "Seconds after a relist by the watch until its kind is listed and pruned; joins a burst into one."
    )

    # The queue
    workers: int = _setting(8, "Reconciles at the same time. They wait for the API server, not for a CPU.")
    backoff_first_seconds: float = _setting(0.5, "Seconds until a failed reconcile is tried again.")
    backoff_max_seconds: float = _setting(120.0, "Longest pause in seconds; each failure doubles the pause.")
    backoff_jitter: float = _setting(0.2, "Random share added to a pause, so that retries do not come in step.")
    stuck_seconds: float = _setting(
        600.0, "Seconds that one reconcile may take before /healthz fails, so that the kubelet starts us anew."
    )
    reference_poll_seconds: float = _setting(
        15.0, "Seconds between looks for what is not watched: a missing Secret or claim, why a child gets no pods."
    )
    deletion_poll_seconds: float = _setting(
        3.0, "Seconds between looks whether a child that is being deleted is deleted; the watch reports it sooner."
    )
    scheduling_grace_seconds: float = _setting(
        10.0,
        "Seconds that a child may have no pods, or a pod no containers, before the events that say why are read.",
    )

    # The API server
    request_timeout_seconds: float = _setting(30.0, "Seconds that one request may take.")
    watch_seconds: int = _setting(
        300, "Seconds after which a watch is opened anew; a connection that died silently is noticed so."
    )

    # Leader election
    leader_election: bool = _setting(True, "Whether a Lease decides which replica works.")
    lease_name: str = _setting("fovea-operator", "Name of the Lease.")
    lease_namespace: str = _setting("fovea-system", "Namespace of the Lease: that of the operator.")
    lease_seconds: int = _setting(15, "Seconds after which a silent leader is replaced; Kubernetes' own value.")
    lease_renew_deadline_seconds: int = _setting(
        10, "Seconds after which a leader that cannot renew stops; shorter than the lease, so two never work."
    )
    lease_retry_seconds: float = _setting(2.0, "Seconds between two tries to get or renew the Lease.")

    # Runs
    trainer_image: str = _setting("fovea/trainer:latest", "Image of runs whose object names none.")
    image_pull_policy: str = _setting("IfNotPresent", "Pull policy of run pods.")
    ray_version: str = _setting("2.60.0", "Ray version in the trainer image; KubeRay chooses its behaviour by it.")
    tensorrt_image: str = _setting(
        "", "Image with TensorRT that builds engines, where the TrainingJob names none. Empty: there is none."
    )
    store: str = _setting("", "Root URI of the store; `/<namespace>` is added. Empty: namespaces must say theirs.")
    store_secret: str = _setting("", "Secret with the store's credentials in each namespace. Empty: none.")
    queue_name: str = _setting(
        "", "Kueue LocalQueue of runs whose object names none; one in each namespace. Empty: none."
    )
    cluster_role: str = _setting("fovea-run", "ClusterRole that the ServiceAccount of runs is bound to.")
    run_user: int = _setting(1000, "User and group id of run pods; the images are built for it. 0: the image's own.")
    work_dir_size: str = _setting(
        "50Gi", "Size limit of the local cache of a run's pod, and of what a source's program writes; a quantity."
    )
    termination_grace_seconds: int = _setting(
        60, "Seconds that a stopped pod has to end and to copy its log before it is killed."
    )
    submitter_cpu: str = _setting("100m", "CPU request of the pod that submits a Ray job; it only follows a log.")
    submitter_memory: str = _setting("256Mi", "Memory request of the pod that submits a Ray job.")
    submitter_memory_limit: str = _setting("1Gi", "Memory limit of the pod that submits a Ray job.")
    retry_first_seconds: float = _setting(10.0, "Seconds between a failed attempt and the next.")
    retry_max_seconds: float = _setting(300.0, "Longest pause in seconds between attempts; each failure doubles it.")
    blocked_retry_max_seconds: float = _setting(
        900.0, "Longest pause in seconds while the infrastructure is at fault; each attempt in a row doubles it."
    )
    exit_grace_seconds: float = _setting(
        120.0, "Seconds that a child may go on after its run has reported a result or an error, until it is stopped."
    )
    disruption_window_seconds: float = _setting(
        600.0,
        "Seconds after the cluster took a pod away in which a failure is put down to that; longer than NCCL's timeout.",
    )
    preemptions_in_vain: int = _setting(
        10, "Attempts in a row that the cluster takes away before their first checkpoint, until the run fails."
    )
    oom_attempts: int = _setting(2, "Attempts that may run out of memory at one and the same limit.")
    pre_running_seconds: int = _setting(
        0, "Seconds in which a Ray cluster must come up before its attempt fails. 0: it may wait for nodes forever."
    )
    elastic_sweeps: bool = _setting(
        False,
        "Whether Ray brings and removes a TuningSweep's workers; in a queue by Kueue's ElasticJobsViaWorkloadSlices.",
    )

    # Serving
    serving_image: str = _setting(
        "fovea/serving:latest", "Image of gateways and of Ray Serve, where the deployment names none."
    )
    triton_image: str = _setting("fovea/triton:latest", "Image of Triton, where the deployment names none.")
    gateway_replicas: int = _setting(2, "Gateway pods of a deployment; with two, none is missed while one is replaced.")
    gateway_cpu: str = _setting("100m", "CPU request of a gateway pod.")
    gateway_memory: str = _setting("256Mi", "Memory request of a gateway pod.")
    gateway_memory_limit: str = _setting("1Gi", "Memory limit of a gateway pod; images are decoded within it.")
    ray_head_cpu: str = _setting("200m", "CPU request of the Ray head of a deployment; it serves nothing itself.")
    ray_head_memory: str = _setting("1Gi", "Memory request of the Ray head of a deployment.")
    ray_head_memory_limit: str = _setting("2Gi", "Memory limit of the Ray head of a deployment.")
    ray_autoscaler_cpu: str = _setting("50m", "CPU request of Ray's autoscaler, beside the head.")
    ray_autoscaler_memory: str = _setting("256Mi", "Memory request of Ray's autoscaler.")
    ray_autoscaler_memory_limit: str = _setting("512Mi", "Memory limit of Ray's autoscaler.")
    ray_idle_seconds: int = _setting(
        60, "Seconds until a Ray pod that no replica or trial needs any more is given back."
    )
    redis_address: str = _setting(
        "", "host:port of the Redis in which Ray heads keep their state, so that serving outlives one. Empty: none."
    )
    redis_secret: str = _setting("", "Secret in each namespace with Redis' password under `password`. Empty: none.")
    cpu_utilization: int = _setting(70, "Per cent of its CPU request that Triton's autoscaling aims at.")
    switch_grace_seconds: float = _setting(
        30.0, "Seconds until gateways that cannot be asked are taken to have followed a switch; a watch is faster."
    )
    metrics_seconds: float = _setting(10.0, "Seconds between two looks at what the gateways measure.")
    metrics_window_seconds: float = _setting(
        120.0, "Seconds over which rates and quantiles are taken; short enough to show trouble, long enough to count."
    )
    prometheus: str = _setting("", "Address of a Prometheus that scrapes the gateways. Empty: they are asked.")
    route_scheme: str = _setting("https", "Scheme of URLs behind a Gateway, whose listeners are not read.")

    cleanup_delay_seconds: float = _setting(
        60.0,
        "Seconds from an object's deletion, or a cleanup's creation, to the deletion of data; longer than any write.",
    )
    cleanup_cpu: str = _setting("100m", "CPU request of the pod that deletes from the store; it waits for the store.")
    cleanup_memory: str = _setting("512Mi", "Memory request and limit of the pod that deletes from the store.")

    # Seeing
    port: int = _setting(8080, "TCP port of /healthz, /readyz and /metrics. 0: any free one.")
    log_level: str = _setting("INFO", "DEBUG, INFO, WARNING or ERROR.")
    log_format: str = _setting("json", "json, or text for people.")

    @property
    def namespace_list(self) -> tuple[str, ...]:
        """The namespaces to serve; empty for all."""
        return tuple(name for name in (part.strip() for part in self.namespaces.split(",")) if name)

    @classmethod
    def read(cls, args: Sequence[str] = (), environ: Mapping[str, str] | None = None) -> Settings:
        """From flags, then from the environment, then defaults. Raises InvalidInput with the setting's name."""
        environ = os.environ if environ is None else environ
        parser = argparse.ArgumentParser("fovea operator", description="Runs the operator.")
        for item in fields(cls):
            parser.add_argument(
                f"--{item.name.replace('_', '-')}", metavar="VALUE", help=f"{item.metadata['help']} [{item.default}]"
            )
        given = {name: value for name, value in vars(parser.parse_args(list(args))).items() if value is not None}
        types = get_type_hints(cls)
        values: dict[str, Any] = {}
        for item in fields(cls):
            variable = ENV_PREFIX + item.name.upper()
            text = given.get(item.name, environ.get(variable))
            if text is not None:
                values[item.name] = _parse(text, types[item.name], f"--{item.name.replace('_', '-')} ({variable})")
        return cls(**values)


def _parse(text: str, type_: type, variable: str) -> Any:
    try:
        if type_ is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return type_(text)
    except (ValueError, KeyError):
        raise InvalidInput(f"{text!r} is not a value of type {type_.__name__}", variable) from None
