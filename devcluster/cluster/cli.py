"""devcluster up|down|status|kubeconfig|build|images|load"""

import argparse
import sys

from . import build, controlplane
from .settings import CLUSTER, CONTROL_PLANE
from .shell import Failure, say


def main() -> int:
    parser = argparse.ArgumentParser(prog="devcluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up")
    up.add_argument("--control-plane", action="store_true")
    down = commands.add_parser("down")
    down.add_argument("--control-plane", action="store_true")
    down.add_argument("--purge", action="store_true")
    kc = commands.add_parser("kubeconfig")
    kc.add_argument("--control-plane", action="store_true")
    b = commands.add_parser("build")
    b.add_argument("programs", nargs="*")
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                controlplane.up()
            case "down":
                controlplane.down(arguments.purge)
            case "kubeconfig":
                print((CONTROL_PLANE if arguments.control_plane else CLUSTER).kubeconfig())
            case "build":
                build.build(*(arguments.programs or build.ALL))
    except Failure as failure:
        print(f"devcluster: {failure}", file=sys.stderr)
        return 1
    return 0
