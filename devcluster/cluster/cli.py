"""The command line."""

import argparse
import os
import sys

from . import build, cluster, controlplane, images
from .settings import CLUSTER, CONTROL_PLANE
from .shell import Failure


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A real Kubernetes on one Debian machine, without Docker."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    alone = "--control-plane", "etcd, API server and controller manager alone, on loopback: no root, no nodes, seconds"
    up = command("up", "Build what is missing, start what is not running, repair what a crash left.")
    up.add_argument(alone[0], action="store_true", help=alone[1])
    up.add_argument("--with-kueue", action="store_true", help="install Kueue too")
    down = command("down", "Stop exactly what up started.")
    down.add_argument(alone[0], action="store_true", help=alone[1])
    down.add_argument(
        "--purge", action="store_true", help="delete the cluster's state too: objects, volumes, S3, loaded images"
    )
    command("status", "Show what runs, and how to use it.")
    kubeconfig = command("kubeconfig", "Print the path of the administrator's kubeconfig.")
    kubeconfig.add_argument(alone[0], action="store_true", help=alone[1])
    programs = command("build", "Build programs from their pinned Go modules.")
    programs.add_argument("names", nargs="*", metavar="PROGRAM", help=f"default: {' '.join(build.ALL)}")
    default_images = " ".join(images.DEFAULT)
    for name, text, default in (
        ("images", "Build images with buildah.", default_images),
        ("load", "Load built images into the running cluster.", f"those of {default_images} that are built"),
    ):
        command(name, text).add_argument("names", nargs="*", metavar="IMAGE", help=f"default: {default}")
    arguments = parser.parse_args()
    try:
        return run(arguments)
    except Failure as failure:
        print(f"devcluster: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `devcluster status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "up" if arguments.control_plane:
            controlplane.up()
        case "up":
            cluster.up(arguments.with_kueue)
        case "down" if arguments.control_plane:
            controlplane.down(arguments.purge)
        case "down":
            cluster.down(arguments.purge)
        case "status":
            return cluster.status()
        case "kubeconfig":
            print((CONTROL_PLANE if arguments.control_plane else CLUSTER).kubeconfig())
        case "build":
            build.build(*(arguments.names or build.ALL))
        case "images":
            images.make(*(arguments.names or images.DEFAULT))
        case "load":
            cluster.load(*arguments.names)
    return 0
